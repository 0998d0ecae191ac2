"""What a model keeps of a sequence while it runs: keys and values, and states of constant size.

The rules are vLLM's: `config/model.py`, `v1/kv_cache_interface.py` and
`model_executor/layers/mamba/mamba_utils.py` of 0.32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gpustack_fast.sizing.fields import Fields
from gpustack_fast.sizing.layers import Layer, window_of

__all__ = [
    "Cache",
    "Heads",
    "Recurrent",
    "cache_of",
    "heads_of",
    "is_mamba2",
    "mamba_width",
    "recurrent_of",
]

_WIDEST = 1 << 24
"""No width of a layer is more."""
_MOST_HEADS = 1 << 16

_FLOAT32 = 4.0


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of an attention layer, and the widths of their keys and values."""

    queries: int
    pairs: int
    key: int
    value: int
    latent: int = 0
    """MLA: the values of one token that stand for the keys and values of all heads."""
    index: float = 0.0
    """Bytes of one token for an index of sparse attention."""


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """A layer that keeps a state, in the values of its parts."""

    convolution: int
    """Values of the last inputs, in the type of the activations."""
    temporal: int
    """Values of the state itself."""


@dataclasses.dataclass(frozen=True)
class Cache:
    """Of all layers together; see `ModelFacts` for what the fields mean."""

    kv_bytes_per_token: float
    kv_window_bytes_per_token: float
    splits_by_heads: bool
    kv_heads: int
    window: int
    window_layers: int
    full_layers: int
    state_bytes: int


def cache_of(text: Fields, layers: Sequence[Layer], dtype_bytes: float) -> Cache:
    """What the layers of a decoder keep."""
    full, narrow = heads_of(text, "full"), heads_of(text, "window")
    full_layers = sum(layer.attention == "full" for layer in layers)
    window_layers = sum(layer.attention == "window" for layer in layers)
    states = sum(layer.recurrent for layer in layers)
    state = 0.0
    if states and (recurrent := recurrent_of(text)) is not None:
        state = recurrent.convolution * dtype_bytes
        state += recurrent.temporal * _state_type(text, dtype_bytes)
    return Cache(
        kv_bytes_per_token=full_layers * _bytes_per_token(full, dtype_bytes),
        kv_window_bytes_per_token=window_layers * _bytes_per_token(narrow, dtype_bytes),
        splits_by_heads=full.latent == 0,
        kv_heads=max(full.pairs, narrow.pairs) if full_layers and window_layers else full.pairs,
        window=window_of(text) if window_layers else 0,
        window_layers=window_layers,
        full_layers=full_layers,
        state_bytes=round(state * states),
    )


