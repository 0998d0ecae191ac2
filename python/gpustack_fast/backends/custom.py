"""Any program: its command line is the user's, with GPUStack's placeholders.

    run_command = "my-server --model {{model_path}} --name {{model_name}} --port {{port}}"

It listens on loopback at a port that it is given. Of what it serves nothing is known, so that only
inference paths pass.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpustack_fast import sizing
from gpustack_fast.backends.base import Backend, BackendError, Command, Engine, Model, Place
from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.backends.files import files_of
from gpustack_fast.backends.parallel import VRAM_CLAIM, claim, shapes, visible
from gpustack_fast.sizing.documents import Load, ModelFacts

__all__ = ["ENGINE", "KEY"]

PLACEHOLDERS = ("model_path", "model_name", "port", "worker_ip", "gpu_count", "gpu_ids")
"""GPUStack's; beside them a model's own variables (`env`) by their names."""
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}", re.ASCII)
KEY = "ENGINE_API_KEY"
"""The variable with the key that requests of this server carry, for programs that ask for one."""
_HEALTH = "/health"
_HEALTH_VARIABLE = "GPUSTACK_MODEL_HEALTH_CHECK_PATH"
_HTTP_PATH = re.compile(r"/[!-\"$-~]*", re.ASCII)
"""Visible ASCII without `#`, as of `health_path`."""
_VARIABLES = (KEY, "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_CONTEXT = 8192


def check(_: Model) -> Iterator[tuple[int, str]]:
    """Whatever is in them, `backend_parameters` are the program's."""
    return iter(())


def check_fields(model: Model) -> Iterator[tuple[str, str]]:
    """The template can be read, and its placeholders are known."""
    if model.run_command is None:
        yield (
            "run_command",
            f"The model {model.name} has no run_command. Write the command line of its program, "
            'as in run_command = "my-server --model {{model_path}} --port {{port}}".',
        )
        return
    try:
        words = _words(model.run_command)
    except ValueError:
        yield (
            "run_command",
            f"The run_command of the model {model.name} has a quote that does not end. Correct it.",
        )
        return
    problem = _problem(model, words)
    if problem is not None:
        yield "run_command", f"The run_command of the model {model.name} {problem}"
    if model.health_path == "":
        yield (
            "health_path",
            f"The model {model.name} has an empty health_path, so that nobody would know when its "
            "program can serve. Name a path that gives 200 then, such as /v1/models.",
        )

    named = model.env.get(_HEALTH_VARIABLE) or _HEALTH
    if not _HTTP_PATH.fullmatch(named):
        yield (
            "env",
            f"The variable {_HEALTH_VARIABLE} of the model {model.name} is no path. Write one that "
            "begins with `/`, such as /health, or leave it out.",
        )


def _problem(model: Model, words: list[str]) -> str | None:
    if not words:
        return "is empty. Write the command line of its program."
    if any("\0" in word for word in words):
        return "holds a zero byte. Remove it."
    found = [name for word in words for name in _PLACEHOLDER.findall(word)]
    known = (*PLACEHOLDERS, *model.env)
    for name in found:
        if name not in known:
            listed = ", ".join(f"{{{{{one}}}}}" for one in PLACEHOLDERS)
            return (
                f"names {{{{{name}}}}}, which is not known. Write one of {listed}, or a variable "
                "of its env."
            )
    if "port" not in found:
        return "does not say where to listen. Add {{port}} where the program takes its port."
    return None


