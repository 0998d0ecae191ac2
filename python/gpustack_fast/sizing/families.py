"""What a model's config.json does not say, since the code of its family has it.

The defaults are those of the configuration classes of transformers, which leaves out of the file
what does not differ from them; here are those that published models are known to leave out. The
traits say which tensors a layer has. Source: transformers 5, `models/*/configuration_*.py` and
`modeling_*.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one `model_type` are built."""

    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    tied: bool = False
    """Whether the input embedding is the output's, too, when nothing says so."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    """Whether the feed-forward part has three matrices, and not two."""
    qk_norm: Literal["", "head", "whole", "free"] = ""
    """Whether queries and keys are normalised: over a head, over all, or without weights."""
    norms: int = 2
    """Of each layer; a layer that attends without a feed-forward part has half of them."""
    norm_bias: bool = False
    positions: int = 0
    """Learned positions beyond those of the context; see `learned`."""
    learned: bool = False
    """Whether positions are a table of weights."""
    encoder: bool = False
    """Whether it reads both ways, keeps nothing, and has BERT's tensors."""
    query_gate: bool = False
    """Whether the projection of queries holds a gate of the same size."""
    router_bias: bool = False
    """Whether the router has one more value for each expert."""
    sinks: bool = False
    """Whether each head has a sink, and each expert biases, as in gpt-oss."""
    shared_gate: bool = False
    """Whether the shared expert has a gate."""
    forwards: bool = True
    """Whether its layers feed forward, beside what they keep."""
    in_parts: bool = False
    """Whether each layer either attends, keeps a state or feeds forward."""
    window_pattern: int = 0
    """The layer after each so many less one that keep a window keeps all; 0: none does."""


def _gemma2(**more: object) -> dict[str, object]:
    return {
        "vocab_size": 256_000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        **more,
    }


