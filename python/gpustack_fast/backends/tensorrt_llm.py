"""TensorRT-LLM: `trtllm-serve` on a port of loopback.

Nothing here was run, for its packages need an NVIDIA GPU even to read a command line. The options
are those of `commands/serve.py` (1.2 and a little later), read in the source, and so are the paths,
of `serve/openai_server.py`:

* It has no key, no Unix socket and no switch for idle connections, which it closes after 5 s.
* It calls the model by the last part of its path, and looks at no request's `model`. So its files
  are shown to it under the model's name. (`--served_model_name` came with 1.3.)
* Its share of a GPU's memory is of what is free once the weights are there, so that it would take
  what a neighbour was promised. A file of settings bounds the tokens of its KV cache instead.
* SIGTERM ends it when the last request has ended, however long that takes.
* `/health` can say 200 after a worker has died; `/health_generate` makes a token.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from gpustack_fast import sizing
from gpustack_fast.backends.base import (
    Backend,
    BackendError,
    Command,
    Engine,
    Model,
    Place,
    Sign,
    WarmUp,
)
from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.backends.files import files_of
from gpustack_fast.backends.flags import Flag, FlagTable
from gpustack_fast.backends.parallel import claim, natural, shape_given, shapes, visible, whole
from gpustack_fast.sizing.documents import Load, ModelFacts

__all__ = ["ENGINE", "OPTIONS"]

_SWITCHES = (
    "--trust_remote_code",
    "--fail_fast_on_attention_window_too_large",
    "--enable_chunked_prefill",
)
_VALUES = (
    "--tokenizer",
    "--custom_tokenizer",
    "--host",
    "--port",
    "--backend",
    "--custom_module_dirs",
    "--log_level",
    "--max_beam_width",
    "--max_batch_size",
    "--max_num_tokens",
    "--max_seq_len",
    "--tensor_parallel_size --tp_size",
    "--pipeline_parallel_size --pp_size",
    "--context_parallel_size --cp_size",
    "--moe_expert_parallel_size --ep_size",
    "--moe_cluster_parallel_size --cluster_size",
    "--gpus_per_node",
    "--free_gpu_memory_fraction --kv_cache_free_gpu_memory_fraction",
    "--num_postprocess_workers",
    "--revision",
    "--config --extra_llm_api_options",
    "--reasoning_parser",
    "--tool_parser",
    "--metadata_server_config_file",
    "--server_role",
    "--otlp_traces_endpoint",
    "--disagg_cluster_uri",
    "--media_io_kwargs",
    "--chat_template",
)
OPTIONS: dict[str, Flag] = {
    **{name: Flag(name=name, values="0") for name in _SWITCHES},
    **{
        name: Flag(name=names.split()[0], values="1") for names in _VALUES for name in names.split()
    },
}
"""Every option by each of its names."""
_TABLE = FlagTable(["1.2"], OPTIONS, {}, dashes="_")

OURS = {
    "--host": "the server itself decides where it listens. Remove it",
    "--port": "the server itself decides where it listens. Remove it",
    **dict.fromkeys(
        ("--metadata_server_config_file", "--server_role", "--disagg_cluster_uri"),
        "an instance serves by itself here. Remove it",
    ),
    "--gpus_per_node": "the server chooses its GPUs. Write gpu_selector instead",
}
_PARALLEL = {"tensor": "--tensor_parallel_size", "pipeline": "--pipeline_parallel_size"}
_CONFIG = "--config"
_FRACTION = "--free_gpu_memory_fraction"
_DEFAULT_FRACTION = 0.9
_CONTEXT = 8192
_SEQUENCES = 8
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def check(model: Model) -> Iterator[tuple[int, str]]:
    """Every option that the server decides, or that `trtllm-serve` does not know."""
    wrong: dict[int, str] = {}
    if model.backend_version in (None, "1.2.1") and model.python is None:
        wrong |= dict(_TABLE.problems(model.backend_parameters, "TensorRT-LLM", OURS))
    for found in _TABLE.find(model.backend_parameters):
        if found.name in OURS:
            wrong[found.index] = f"{found.written} is not to be set: {OURS[found.name]}."
    for index, problem in sorted(wrong.items()):
        yield index, f"The model {model.name} has wrong backend_parameters. {problem}"


def doubts(model: Model) -> Iterator[str]:
    """What runs is not what was read."""
    if model.backend_parameters and (model.python or model.backend_version not in (None, "1.2.1")):
        yield (
            f"The backend_parameters of the model {model.name} could not be checked: of "
            "TensorRT-LLM only the options of 1.2 are known here. Compare them with what "
            "`trtllm-serve serve --help` of its environment lists."
        )


def command(model: Model, place: Place) -> Command:
    """The command line for one instance of `model`."""
    for _, problem in check(model):
        raise BackendError(problem)
    if place.port is None:
        raise BackendError(f"The engine of the model {model.name} has no port to listen at.")
    given = _TABLE.given(model.backend_parameters)
    shown = place.folder / public_part(model)
    arguments = [
        str(place.python),
        "-m",
        "tensorrt_llm.commands.serve",
        "serve",
        str(shown),
        "--host=127.0.0.1",
        f"--port={place.port}",
    ]
    if not given.keys() & set(_PARALLEL.values()):
        sizes = {flag: getattr(place.shape, part) for part, flag in _PARALLEL.items()}
        arguments += [f"{flag}={size}" for flag, size in sizes.items() if size > 1]
    context = _context(given, place.facts)
    files = {}
    if "--max_seq_len" not in given and place.facts is not None and place.facts.context > context:
        arguments.append(f"--max_seq_len={context}")
    if not given.keys() & {_CONFIG, _FRACTION}:
        settings = place.folder / "settings.yaml"
        arguments.append(f"{_CONFIG}={settings}")
        files[settings] = _settings(context * _sequences(model, given))
    return Command(
        arguments=[*arguments, *_TABLE.spelt(model.backend_parameters)],
        environment=_environment(model, place),
        files=files,
        links={shown: Path(files_of(model, place))},
    )


def public_part(model: Model) -> str:
    """What it calls the model: a path has one last part, where a name may have several."""
    return model.name.rpartition("/")[2]


def _settings(tokens: int) -> str:
    """JSON, which is YAML, too. What stands there replaces all that options say of the cache."""
    cache = {"max_tokens": tokens, "free_gpu_memory_fraction": _DEFAULT_FRACTION}
    return json.dumps({"kv_cache_config": cache}, indent=1) + "\n"


def _environment(model: Model, place: Place) -> dict[str, str]:
    found = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
        # Else it keeps everybody's responses.
        "TRTLLM_RESPONSES_API_DISABLE_STORE": "1",
    }
    return found | visible(model, place)


def demands(model: Model, facts: ModelFacts, count: int) -> list[Demand]:
    """As `Backend.demands`. Where the user bounds the cache himself, a share of each GPU: it takes
    that of all that is free.
    """
    given = _TABLE.given(model.backend_parameters)
    share = _share(model, given)
    found = []
    for shape in shapes(model, facts, count, shape_given(model, given, _PARALLEL)):
        claimed = claim(model, shape)
        if claimed is not None:
            found.append(Demand(shape=shape, least=claimed, share=share))
            continue
        estimate = sizing.estimate(facts, _load(model, facts, shape, given))
        found.append(Demand(shape=shape, least=estimate.total, share=share, estimate=estimate))
    return found


def _load(model: Model, facts: ModelFacts, shape: Shape, given: dict[str, str]) -> Load:
    return Load(
        tensor=shape.tensor,
        pipeline=shape.pipeline,
        context=_context(given, facts),
        sequences=_sequences(model, given),
        batched_tokens=whole(given.get("--max_num_tokens")) or 8192,
    )


def _context(given: dict[str, str], facts: ModelFacts | None) -> int:
    longest = facts.context if facts is not None and facts.context else _CONTEXT
    return whole(given.get("--max_seq_len")) or min(longest, _CONTEXT)


def _sequences(model: Model, given: dict[str, str]) -> int:
    """Requests of the longest kind that the cache has room for."""
    flag = "--max_batch_size"
    return min(natural(given[flag], flag, model), 256) if flag in given else _SEQUENCES


def _share(model: Model, given: dict[str, str]) -> float | None:
    if _FRACTION not in given:
        return _DEFAULT_FRACTION if _CONFIG in given else None
    try:
        share = float(given[_FRACTION])
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise BackendError(
            f"The model {model.name} has {_FRACTION} {given[_FRACTION]} in backend_parameters. "
            "Write a number above 0 and up to 1."
        )
    return share


def warm_up(model: Model) -> WarmUp | None:
    """One token, which also shows that its workers are there."""
    body = {"model": public_part(model), "prompt": "Hi", "max_tokens": 1}
    return WarmUp(path="/v1/completions", body=body)


CAUSES = (
    Sign(
        text="CUDA out of memory",
        meaning="The memory of a GPU ran out. Set a smaller --max_batch_size or --max_seq_len in "
        "backend_parameters, or give the model more GPUs.",
    ),
    Sign(
        text="No GPU devices found on the node",
        meaning="It found no GPU. Look whether `gpustack-fast gpus` shows any.",
    ),
    Sign(
        text="Error: No such option",  # click's
        meaning="This version does not know an option in backend_parameters. Remove it.",
    ),
    Sign(
        text="Failed to bind socket",
        meaning="Another program listens where it should. Each start takes another place.",
    ),
    Sign(
        text="libmpi",
        meaning="There is no MPI. Install it (`libopenmpi-dev` or `openmpi-bin`).",
    ),
    Sign(
        text="Unknown architecture",
        meaning="This version does not know the model's architecture. Name a newer "
        "backend_version, or use `vllm`.",
    ),
)

FACTS = EngineFacts(
    dialects=("openai",),
    stream_usage=True,
    # It rejects members that it does not know, and its own name is `reasoning`.
    reasoning_names="reasoning",
    health_path="/health",
    admin_paths=(
        # Reading these empties them: they belong to whoever watches the engine.
        "/metrics",
        "/perf_metrics",
        "/energy_metrics",
        "/kv_cache_events",
        "/prometheus",
        # For training and for disaggregated serving.
        "/release_memory",
        "/resume_memory",
        "/update_weights",
        "/server_info",
        "/cluster_info",
        "/steady_clock_offset",
        "/v1/kv_cache_hints",
        "/v1/data_transceiver_state",
        # Its store of responses is on by default: everybody's can be read and deleted here.
        "/v1/responses",
        # So can everybody's videos.
        "/v1/videos",
    ),
    cancel_lag=1.0,  # it looks once a second whether the client is still there
)


def facts_for(model: Model) -> EngineFacts:
    """Ours calls the model by a part of its name."""
    if model.backend != "tensorrt_llm":
        return FACTS
    paths = (model.local_path,) if model.local_path else ()
    return dataclasses.replace(FACTS, served_name=public_part(model), redacted_names=paths)


ENGINE = Engine(
    name="tensorrt_llm",
    facts=FACTS,
    facts_for=facts_for,
    backend=Backend(
        name="tensorrt_llm",
        sources=("huggingface", "model_scope", "local_path"),
        check=check,
        doubts=doubts,
        variables=_VARIABLES,
        # MPI's daemon starts its workers, in a session of its own.
        leaves_session=True,
        command=command,
        demands=demands,
        ready_path="/health",
        warm_up=warm_up,
        over_tcp=True,
        causes=CAUSES,
        stop_grace=30.0,
    ),
)
