"""SGLang: `sglang.launch_server` on a port of loopback, from an environment of the user's.

Nothing here was run. The paths are those of `entrypoints/http_server.py` in the wheel of 0.5.23,
the flags those of its public documents (docs.sglang.io, Server Arguments).

* A key would have to stand in its argument list, which every user of the machine can read: it gets
  none, and listens on loopback alone.
* While it starts, `/health` gives 503; then it makes a token, unless it is busy.
* Its share of a GPU's memory (`--mem-fraction-static`) is that of weights and KV cache together,
  without what it computes with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from gpustack_fast import sizing
from gpustack_fast.backends.base import (
    Backend,
    BackendError,
    Command,
    Engine,
    Model,
    Place,
    Progress,
    Sign,
)
from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.backends.files import files_of
from gpustack_fast.backends.flags import Flag, FlagTable
from gpustack_fast.backends.parallel import claim, shape_given, shapes, visible, whole
from gpustack_fast.sizing.documents import Load, ModelFacts

__all__ = ["ENGINE"]

_NAMES = (
    "--model-path --model",
    "--host",
    "--port",
    "--served-model-name",
    "--api-key",
    "--admin-api-key",
    "--fastapi-root-path",
    "--config",
    "--base-gpu-id",
    "--nnodes",
    "--node-rank",
    "--dist-init-addr --nccl-init-addr",
    "--tp-size --tensor-parallel-size --tp",
    "--pp-size --pipeline-parallel-size --pp",
    "--dp-size --data-parallel-size --dp",
    "--mem-fraction-static",
    "--context-length",
    "--lora-paths",
    "--max-loras-per-batch",
)
_SWITCHES = (
    "--is-embedding",
    "--enable-metrics",
    "--enable-cache-report",
    "--grpc-mode",
    "--enable-dp-attention",
)
_FLAGS: dict[str, Flag] = {
    **{
        name: Flag(name=names.split()[0], values="*" if "lora-paths" in names else "1")
        for names in _NAMES
        for name in names.split()
    },
    **{name: Flag(name=name, values="0") for name in _SWITCHES},
}
_TABLE = FlagTable(["0.5"], _FLAGS, {})
"""Not all of its flags, but those that mean something here."""

_ALONE = "an instance runs on one machine, behind one address. Remove it"
OURS = {
    "--host": "the server itself decides where it listens. Remove it",
    "--port": "the server itself decides where it listens. Remove it",
    "--fastapi-root-path": "the server itself decides where it listens. Remove it",
    "--model-path": "what it loads follows from the model's source. Remove it",
    "--served-model-name": "the server calls it by the model's name. Remove it, and name a route "
    "under [[routes]] for another public name",
    "--api-key": "requests would not carry that key. Remove it",
    "--admin-api-key": "it would stand where every user of the machine can read it. Remove it",
    "--config": "what stands in that file cannot be seen here. Write its flags into "
    "backend_parameters",
    "--base-gpu-id": "the server chooses its GPUs. Write gpu_selector instead",
    "--grpc-mode": "this server speaks HTTP with it. Remove it",
    **dict.fromkeys(("--nnodes", "--node-rank", "--dist-init-addr"), _ALONE),
}
_PARALLEL = {"tensor": "--tp-size", "pipeline": "--pp-size", "data": "--dp-size"}
_FRACTION = "--mem-fraction-static"
_ACTIVATIONS = 0.9
"""The part of a claim that weights and KV cache get; the rest is what it computes with."""
_CONTEXT = 8192


def check(model: Model) -> Iterator[tuple[int, str]]:
    """Every flag that the server decides. Which others its version knows, nobody knows here."""
    for found in _TABLE.find(model.backend_parameters):
        if found.name in OURS:
            yield (
                found.index,
                f"The model {model.name} has wrong backend_parameters. {found.written} is not to "
                f"be set: {OURS[found.name]}.",
            )


def command(model: Model, place: Place) -> Command:
    """The command line for one instance of `model`."""
    for _, problem in check(model):
        raise BackendError(problem)
    if place.port is None:
        raise BackendError(f"The engine of the model {model.name} has no port to listen at.")
    given = _TABLE.given(model.backend_parameters)
    arguments = [
        str(place.python),
        "-m",
        "sglang.launch_server",
        f"--model-path={files_of(model, place)}",
        "--host=127.0.0.1",
        f"--port={place.port}",
        f"--served-model-name={model.name}",
        *(flag for flag in ("--enable-metrics", "--enable-cache-report") if flag not in given),
        *_ours(model, place, given),
        *_TABLE.spelt(model.backend_parameters),
    ]
    variables = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    variables |= visible(model, place)
    return Command(arguments=arguments, environment=variables)


def _ours(model: Model, place: Place, given: dict[str, str]) -> list[str]:
    """What follows from the model and its place, without what the user sets."""
    found: dict[str, str] = {}
    if not given.keys() & set(_PARALLEL.values()):
        sizes = {flag: getattr(place.shape, part) for part, flag in _PARALLEL.items()}
        found |= {flag: str(size) for flag, size in sizes.items() if size > 1}
    if place.facts is not None and place.facts.context > _CONTEXT:
        found["--context-length"] = str(_CONTEXT)
    if place.share is not None and place.devices:
        found[_FRACTION] = f"{place.share * _ACTIVATIONS:.4f}"
    flags = [f"{flag}={value}" for flag, value in found.items() if flag not in given]
    if "embedding" in model.categories and "llm" not in model.categories:
        flags += ["--is-embedding"] if "--is-embedding" not in given else []
    if place.adapters and "--lora-paths" not in given:
        flags += ["--lora-paths", *(f"{name}={path}" for name, path in place.adapters.items())]
        if "--max-loras-per-batch" not in given:
            flags.append(f"--max-loras-per-batch={len(place.adapters) + 1}")
    return flags


def demands(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
    """As `Backend.demands`."""
    given = _TABLE.given(model.backend_parameters)
    share = _share(model, given)
    found = []
    parts = _PARALLEL
    if "--enable-dp-attention" in given:  # its copies share the GPUs of the tensors
        parts = {part: flag for part, flag in _PARALLEL.items() if part != "data"}
    for shape in shapes(model, facts, count, shape_given(model, given, parts)):
        claimed = claim(model, shape)
        estimate = None
        if claimed is None:
            estimate = sizing.estimate(facts, _load(facts, shape, given))
            claimed = estimate.total
        found.append(
            Demand(shape=shape, least=claimed, share=share, tells_share=True, estimate=estimate)
        )
    return found


def _load(facts: ModelFacts, shape: Shape, given: dict[str, str]) -> Load:
    longest = min(facts.context or _CONTEXT, _CONTEXT)
    return Load(
        tensor=shape.tensor,
        pipeline=shape.pipeline,
        context=whole(given.get("--context-length")) or longest,
        sequences=8,
    )


def _share(model: Model, given: dict[str, str]) -> float | None:
    """The part of a GPU that the user's own fraction comes to. Raises BackendError."""
    if _FRACTION not in given:
        return None
    try:
        fraction = float(given[_FRACTION])
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise BackendError(
            f"The model {model.name} has {_FRACTION} {given[_FRACTION]} in backend_parameters. "
            "Write a number between 0 and 1."
        )
    return min(1.0, fraction / _ACTIVATIONS)


