"""The layers of a model, one by one: what each keeps of a sequence, and how it feeds forward."""

from __future__ import annotations

import dataclasses
from typing import Literal

from gpustack_fast.sizing.errors import FactsError
from gpustack_fast.sizing.families import Family
from gpustack_fast.sizing.fields import Fields

__all__ = ["MOST_LAYERS", "Layer", "experts_of", "layers_of", "window_of"]

MOST_LAYERS = 4096
"""No model has more."""

Attention = Literal["none", "full", "window"]
FeedForward = Literal["none", "dense", "experts"]

_KINDS: dict[str, tuple[Attention, bool]] = {
    "attention": ("full", False),
    "full_attention": ("full", False),
    "global_attention": ("full", False),
    # vLLM keeps every token of Llama 4's chunks, unless it is told otherwise.
    "chunked_attention": ("full", False),
    "sliding_attention": ("window", False),
    "local_attention": ("window", False),
    "linear_attention": ("none", True),
    "mamba": ("none", True),
    "mamba2": ("none", True),
    "conv": ("none", True),
    "recurrent": ("none", True),
    "hybrid": ("full", True),
    "mlp": ("none", False),
    "moe": ("none", False),
}
"""The words of `layer_types` and its like: what attends, and whether a state goes with it."""

_NEMOTRON = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer."""

    attention: Attention
    """What of the keys and values it keeps."""
    recurrent: bool
    """Whether it keeps a state of constant size."""
    feed_forward: FeedForward


def layers_of(text: Fields, family: Family) -> list[Layer]:
    """The layers in their order. Raises FactsError when the file does not say how many there are.

    As in vLLM, what shares the keys and values of another layer keeps none of its own.
    """
    count = text.number(
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", largest=MOST_LAYERS
    )
    parts = text.texts("layers_block_type")
    if family.in_parts and (pattern := text.text("hybrid_override_pattern")):
        parts = [_NEMOTRON.get(letter, "mlp") for letter in pattern[:MOST_LAYERS]]
    if family.in_parts and parts:
        return [_part(one) for one in parts[: min(count or MOST_LAYERS, MOST_LAYERS)]]
    if not count:
        raise FactsError(
            f"{text.where} does not say how many layers the model has (num_hidden_layers), so its "
            "memory cannot be reckoned. Say how much it takes in its settings, or fetch the file "
            "again."
        )
    attention = _attention(text, family, count)
    experts = experts_of(text)
    shared = text.count("num_kv_shared_layers", largest=MOST_LAYERS)
    sparse = _sparse(text, count) if experts else [False] * count
    layers = []
    for index, (kind, recurrent) in enumerate(attention):
        if 0 < shared < count and index >= count - shared:
            kind = "none"
        forward: FeedForward = "none"
        if family.forwards:
            forward = "experts" if sparse[index] else "dense"
        layers.append(Layer(kind, recurrent, forward))
    return layers


def experts_of(text: Fields) -> int:
    """Of each layer that has any; 0: none has."""
    below = text.below("ffn_config")  # DBRX
    if below is not None and below.has("moe_num_experts"):
        return below.count("moe_num_experts", largest=1 << 16)
    return text.count(
        "n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts", largest=1 << 16
    )


def window_of(text: Fields) -> int:
    """Tokens that a layer with a window sees; 0: there is no such layer."""
    if not text.flag("use_sliding_window", True):
        return 0
    return text.count("sliding_window", "attention_window_size")


def _part(word: str) -> Layer:
    """A layer of one part alone, as Nemotron has them."""
    kind, recurrent = _KINDS.get(word, ("full", False))
    forward: FeedForward = "none"
    if word == "mlp":
        forward = "dense"
    elif word == "moe":
        forward = "experts"
    return Layer(kind, recurrent, forward)


def _attention(text: Fields, family: Family, count: int) -> list[tuple[Attention, bool]]:
    """Of each layer: what attends, and whether it keeps a state."""
    window = window_of(text)
    types = text.texts("layer_types", "layers_block_type", "block_types")
    if types and text.has("block_types") and not text.has("layer_types", "layers_block_type"):
        types = [types[index % len(types)] for index in range(count)]  # a pattern that repeats
    if len(types) == count:
        found = [_KINDS.get(one, ("full", False)) for one in types]
        return [
            ("full", state) if kind == "window" and not window else (kind, state)
            for kind, state in found
        ]
    if found := _recurrent(text, count):
        return found
    if not window:
        return [("full", False)] * count
    pattern = text.number("sliding_window_pattern", "_sliding_window_pattern", largest=MOST_LAYERS)
    pattern = family.window_pattern if pattern is None else pattern
    if pattern > 0:
        return [
            ("full" if (index + 1) % pattern == 0 else "window", False) for index in range(count)
        ]
    first = text.count("max_window_layers") if text.has("max_window_layers") else 0
    return [("full" if index < first else "window", False) for index in range(count)]


def _recurrent(text: Fields, count: int) -> list[tuple[Attention, bool]]:
    """Of models in which some layers keep a state; none when it is no such model."""
    model_type = text.text("model_type")
    if model_type in ("mamba", "mamba2", "falcon_mamba"):
        return [("none", True)] * count
    if model_type == "falcon_h1":
        return [("full", True)] * count
    if linear := text.below("linear_attn_config"):  # Kimi Linear; its layers count from 1
        kept = set(linear.numbers("full_attn_layers"))
        return [("full", False) if index + 1 in kept else ("none", True) for index in range(count)]
    if every := text.count("full_attention_interval", largest=MOST_LAYERS):
        return [
            ("full", False) if (index + 1) % every == 0 else ("none", True)
            for index in range(count)
        ]
    if every := text.count("attn_layer_period", largest=MOST_LAYERS):
        offset = text.count("attn_layer_offset", largest=MOST_LAYERS)
        return [
            ("full", False) if index % every == offset else ("none", True) for index in range(count)
        ]
    for name in ("attn_layer_indices", "full_attn_idxs"):
        if text.has(name):
            kept = set(text.numbers(name))
            return [("full", False) if index in kept else ("none", True) for index in range(count)]
    marks = text.numbers("attn_type_list")  # MiniMax: 1 attends to everything
    if len(marks) == count:
        return [("full", False) if mark else ("none", True) for mark in marks]
    return []


def _sparse(text: Fields, count: int) -> list[bool]:
    """Whether each layer of a mixture of experts has experts. Each field is read once: a list in a
    file may be long.
    """
    words = text.texts("mlp_layer_types")[:count]
    first = text.count(
        "first_k_dense_replace", "num_dense_layers", "first_k_dense", "moe_layer_start_index"
    )
    dense = set(text.numbers("mlp_only_layers"))
    usual = _usually_sparse(text, count)
    found = [index >= first and index not in dense and usual[index] for index in range(count)]
    return [word != "dense" for word in words] + found[len(words) :]


def _usually_sparse(text: Fields, count: int) -> list[bool]:
    """The same, by the rule that holds behind the first layers."""
    if marks := text.numbers("moe_layer_freq"):
        return [index < len(marks) and marks[index] != 0 for index in range(count)]
    if text.has("moe_layers"):
        kept = set(text.numbers("moe_layers"))
        return [index in kept for index in range(count)]
    if every := text.count("expert_layer_period"):
        offset = text.count("expert_layer_offset")
        return [index % every == offset for index in range(count)]
    every = text.count(
        "moe_layer_freq",
        "decoder_sparse_step",
        "interleave_moe_layer_step",
        "moe_layer_interval",
        default=1,
    )
    begin = 0 if text.has("moe_layer_freq") else 1  # DeepSeek counts from 0, the others from 1
    return [(index + begin) % max(1, every) == 0 for index in range(count)]
