"""vLLM-Omni: vLLM with pictures and speech, from an environment of the user's.

Nothing here was run. It is `vllm serve --omni`, so that flags, memory and log are vLLM's; the paths
of both are in `vllm`, read in the wheel of 0.30.0. It listens on a port of loopback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from gpustack_fast.backends import vllm, vllm_memory
from gpustack_fast.backends.base import Backend, BackendError, Command, Engine, Model, Place
from gpustack_fast.backends.demand import Demand
from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.backends.files import files_of
from gpustack_fast.backends.vllm_flags import Serve
from gpustack_fast.backends.vllm_log import CAUSES, STAGES
from gpustack_fast.sizing.documents import ModelFacts

__all__ = ["ENGINE"]


def _serve(model: Model) -> Serve:
    """Its versions are its own: which flags one knows, nobody knows here."""
    return Serve(model, "")


def check(model: Model) -> Iterator[tuple[int, str]]:
    """Every flag that the server decides."""
    return _serve(model).problems()


def command(model: Model, place: Place) -> Command:
    """The command line for one instance of `model`."""
    serve = _serve(model)
    for _, problem in serve.problems():
        raise BackendError(problem)
    if place.port is None:
        raise BackendError(f"The engine of the model {model.name} has no port to listen at.")
    arguments = [
        str(place.python),
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        files_of(model, place),
        "--omni",
        "--host=127.0.0.1",
        f"--port={place.port}",
        f"--served-model-name={model.name}",
        *(flag for flag in serve.flags(place) if flag != "--omni"),
    ]
    return Command(arguments=arguments, environment=serve.environment(place))


def demands(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
    """As `Backend.demands`, by vLLM's rules."""
    return vllm_memory.demands(model, facts, count, _serve(model).given)


def facts_for(model: Model) -> EngineFacts:
    """As vLLM's of the same environment."""
    paths = (model.local_path,) if model.local_path else ()
    return dataclasses.replace(vllm.facts(model.env), redacted_names=paths)


ENGINE = Engine(
    name="vllm_omni",
    facts=vllm.FACTS,
    facts_for=facts_for,
    backend=Backend(
        name="vllm_omni",
        sources=("huggingface", "model_scope", "local_path"),
        check=check,
        variables=vllm.VARIABLES,
        command=command,
        demands=demands,
        environment="users",
        ready_path="/health",
        over_tcp=True,
        stages=STAGES,
        causes=CAUSES,
        stop_grace=30.0,
    ),
)