def command(model: Model, place: Place) -> Command:
    """The command line for one instance of `model`: split into words first, so that nothing that
    is put into it becomes a word of its own.
    """
    for _, problem in check_fields(model):
        raise BackendError(problem)
    if place.port is None:
        raise BackendError(f"The engine of the model {model.name} has no port to listen at.")
    words = _words(model.run_command or "")
    values = {
        **model.env,
        "model_path": files_of(model, place) if _names(model, "model_path") else "",
        "model_name": model.name,
        "port": str(place.port),
        "worker_ip": "127.0.0.1",
        "gpu_count": str(len(place.devices)),
        "gpu_ids": ",".join(place.devices),
    }
    variables = {KEY: place.key, **visible(model, place, slices=True)}
    if model.python is not None:
        # So that the programs of that environment are found by their names.
        variables["PATH"] = f"{Path(model.python).parent}:{_path(model)}"
    program, *arguments = [_filled(word, values) for word in words]
    found = shutil.which(program, path=variables.get("PATH", _path(model)))
    if found is None:
        raise BackendError(
            f"The program {program} of the model {model.name} is not there, or may not be run. "
            "Write its whole path in run_command."
        )
    return Command(
        arguments=[os.path.abspath(found), *arguments, *model.backend_parameters],
        environment=variables,
    )


def _names(model: Model, placeholder: str) -> bool:
    return placeholder in _PLACEHOLDER.findall(model.run_command or "")


def _words(template: str) -> list[str]:
    """The words of a command line, with placeholders whole. Raises ValueError."""
    return shlex.split(_PLACEHOLDER.sub(r"{{\1}}", template))


def _path(model: Model) -> str:
    return model.env.get("PATH", os.environ.get("PATH", os.defpath))


def _filled(word: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], word)


def demands(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
    """As `Backend.demands`. One GPU, unless the command says over how many it is divided."""
    if not facts.weight_bytes:
        return [_claimed(model)]
    found = []
    for shape in shapes(model, facts, count if _names(model, "gpu_count") else 1, None):
        claimed = claim(model, shape)
        if claimed is not None:
            found.append(Demand(shape=shape, least=claimed))
            continue
        estimate = sizing.estimate(facts, _load(facts, shape))
        found.append(Demand(shape=shape, least=estimate.total, estimate=estimate))
    return found


def _claimed(model: Model) -> Demand:
    """What the user says of a model whose files say nothing. Raises BackendError."""
    wanted = None if model.gpu_selector is None else model.gpu_selector.gpus_per_replica
    shape = Shape(tensor=wanted or 1)
    claimed = claim(model, shape)
    if claimed is None:
        raise BackendError(
            f"The files of the model {model.name} do not say what it takes of a GPU's memory. Say "
            f'so with env = {{ {VRAM_CLAIM} = "..." }} (bytes, of all its GPUs together).'
        )
    return Demand(shape=shape, least=claimed)


def _load(facts: ModelFacts, shape: Shape) -> Load:
    context = min(facts.context or _CONTEXT, _CONTEXT)
    return Load(tensor=shape.tensor, pipeline=shape.pipeline, context=context, sequences=8)


def ready_path(model: Model) -> str:
    """The model's own, else GPUStack's variable for it, else `/health`."""
    return model.health_path or model.env.get(_HEALTH_VARIABLE) or _HEALTH


FACTS = EngineFacts(
    dialects=("openai",),
    stream_usage=False,
    admin_paths=(),
    inference_paths_only=True,
    cancel_lag=1.0,
)


def facts_for(model: Model) -> EngineFacts:
    """With the file that it has loaded, which no client may see."""
    paths = (model.local_path,) if model.local_path else ()
    return dataclasses.replace(FACTS, redacted_names=paths)


ENGINE = Engine(
    name="custom",
    facts=FACTS,
    facts_for=facts_for,
    backend=Backend(
        name="custom",
        sources=("huggingface", "model_scope", "local_path"),
        check=check,
        check_fields=check_fields,
        variables=_VARIABLES,
        command=command,
        demands=demands,
        ready_path=_HEALTH,
        ready_path_for=ready_path,
        key_path=None,
        environment="none",
        any_files=True,
        takes_slices=True,
        over_tcp=True,
        leaves_session=True,  # nobody knows what it starts, such as MPI's daemons
    ),
)