def heads_of(text: Fields, kind: str) -> Heads:
    """The heads of the layers of a kind of attention."""
    queries = text.count(
        "num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", largest=_MOST_HEADS
    )
    if text.has("kv_lora_rank"):
        latent = _latent(text, queries)
        if text.text("model_type") != "minicpm3":
            return latent
        return Heads(queries, queries, latent.key, latent.key)  # engines store it spread out
    pairs = _pairs(text, queries)
    hidden = text.count("hidden_size", "n_embd", "d_model", largest=_WIDEST)
    key = text.count(
        "head_dim", "kv_channels", "hidden_size_per_head", "attention_head_dim", largest=_WIDEST
    ) or (hidden // queries if queries else 0)
    if kind == "full":  # Gemma 4 has other heads where it sees everything
        pairs = text.count("num_global_key_value_heads", default=pairs, largest=_MOST_HEADS)
        key = text.count("global_head_dim", default=key, largest=_WIDEST)
    else:  # and MiMo V2 where it does not
        queries = text.count("swa_num_attention_heads", default=queries, largest=_MOST_HEADS)
        pairs = text.count("swa_num_key_value_heads", default=pairs, largest=_MOST_HEADS)
        key = text.count("swa_head_dim", default=key, largest=_WIDEST)
    value = text.count("v_head_dim", default=key, largest=_WIDEST)
    return Heads(queries, pairs, key, value)


def recurrent_of(text: Fields) -> Recurrent | None:
    """The state of one layer; None: the file has no fields that are known to tell it."""
    hidden = text.count("hidden_size", "d_model", largest=_WIDEST)
    if text.has("linear_num_value_heads"):
        return _delta(text)
    if linear := text.below("linear_attn_config"):  # Kimi's delta attention
        width = linear.count("num_heads", largest=_MOST_HEADS)
        width *= linear.count("head_dim", largest=_WIDEST)
        kernel = linear.count("short_conv_kernel_size", default=4, largest=_WIDEST)
        return Recurrent(
            3 * width * max(0, kernel - 1), width * linear.count("head_dim", largest=_WIDEST)
        )
    if text.has("conv_L_cache"):  # LFM2
        width = text.count("conv_dim", default=hidden, largest=_WIDEST)
        return Recurrent(width * max(0, text.count("conv_L_cache", largest=_WIDEST) - 1), 0)
    if text.has("attn_type_list"):  # MiniMax
        heads = heads_of(text, "full")
        return Recurrent(0, heads.queries * heads.key * heads.key)
    if text.has("state_size", "mamba_d_state", "ssm_state_size"):
        return _mamba(text, hidden)
    return None


def _bytes_per_token(heads: Heads, dtype_bytes: float) -> float:
    if heads.latent:
        return heads.latent * dtype_bytes + heads.index
    return heads.pairs * (heads.key + heads.value) * dtype_bytes


def _pairs(text: Fields, queries: int) -> int:
    """Heads of keys and values, where there are fewer than of queries."""
    if text.text("model_type") in ("falcon", "RefinedWeb", "RefinedWebModel"):
        if text.flag("new_decoder_architecture", False):
            return text.count("num_kv_heads", default=queries, largest=_MOST_HEADS)
        return 1 if text.flag("multi_query", True) else queries
    if text.text("model_type") == "gpt_bigcode" and text.flag("multi_query", True):
        return 1
    below = text.below("attn_config")  # DBRX and MPT
    if below is not None and below.has("kv_n_heads"):
        return below.count("kv_n_heads", largest=_MOST_HEADS)
    return text.count(
        "n_head_kv",
        "num_kv_heads",
        "num_key_value_heads",
        "multi_query_group_num",
        "num_attention_groups",
        default=queries,
        largest=_MOST_HEADS,
    )


def _latent(text: Fields, queries: int) -> Heads:
    """DeepSeek's: one vector for all heads, which every GPU keeps."""
    rope = text.count("qk_rope_head_dim", largest=_WIDEST)
    index = 0.0
    if text.has("index_topk"):  # of 3.2: keys of the index in FP8, with a scale for each 128
        width = text.count("index_head_dim", default=128, largest=_WIDEST)
        index = width + width / 128 * _FLOAT32
    return Heads(
        queries,
        1,
        text.count("qk_nope_head_dim", largest=_WIDEST) + rope,
        text.count("v_head_dim", largest=_WIDEST),
        text.count("kv_lora_rank", largest=_WIDEST) + rope,
        index,
    )


def _delta(text: Fields) -> Recurrent:
    """Gated delta nets, as in Qwen3-Next."""
    keys = text.count("linear_num_key_heads", largest=_MOST_HEADS)
    keys *= text.count("linear_key_head_dim", largest=_WIDEST)
    values = text.count("linear_num_value_heads", largest=_MOST_HEADS)
    values *= text.count("linear_value_head_dim", largest=_WIDEST)
    kernel = text.count("linear_conv_kernel_dim", default=4, largest=_WIDEST)
    return Recurrent(
        (2 * keys + values) * max(0, kernel - 1),
        values * text.count("linear_key_head_dim", largest=_WIDEST),
    )


def _mamba(text: Fields, hidden: int) -> Recurrent:
    state = text.count("state_size", "mamba_d_state", "ssm_state_size", largest=_WIDEST)
    kernel = text.count(
        "conv_kernel", "mamba_d_conv", "conv_kernel_size", default=4, largest=_WIDEST
    )
    width = mamba_width(text, hidden)
    groups = text.count("n_groups", "mamba_n_groups", "mamba_ngroups", largest=_MOST_HEADS)
    channels = width + 2 * groups * state if is_mamba2(text) else width
    return Recurrent(channels * max(0, kernel - 1), width * state)


def is_mamba2(text: Fields) -> bool:
    """Whether it has heads."""
    return text.text("model_type") == "mamba2" or text.has(
        "mamba_n_heads", "mamba_num_heads", "n_mamba_heads"
    )


def mamba_width(text: Fields, hidden: int) -> int:
    """The inner width of a layer."""
    heads = text.count("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", largest=_MOST_HEADS)
    head = text.number("mamba_d_head", "mamba_head_dim", "mamba_headdim", largest=_WIDEST)
    if heads and head:
        return heads * head
    if width := text.count("mamba_d_ssm", largest=_WIDEST):
        return width
    return hidden * text.count("mamba_expand", "expand", default=2, largest=1024)


def _state_type(text: Fields, dtype_bytes: float) -> float:
    """Bytes of one value of a state: the file may want more precision for it."""
    wanted = text.text("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    return _FLOAT32 if wanted == "float32" else dtype_bytes
