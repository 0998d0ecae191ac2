"""What a vLLM asks of its GPUs, reckoned from its flags before it is started.

vLLM takes `--gpu-memory-utilization` times the whole memory of each GPU, weights and all, and makes
its KV cache of what is left of that (v1/worker/utils.py and gpu_worker.py of 0.33.0). What its
process has of a GPU before it looks, CUDA's part and the buffers between GPUs, comes on top: it
does not start where the share is not free beside that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from gpustack_fast import sizing
from gpustack_fast.backends.base import BackendError, Model
from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.backends.parallel import claim, natural, shape_given, shapes
from gpustack_fast.sizing.documents import Estimate, Load, ModelFacts, Part

__all__ = ["PARALLEL", "UTILIZATION", "context_of", "demands", "is_readable", "kv_space"]

PARALLEL = {
    "tensor": "--tensor-parallel-size",
    "pipeline": "--pipeline-parallel-size",
    "data": "--data-parallel-size",
}
UTILIZATION = "--gpu-memory-utilization"
KV_BYTES = "--kv-cache-memory-bytes"
CONTEXT = "--max-model-len"
OFFLOAD = "--cpu-offload-gb"
BATCH = "--max-num-batched-tokens"
_NUMBERS = (CONTEXT, BATCH, KV_BYTES)

DEFAULT_CONTEXT = 8192
"""Tokens of a request at most where the model could take more and the user says nothing.

GPUStack's rule: the longest that a model was made for may take more memory than the weights.
"""
SEQUENCES = 8
"""Requests of the longest kind with room in the KV cache, where the user says nothing.

An engine with room for fewer still serves as many requests, as long as they are short.
"""
_SEQUENCES_MAX = 256
_MULTIPLES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_HUMAN = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)([kKmMgGtT]?)", re.ASCII)
_GIB = 2**30
_LARGEST_OFFLOAD = 10**6
"""GiB."""


def human(text: str | None) -> int | None:
    """A number as vLLM reads it: `32k` is 32,000, and `32K` 32,768. None: it is none."""
    found = _HUMAN.fullmatch((text or "").strip())
    if found is None:
        return None
    number, unit = found.groups()
    if unit in _MULTIPLES:
        return int(float(number) * _MULTIPLES[unit])
    return int(number) * _BINARY.get(unit, 1) if "." not in number else None


def is_readable(flag: str, text: str) -> bool:
    """Whether vLLM can read what was written for a flag, as far as its numbers go."""
    if flag == CONTEXT and text.strip().lower() in ("-1", "auto"):
        return True
    return flag not in _NUMBERS or bool(human(text))


def context_of(given: Mapping[str, str], facts: ModelFacts | None) -> int | None:
    """Tokens for --max-model-len by GPUStack's rule; None: the flag stays as it is."""
    if CONTEXT in given or facts is None or facts.context <= DEFAULT_CONTEXT:
        return None
    return DEFAULT_CONTEXT


def demands(model: Model, facts: ModelFacts, count: int, given: Mapping[str, str]) -> list[Demand]:
    """As `Backend.demands`, with the user's flags by their names: of each shape, room for as many
    requests as are asked for, and then for fewer, down to one. Raises BackendError.
    """
    share, most = _share(model, given), _sequences(model, given)
    offloaded = _offloaded(model, given)
    found = []
    for shape in shapes(model, facts, count, shape_given(model, given, PARALLEL)):
        claimed = claim(model, shape)
        beside = sizing.process_bytes(shape.tensor * shape.pipeline)
        if claimed is not None:
            found.append(
                Demand(shape=shape, least=claimed, share=share, tells_share=True, beside=beside)
            )
            continue
        # Who says the share himself gets all that is left of it as a KV cache.
        fixed = share is not None or KV_BYTES in given
        for sequences in [1] if fixed else _steps(most):
            estimate = sizing.estimate(facts, load(facts, shape, sequences, given))
            estimate = _with_cache(model, estimate, given)
            estimate = _without(estimate, offloaded, facts, shape.tensor)
            found.append(
                Demand(
                    shape=shape,
                    least=estimate.total,
                    share=share,
                    tells_share=True,
                    beside=beside,
                    estimate=estimate,
                )
            )
    return found


def load(facts: ModelFacts, shape: Shape, sequences: int, given: Mapping[str, str]) -> Load:
    """What the engine is asked to carry."""
    return Load(
        tensor=shape.tensor,
        pipeline=shape.pipeline,
        context=_context(given, facts),
        sequences=sequences,
        batched_tokens=human(given.get(BATCH)) or 8192,
        dtype_bytes=_dtype(given, facts),
        kv_dtype_bytes=_kv_dtype(given.get("--kv-cache-dtype", "auto")),
        weight_bytes=_weight_bytes(given, facts),
        graphs=given.get("--enforce-eager") != "true",
    )


