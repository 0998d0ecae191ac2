"""How many values the weights of a model have, by its config.json alone.

It is asked where the files of the weights are not there, or hold packed values. What a tensor is
for decides whether a quantisation takes it, so they are counted by that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from gpustack_fast.sizing.cache import Heads, heads_of, is_mamba2, mamba_width, recurrent_of
from gpustack_fast.sizing.families import Family
from gpustack_fast.sizing.fields import Fields
from gpustack_fast.sizing.layers import Layer, experts_of

__all__ = ["Parameters", "parameters_of", "vision_parameters"]

_WIDEST = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
    """Values of the weights, by what they are for."""

    embeddings: int = 0
    """Of input and output, positions among them, and heads that classify."""
    attention: int = 0
    """Matrices of attention and of recurrent layers."""
    dense: int = 0
    """Matrices of feed-forward parts that every token goes through."""
    experts: int = 0
    rest: int = 0
    """Norms, biases, routers and convolutions."""
    vision: int = 0
    """The parts that look or listen."""

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def __add__(self, other: Parameters) -> Parameters:
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return Parameters(**{name: value + theirs[name] for name, value in mine.items()})


def parameters_of(
    text: Fields, family: Family, layers: Sequence[Layer], architecture: str
) -> Parameters:
    """Of the part that handles text."""
    if text.text("model_type") == "whisper":
        return _whisper(text)
    if family.encoder:
        return _encoder(text, layers, architecture)
    hidden = text.count("hidden_size", "n_embd", "d_model", largest=_WIDEST)
    total = _outside(text, family, hidden, architecture)
    # Layers of one kind have the same: each kind is counted once.
    for layer in dict.fromkeys(layers):
        one = _layer(text, family, layer, hidden)
        many = layers.count(layer)
        total += Parameters(
            **{name: value * many for name, value in dataclasses.asdict(one).items()}
        )
    return total


def vision_parameters(part: Fields, hidden: int) -> Parameters:
    """Of a transformer that makes `hidden` values of each patch of an image, or stretch of sound.

    Such parts differ more than their files say; this is the plain one, as of CLIP and SigLIP.
    """
    width = part.count("embed_dim", "hidden_size", "d_model", "width", largest=_WIDEST)
    depth = part.count(
        "num_hidden_layers", "depth", "encoder_layers", "layers", "n_layers", largest=1024
    )
    inner = part.count(
        "intermediate_size", "encoder_ffn_dim", "mlp_dim", default=4 * width, largest=_WIDEST
    )
    patch = part.count("patch_size", "spatial_patch_size", default=14, largest=1024)
    side = part.count("image_size", largest=1 << 16) // max(1, patch)
    layer = 4 * width * width + 2 * width * inner + 9 * width + inner
    outside = 3 * patch * patch * width + side * side * width + 2 * width
    return Parameters(vision=depth * layer + outside + width * hidden)


def _outside(text: Fields, family: Family, hidden: int, architecture: str) -> Parameters:
    """What is in no layer."""
    vocabulary = text.count("vocab_size", "padded_vocab_size", largest=1 << 28)
    embeddings = vocabulary * hidden
    if family.learned:
        positions = text.count("max_position_embeddings", "n_positions", largest=_WIDEST)
        embeddings += (positions + family.positions) * hidden
    if "ForSequenceClassification" in architecture:
        embeddings += hidden * _labels(text)
    elif not architecture.endswith("Model") and not text.flag("tie_word_embeddings", family.tied):
        embeddings += vocabulary * hidden
    return Parameters(embeddings=embeddings, rest=hidden * (2 if family.norm_bias else 1))


def _labels(text: Fields) -> int:
    names = text.below("id2label")
    return len(names.content) if names is not None else text.count("num_labels", default=2)


def _layer(text: Fields, family: Family, layer: Layer, hidden: int) -> Parameters:
    total = Parameters()
    if layer.attention != "none":
        heads = heads_of(text, layer.attention)
        build = _latent_attention if heads.latent else _attention
        total += build(text, family, heads, hidden)
    if layer.recurrent:
        total += _recurrent(text, hidden)
    if layer.feed_forward == "experts":
        total += _experts(text, family, hidden)
    elif layer.feed_forward == "dense":
        total += _dense(text, family, hidden)
    parts = (layer.attention != "none" or layer.recurrent) + (layer.feed_forward != "none")
    norms = family.norms * parts // 2 if parts < 2 else family.norms
    return total + Parameters(rest=max(1, norms) * hidden * (2 if family.norm_bias else 1))


def _attention(text: Fields, family: Family, heads: Heads, hidden: int) -> Parameters:
    queries, keys = heads.queries * heads.key, heads.pairs * heads.key
    values, out = heads.pairs * heads.value, heads.queries * heads.value
    gate = queries if family.query_gate and text.flag("attn_output_gate", True) else 0
    rest = 0
    if text.flag("attention_bias", family.qkv_bias):
        rest += queries + gate + keys + values
    # Families whose `attention_bias` is of all four projections have no other word for it.
    if text.flag("attention_bias", family.out_bias) and not (
        family.qkv_bias and not family.out_bias
    ):
        rest += hidden
    if family.qk_norm == "head" and text.flag("use_qk_norm", True):
        rest += 2 * heads.key
    elif family.qk_norm == "whole":
        rest += queries + keys
    elif family.qk_norm == "" and text.flag("use_qk_norm", False):
        rest += 2 * heads.key
    if family.sinks:
        rest += heads.queries
    return Parameters(attention=hidden * (queries + gate + keys + values) + out * hidden, rest=rest)


def _latent_attention(text: Fields, family: Family, heads: Heads, hidden: int) -> Parameters:
    """MLA, as of DeepSeek V2 and V3."""
    rank = text.count("kv_lora_rank", largest=_WIDEST)
    nope = text.count("qk_nope_head_dim", largest=_WIDEST)
    query_rank = text.count("q_lora_rank", largest=_WIDEST)
    matrices, rest = hidden * heads.latent + rank * heads.queries * (nope + heads.value), rank
    if query_rank:
        matrices += hidden * query_rank + query_rank * heads.queries * heads.key
        rest += query_rank
    else:
        matrices += hidden * heads.queries * heads.key
    matrices += heads.queries * heads.value * hidden
    if text.has("index_topk") and query_rank:
        count = text.count("index_n_heads", default=64, largest=1 << 16)
        width = text.count("index_head_dim", default=128, largest=_WIDEST)
        matrices += query_rank * count * width + hidden * width + hidden * count
        rest += 2 * width
    return Parameters(attention=matrices, rest=rest)


def _dense(text: Fields, family: Family, hidden: int) -> Parameters:
    inner = text.count(
        "intermediate_size_mlp" if text.has("intermediate_size_mlp") else "intermediate_size",
        "n_inner",
        "ffn_dim",
        "ffn_hidden_size",
        "intermediate_size",
        default=4 * hidden,
        largest=_WIDEST,
    )
    if text.flag("block_auto_adjust_ff_dim", False):  # LFM2
        step = max(1, text.count("block_multiple_of", default=256, largest=_WIDEST))
        inner = -(-(2 * inner // 3) // step) * step
    gated = family.gated and text.text("mlp_hidden_act") != "relu2"
    biases = text.flag("mlp_bias", text.flag("use_bias", family.mlp_bias))
    return Parameters(
        dense=(3 if gated else 2) * hidden * inner,
        rest=(inner * (2 if gated else 1) + hidden) if biases else 0,
    )


def _experts(text: Fields, family: Family, hidden: int) -> Parameters:
    count = experts_of(text)
    inner = text.count(
        "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", largest=_WIDEST
    )
    gated = text.text("mlp_hidden_act") != "relu2"
    matrices = 3 if gated else 2
    shared = text.count(
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        "moe_shared_expert_intermediate_size",
        largest=_WIDEST,
    )
    if not shared:
        shared = inner * text.count(
            "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", largest=1024
        )
    rest = hidden * count
    if family.router_bias:
        rest += count
    if family.sinks:
        rest += count * (2 * inner + hidden)
    if shared and family.shared_gate:
        rest += hidden
    return Parameters(
        experts=count * matrices * hidden * inner, dense=matrices * hidden * shared, rest=rest
    )


def _recurrent(text: Fields, hidden: int) -> Parameters:
    """One layer with a state; nothing when its fields are not known."""
    if text.has("linear_num_value_heads"):
        return _delta(text, hidden)
    if text.has("conv_L_cache"):
        width = text.count("conv_dim", default=hidden, largest=_WIDEST)
        kernel = text.count("conv_L_cache", largest=_WIDEST)
        return Parameters(attention=3 * hidden * width + width * hidden, rest=width * kernel)
    if not text.has("state_size", "mamba_d_state", "ssm_state_size"):
        recurrent = recurrent_of(text)
        return Parameters(attention=4 * hidden * hidden if recurrent is not None else 0)
    state = text.count("state_size", "mamba_d_state", "ssm_state_size", largest=_WIDEST)
    kernel = text.count(
        "conv_kernel", "mamba_d_conv", "conv_kernel_size", default=4, largest=_WIDEST
    )
    width = mamba_width(text, hidden)
    build: Callable[..., Parameters] = _mamba2 if is_mamba2(text) else _mamba
    return build(text, hidden, width, state, kernel)


def _delta(text: Fields, hidden: int) -> Parameters:
    heads = text.count("linear_num_value_heads", largest=1 << 16)
    head = text.count("linear_value_head_dim", largest=_WIDEST)
    keys = text.count("linear_num_key_heads", largest=1 << 16)
    keys *= text.count("linear_key_head_dim", largest=_WIDEST)
    values = heads * head
    kernel = text.count("linear_conv_kernel_dim", default=4, largest=_WIDEST)
    return Parameters(
        attention=hidden * (2 * keys + 2 * values + 2 * heads) + values * hidden,
        rest=(2 * keys + values) * kernel + 2 * heads + head,
    )


def _mamba(text: Fields, hidden: int, width: int, state: int, kernel: int) -> Parameters:
    rank = (
        text.count("time_step_rank", "mamba_dt_rank", default=-(-hidden // 16), largest=_WIDEST)
        if not text.text("time_step_rank", "mamba_dt_rank")
        else -(-hidden // 16)
    )
    rest = width * kernel + width + width * state + width + width
    if text.text("model_type") == "jamba":
        rest += rank + 2 * state
    return Parameters(
        attention=hidden * 2 * width + width * (rank + 2 * state) + rank * width + width * hidden,
        rest=rest,
    )


def _mamba2(text: Fields, hidden: int, width: int, state: int, kernel: int) -> Parameters:
    heads = text.count(
        "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads", largest=1 << 16
    )
    groups = text.count("n_groups", "mamba_n_groups", "mamba_ngroups", default=1, largest=1 << 16)
    channels = width + 2 * groups * state
    return Parameters(
        attention=hidden * (width + channels + heads) + width * hidden,
        rest=channels * (kernel + 1) + 3 * heads + width,
    )


def _encoder(text: Fields, layers: Sequence[Layer], architecture: str) -> Parameters:
    """BERT's tensors."""
    hidden = text.count("hidden_size", largest=_WIDEST)
    inner = text.count("intermediate_size", default=4 * hidden, largest=_WIDEST)
    vocabulary = text.count("vocab_size", largest=1 << 28)
    positions = text.count("max_position_embeddings", largest=_WIDEST)
    kinds = text.count("type_vocab_size", largest=_WIDEST)
    embeddings, rest = (vocabulary + positions + kinds) * hidden, 2 * hidden
    if "ForSequenceClassification" in architecture:
        embeddings += hidden * hidden + hidden + (hidden + 1) * _labels(text)
    elif architecture.endswith("Model"):
        embeddings += hidden * hidden + hidden  # the pooler
    count = len(layers)
    return Parameters(
        embeddings=embeddings,
        attention=count * 4 * hidden * hidden,
        dense=count * 2 * hidden * inner,
        rest=rest + count * (9 * hidden + inner),
    )


def _whisper(text: Fields) -> Parameters:
    hidden = text.count("d_model", largest=_WIDEST)
    listening = text.count("encoder_layers", largest=4096)
    writing = text.count("decoder_layers", largest=4096)
    inner = text.count("decoder_ffn_dim", "encoder_ffn_dim", largest=_WIDEST)
    bands = text.count("num_mel_bins", default=80, largest=_WIDEST)
    heard = text.count("max_source_positions", default=1500, largest=_WIDEST)
    written = text.count("max_target_positions", default=448, largest=_WIDEST)
    square, forward = 4 * hidden * hidden, 2 * hidden * inner
    small = inner + hidden  # the biases of a feed-forward part
    convolutions = 3 * hidden * bands + 3 * hidden * hidden + 2 * hidden
    return Parameters(
        embeddings=(text.count("vocab_size", largest=1 << 28) + written) * hidden,
        attention=writing * 2 * square,
        dense=writing * forward,
        rest=writing * (2 * 3 * hidden + small + 6 * hidden) + 2 * hidden,
        vision=listening * (square + forward + 3 * hidden + small + 4 * hidden)
        + convolutions
        + heard * hidden
        + 2 * hidden,
    )