_LLAMA: Mapping[str, object] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_MISTRAL: Mapping[str, object] = {
    **_LLAMA,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
}
_QWEN2: Mapping[str, object] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
}
_QWEN3 = {**_QWEN2, "head_dim": 128}
_QWEN3_NEXT: Mapping[str, object] = {
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "head_dim": 256,
}
_DEEPSEEK: Mapping[str, object] = {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
_GPT_OSS: Mapping[str, object] = {
    "num_hidden_layers": 36,
    "num_local_experts": 128,
    "vocab_size": 201_088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "max_position_embeddings": 131_072,
}
_BERT: Mapping[str, object] = {
    "vocab_size": 30_522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
_MAMBA: Mapping[str, object] = {"state_size": 16, "conv_kernel": 4, "expand": 2}
_MAMBA2: Mapping[str, object] = {"state_size": 128, "conv_kernel": 4, "expand": 2, "n_groups": 8}

_QWEN2_FAMILY = Family(defaults=_QWEN2, qkv_bias=True)
_QWEN2_MOE = Family(defaults=_QWEN2, qkv_bias=True, shared_gate=True)
_QWEN3_MOE = Family(defaults=_QWEN3, qk_norm="head")
_QWEN3_NEXT_FAMILY = Family(defaults=_QWEN3_NEXT, qk_norm="head", query_gate=True, shared_gate=True)
_DEEPSEEK_V3 = Family(defaults=_DEEPSEEK, router_bias=True)
_GEMMA3 = Family(
    defaults=_gemma2(vocab_size=262_208, max_position_embeddings=131_072),
    tied=True,
    qk_norm="head",
    norms=4,
    window_pattern=6,
)
_GPT2 = Family(
    tied=True,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    gated=False,
    norm_bias=True,
    learned=True,
)
_GPT2_LIKE = dataclasses.replace(_GPT2, learned=False)
_BERT_FAMILY = Family(defaults=_BERT, encoder=True)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT_FAMILY,
    "bloom": _GPT2_LIKE,
    "cohere": Family(tied=True, norms=1),
    "cohere2": Family(tied=True, norms=1, window_pattern=4),
    "deepseek_v2": Family(defaults=_DEEPSEEK),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _DEEPSEEK_V3,
    "exaone4": Family(qk_norm="head"),
    "falcon": Family(tied=True, gated=False, norms=1, norm_bias=True),
    "falcon_mamba": Family(defaults=_MAMBA, norms=1, forwards=False),
    "gemma": Family(tied=True),
    "gemma2": Family(defaults=_gemma2(), tied=True, norms=4, window_pattern=2),
    "gemma3_text": _GEMMA3,
    "ernie4_5_moe": Family(defaults={"moe_layer_start_index": 1}, router_bias=True),
    "glm": Family(qkv_bias=True),
    "glm4": Family(qkv_bias=True, norms=4),
    "glm4_moe": Family(router_bias=True),
    "glm_moe_dsa": _DEEPSEEK_V3,
    "gpt2": _GPT2,
    "gpt_neox": Family(qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norm_bias=True),
    "gpt_oss": Family(
        defaults=_GPT_OSS,
        qkv_bias=True,
        out_bias=True,
        router_bias=True,
        sinks=True,
        window_pattern=2,
    ),
    "granite": Family(tied=True),
    "hunyuan_v1_dense": Family(qk_norm="head"),
    "jamba": Family(
        defaults={
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
        }
    ),
    "kimi_k2": _DEEPSEEK_V3,
    "lfm2": Family(tied=True, qk_norm="head"),
    "llama": Family(defaults=_LLAMA),
    "llama4_text": Family(
        qk_norm="free", defaults={"n_shared_experts": 1, "interleave_moe_layer_step": 1}
    ),
    "mamba": Family(defaults=_MAMBA, tied=True, norms=1, forwards=False),
    "mamba2": Family(defaults=_MAMBA2, norms=1, forwards=False),
    "minimax_m2": Family(qk_norm="whole", router_bias=True),
    "ministral": Family(defaults=_MISTRAL),
    "ministral3": Family(defaults=_MISTRAL),
    "mistral": Family(defaults={**_MISTRAL, "sliding_window": 4096}),
    "mixtral": Family(defaults={**_MISTRAL, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "nemotron_h": Family(in_parts=True),
    "olmo2": Family(qk_norm="whole"),
    "olmo3": Family(qk_norm="whole"),
    "opt": Family(
        tied=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        norm_bias=True,
        learned=True,
        positions=2,
    ),
    "phi": dataclasses.replace(_GPT2_LIKE, tied=False, norms=1),
    "phi3": Family(),
    "qwen2": _QWEN2_FAMILY,
    "qwen2_5_vl_text": _QWEN2_FAMILY,
    "qwen2_moe": _QWEN2_MOE,
    "qwen2_vl_text": _QWEN2_FAMILY,
    "qwen3": Family(defaults=_QWEN3, qk_norm="head"),
    "qwen3_5_moe_text": _QWEN3_NEXT_FAMILY,
    "qwen3_5_text": _QWEN3_NEXT_FAMILY,
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_next": _QWEN3_NEXT_FAMILY,
    "qwen3_vl_moe_text": _QWEN3_MOE,
    "qwen3_vl_text": Family(defaults=_QWEN3, qk_norm="head"),
    "roberta": _BERT_FAMILY,
    "seed_oss": Family(qkv_bias=True),
    "smollm3": Family(tied=True),
    "stablelm": Family(norm_bias=True),
    "starcoder2": Family(
        tied=True, qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norm_bias=True
    ),
    "whisper": Family(),
    "xlm-roberta": _BERT_FAMILY,
}
"""By the `model_type` of the part that handles text."""

_OLDER = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "kimi_vl": "deepseek_v3"}
"""Types whose files have the fields of the text part beside those of images."""


def family_of(model_type: str) -> Family | None:
    """None: it is not known here, and most likely built as most are."""
    return FAMILIES.get(_OLDER.get(model_type, model_type))