CAUSES = (
    Sign(
        text="CUDA out of memory",
        meaning="The memory of a GPU ran out. Set a smaller --mem-fraction-static in "
        "backend_parameters, or give the model more GPUs.",
    ),
    Sign(
        text="Not enough memory. Please try to increase --mem-fraction-static",
        meaning="The weights leave no room for the KV cache. Set a larger --mem-fraction-static "
        "in backend_parameters, or give the model more GPUs.",
    ),
    Sign(
        text="No module named",
        meaning="A package is missing in the environment of `python`. Install it there.",
    ),
)

FACTS = EngineFacts(
    dialects=("openai", "anthropic"),
    stream_usage=True,
    health_path="/health",
    admin_paths=(
        # It shows its arguments (API keys among them), its load, its weights.
        "/metrics",
        "/server_info",
        "/get_server_info",
        "/v1/loads",
        "/get_weights_by_name",
        "/weights_checker",
        "/list_external_corpora",
        "/get_remote_instance_transfer_engine_info",
        "/remote_instance_transfer_engine_info",
        "/get_hicache_l3_cache_layout",
        # They change it.
        "/flush_cache",
        "/hicache",
        "/add_external_corpus",
        "/remove_external_corpus",
        "/set_internal_state",
        "/set_trace_level",
        "/configure_logging",
        "/dumper",
        "/freeze_gc",
        "/slow_down",
        "/start_profile",
        "/stop_profile",
        "/start_expert_distribution_record",
        "/stop_expert_distribution_record",
        "/dump_expert_distribution_record",
        "/update_weights_from_disk",
        "/update_weights_from_tensor",
        "/update_weights_from_distributed",
        "/update_weights_from_ipc",
        "/update_weight_version",
        "/begin_weight_update",
        "/end_weight_update",
        "/init_weights_update_group",
        "/destroy_weights_update_group",
        "/init_weights_send_group_for_remote_instance",
        "/send_weights_to_remote_instance",
        "/release_memory_occupation",
        "/resume_memory_occupation",
        "/pause_generation",
        "/continue_generation",
        "/pd_role_switch",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
        "/load_lora_adapter",
        "/load_lora_adapter_from_tensors",
        "/unload_lora_adapter",
        # They belong to all of its clients at once.
        "/abort_request",
        "/open_session",
        "/close_session",
        "/v1/responses",
    ),
    cancel_lag=4.0,  # it looks every 4 s whether the client of a whole response is still there
)


def facts_for(model: Model) -> EngineFacts:
    """With the folder that one of ours has loaded, which no client may see."""
    if model.backend != "sglang":
        return FACTS
    paths = (model.local_path,) if model.local_path else ()
    return dataclasses.replace(FACTS, redacted_names=paths)


ENGINE = Engine(
    name="sglang",
    facts=FACTS,
    facts_for=facts_for,
    backend=Backend(
        name="sglang",
        sources=("huggingface", "model_scope", "local_path"),
        check=check,
        variables=("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
        command=command,
        demands=demands,
        takes_adapters=True,
        environment="users",
        ready_path="/health",
        over_tcp=True,
        causes=CAUSES,
        progress=Progress(
            path="/metrics",
            running="sglang:num_running_reqs",
            tokens=(
                "sglang:prompt_tokens_total",
                "sglang:generation_tokens_total",
                "sglang:token_usage",
            ),
        ),
        stop_grace=30.0,
    ),
)
