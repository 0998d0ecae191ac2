"""The facts of a model from the heads of its GGUF files, by the rules of llama.cpp.

Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and of llama.cpp's
`src/llama-arch.cpp`; which layers keep a window stands in its `src/llama-model.cpp`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gpustack_fast.sizing.bounds import within_bounds
from gpustack_fast.sizing.documents import ModelFacts
from gpustack_fast.sizing.errors import FactsError
from gpustack_fast.sizing.fields import Fields
from gpustack_fast.sizing.gguf import Head, Listed
from gpustack_fast.sizing.layers import MOST_LAYERS

__all__ = ["facts_of_gguf"]

_FLOAT16 = 2.0
"""Bytes: llama.cpp keeps keys and values so, unless it is told otherwise."""
_FLOAT32 = 4
"""Of one value of a state."""

_FILE_TYPES = {
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}
"""llama.cpp's `llama_ftype`; those that are not here are not quantised."""

_PATTERNS = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
}
"""One layer of so many keeps every token, the last of them."""
_READERS = (
    "bert",
    "modern-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "t5encoder",
    "gemma-embedding",
    "clip",
)
"""Architectures that write nothing."""
_RECURRENT = ("mamba", "mamba2", "rwkv6", "rwkv7", "arwkv7", "rwkv6qwen2")


@dataclasses.dataclass(frozen=True)
class _Kept:
    """Values of one token, or of one sequence, in all layers."""

    whole: int
    narrow: int
    full_layers: int
    window_layers: int
    state: int


def facts_of_gguf(head: Head, weight_bytes: int, parameters: int, where: str) -> ModelFacts:
    """`head`: of the file, or of the first part of several. `weight_bytes` and `parameters`: of
    all parts.

    Raises FactsError without the fields that every model has.
    """
    metadata = dict(head.metadata)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise FactsError(
            f"{where} does not name an architecture (general.architecture), so it may hold no "
            "model. Name the file of a model, or the first part of one."
        )
    prefix = f"{architecture}."
    fields = Fields(
        {
            name.removeprefix(prefix): value
            for name, value in metadata.items()
            if name.startswith(prefix)
        },
        where,
    )
    layers = fields.count("block_count", largest=MOST_LAYERS)
    hidden = fields.count("embedding_length", largest=1 << 24)
    if not layers or not hidden:
        raise FactsError(
            f"{where} does not say how many layers its model has ({prefix}block_count) and how "
            "wide they are, so it may be a part of one: name the first part, or fetch it again."
        )
    kept = _kept(fields, architecture, layers, hidden)
    heads = fields.count("attention.head_count", largest=1 << 16)
    file_type = metadata.get("general.file_type")
    window = fields.count("attention.sliding_window") if kept.window_layers else 0
    facts = ModelFacts(
        architecture=architecture[:200],
        format="gguf",
        generates=architecture not in _READERS and not fields.has("pooling_type"),
        weight_bytes=weight_bytes,
        parameters=parameters,
        dtype_bytes=_FLOAT16,
        quantization=_FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        layers=layers,
        heads=heads,
        kv_heads=max(_pairs(fields, layers)),
        vocabulary=_vocabulary(fields, metadata.get("tokenizer.ggml.tokens")),
        hidden=hidden,
        context=fields.count("context_length"),
        experts=fields.count("expert_count", largest=1 << 16),
        kv_bytes_per_token=kept.whole * _FLOAT16,
        kv_splits_by_heads=not fields.has("attention.kv_lora_rank"),
        kv_window_bytes_per_token=kept.narrow * _FLOAT16,
        window=window,
        window_layers=kept.window_layers,
        full_layers=kept.full_layers,
        state_bytes=kept.state * _FLOAT32,
    )
    return within_bounds(facts, where)


def _vocabulary(fields: Fields, tokens: object) -> int:
    if isinstance(tokens, Listed):
        return min(tokens.length, 1 << 28)
    if isinstance(tokens, list):
        return len(tokens)
    return fields.count("vocab_size", largest=1 << 28)


def _pairs(fields: Fields, layers: int) -> list[int]:
    """The heads of keys and values, layer by layer."""
    each = fields.numbers("attention.head_count_kv")
    if len(each) == layers:
        return [min(one, 1 << 16) for one in each]
    heads = fields.count("attention.head_count", largest=1 << 16)
    return [fields.count("attention.head_count_kv", default=heads, largest=1 << 16)] * layers


def _kept(fields: Fields, architecture: str, layers: int, hidden: int) -> _Kept:
    if architecture in _READERS:
        return _Kept(0, 0, 0, 0, 0)
    pairs = _pairs(fields, layers)
    if architecture in _RECURRENT:
        pairs = [0] * layers
    elif every := fields.count("full_attention_interval", largest=MOST_LAYERS):
        pairs = [one if (index + 1) % every == 0 else 0 for index, one in enumerate(pairs)]
    shared = fields.count("attention.shared_kv_layers", largest=layers)
    own = layers - shared
    narrow = _narrow(fields, architecture, layers)
    wide, small = _width(fields, hidden, ""), _width(fields, hidden, "_swa")
    latent = fields.count("attention.kv_lora_rank", largest=1 << 24)
    if latent:
        latent += fields.count("rope.dimension_count", default=64, largest=1 << 24)
    full = [pairs[index] for index in range(own) if pairs[index] and not narrow[index]]
    window = [pairs[index] for index in range(own) if pairs[index] and narrow[index]]
    states = sum(not one for one in pairs[:own])
    return _Kept(
        len(full) * latent if latent else sum(full) * wide,
        sum(window) * small,
        len(full),
        len(window),
        states * _state(fields, hidden),
    )


def _narrow(fields: Fields, architecture: str, layers: int) -> Sequence[bool]:
    """Whether a layer keeps a window alone."""
    if not fields.count("attention.sliding_window"):
        return [False] * layers
    each = fields.content.get("attention.sliding_window_pattern")
    if isinstance(each, list) and len(each) == layers:
        return [bool(one) for one in each]
    pattern = _PATTERNS.get(architecture, 0)
    if type(each) is int and 0 < each <= MOST_LAYERS:
        pattern = each
    return [pattern > 0 and index % pattern < pattern - 1 for index in range(layers)]


def _width(fields: Fields, hidden: int, suffix: str) -> int:
    """Values of one head's key and value."""
    heads = fields.count("attention.head_count", largest=1 << 16)
    plain = hidden // heads if heads else 0
    key = fields.count(
        f"attention.key_length{suffix}", "attention.key_length", default=plain, largest=1 << 24
    )
    value = fields.count(
        f"attention.value_length{suffix}", "attention.value_length", default=plain, largest=1 << 24
    )
    return key + value


def _state(fields: Fields, hidden: int) -> int:
    """Values that one recurrent layer keeps of a sequence."""
    if cached := fields.count("shortconv.l_cache", largest=1 << 16):
        return (cached - 1) * hidden
    if head := fields.count("wkv.head_size", largest=1 << 16):
        return hidden * (head + 2)
    inner = fields.count("ssm.inner_size", largest=1 << 24)
    state = fields.count("ssm.state_size", largest=1 << 24)
    groups = fields.count("ssm.group_count", largest=1 << 16)
    kernel = fields.count("ssm.conv_kernel", largest=1 << 16)
    return max(0, kernel - 1) * (inner + 2 * groups * state) + inner * state