def kv_space(facts: ModelFacts | None, given: Mapping[str, str]) -> int:
    """GiB of main memory for the KV cache of a vLLM that runs on the CPU."""
    if facts is None:
        return 4
    tokens = _context(given, facts) * SEQUENCES
    size = (facts.kv_bytes_per_token + facts.kv_window_bytes_per_token) * tokens
    return max(1, min(64, math.ceil((size + facts.state_bytes * SEQUENCES) / _GIB)))


def _context(given: Mapping[str, str], facts: ModelFacts) -> int:
    written = human(given.get(CONTEXT))
    return written or min(facts.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def _sequences(model: Model, given: Mapping[str, str]) -> int:
    flag = "--max-num-seqs"
    if flag in given:
        return min(natural(given[flag], flag, model), _SEQUENCES_MAX)
    return SEQUENCES


def _steps(most: int) -> list[int]:
    """`8, 2, 1`: few, for each is tried on every GPU."""
    steps = [most]
    while steps[-1] > 1:
        steps.append(max(1, steps[-1] // 4))
    return steps


def _share(model: Model, given: Mapping[str, str]) -> float | None:
    """The user's own --gpu-memory-utilization. Raises BackendError."""
    if UTILIZATION not in given:
        return None
    try:
        share = float(given[UTILIZATION])
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise BackendError(
            f"The model {model.name} has {UTILIZATION} {given[UTILIZATION]} in "
            "backend_parameters. Write a number above 0 and up to 1."
        )
    return share


def _with_cache(model: Model, estimate: Estimate, given: Mapping[str, str]) -> Estimate:
    """With the user's own size of the KV cache, if there is one. Raises BackendError."""
    if KV_BYTES not in given:
        return estimate
    size = human(given[KV_BYTES])
    if not size:
        raise BackendError(
            f"The model {model.name} has {KV_BYTES} {given[KV_BYTES]} in backend_parameters, which "
            "is no number of bytes. Correct it."
        )
    how = f"{KV_BYTES} in backend_parameters"
    return _changed(estimate, "kv_cache", lambda part: Part(name=part.name, bytes=size, how=how))


def _changed(estimate: Estimate, name: str, change: Callable[[Part], Part]) -> Estimate:
    parts = [change(part) if part.name == name else part for part in estimate.parts]
    return Estimate(parts=parts)


def _offloaded(model: Model, given: Mapping[str, str]) -> int:
    """Bytes of each GPU's weights that stay in main memory. Raises BackendError."""
    if OFFLOAD not in given:
        return 0
    try:
        size = float(given[OFFLOAD])
    except ValueError:
        size = math.nan
    if not 0 <= size <= _LARGEST_OFFLOAD:
        raise BackendError(
            f"The model {model.name} has {OFFLOAD} {given[OFFLOAD]} in backend_parameters. Write a "
            "number of GiB for each GPU, such as 8."
        )
    # vLLM then takes another way, or only some of the weights: how many, nobody knows here.
    others = ("--cpu-offload-params", "--offload-group-size", "--offload-backend")
    return 0 if any(flag in given for flag in others) else int(size * _GIB)


def _without(estimate: Estimate, offloaded: int, facts: ModelFacts, tensor: int) -> Estimate:
    """Without weights that stay in main memory: of layers alone, and not of the embeddings."""
    if not offloaded:
        return estimate
    kept = math.ceil(2 * facts.vocabulary * facts.hidden * facts.dtype_bytes / tensor)

    def less(part: Part) -> Part:
        here = max(min(kept, part.bytes), part.bytes - offloaded)
        how = f"{part.how}, without what {OFFLOAD} keeps in main memory"
        return Part(name=part.name, bytes=here, how=how)

    return _changed(estimate, "weights", less)


def _dtype(given: Mapping[str, str], facts: ModelFacts) -> float | None:
    """Bytes of one value of what it computes with; None: that of the model."""
    kind = given.get("--dtype", "auto")
    if kind in ("float32", "float"):
        return 4.0
    if kind in ("half", "float16", "bfloat16") or facts.dtype_bytes > 2:
        return 2.0  # `auto` takes 16 bits for 32
    return None


def _kv_dtype(name: str) -> float | None:
    """Bytes of one value in the KV cache; None: that of what it computes with."""
    if name.startswith(("fp8", "int8")):
        return 1.0
    if name.startswith(("int4", "nvfp4", "turboquant")):
        return 0.5
    return 2.0 if name in ("bfloat16", "float16") else None


def _weight_bytes(given: Mapping[str, str], facts: ModelFacts) -> int | None:
    """Bytes of all weights where vLLM changes their type at the load; None: as they are."""
    if facts.quantization or not facts.parameters:
        return None
    each = _dtype(given, facts)
    if given.get("--quantization", "").startswith("fp8"):
        # Not the embeddings of input and output.
        kept = min(facts.parameters, 2 * facts.vocabulary * facts.hidden)
        return round(facts.parameters + kept * ((each or facts.dtype_bytes) - 1))
    return None if each in (None, facts.dtype_bytes) else round(facts.parameters * each)
