"""Generated models: their configuration, and every tensor of theirs, one by one.

This is the slow, obvious twin of what reckons sizes: it names each tensor as a checkpoint does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from gpustack_fast.sizing import FactsError

__all__ = ["LLAMA", "Generated", "attempt", "gguf_bytes", "models", "write_head"]

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.block_count": 4,
    "llama.embedding_length": 128,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 4096,
    "tokenizer.ggml.tokens": ["a", "bc", "d"],
}
"""What a small GGUF file says of its model."""

Tensors = dict[str, tuple[int, ...]]
T = TypeVar("T")


def attempt(read: Callable[[], T]) -> T | None:
    """What it returns; None: it raised an error of ours, in sentences."""
    try:
        return read()
    except FactsError as error:
        said = str(error)
    assert said.endswith(".")
    return None


@dataclasses.dataclass
class Generated:
    config: dict[str, Any]
    tensors: Tensors
    keys_and_values: int
    """Values that one token leaves in layers that keep every token."""
    window_values: int

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors.values())


@st.composite
def models(draw: st.DrawFn) -> Generated:
    """Dense, with experts, or with MLA, of any small shape."""
    model_type = draw(
        st.sampled_from(
            ["llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gemma3_text", "deepseek_v3"]
        )
    )
    pairs = draw(st.integers(1, 4))
    config: dict[str, Any] = {
        "architectures": ["SomethingForCausalLM"],
        "model_type": model_type,
        "torch_dtype": "bfloat16",
        "vocab_size": draw(st.integers(1, 300)),
        "hidden_size": draw(st.integers(1, 40)) * 2,
        "intermediate_size": draw(st.integers(1, 90)),
        "num_hidden_layers": draw(st.integers(1, 9)),
        "num_attention_heads": pairs * draw(st.integers(1, 4)),
        "num_key_value_heads": pairs,
        "head_dim": draw(st.integers(1, 20)),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": 1000,
    }
    if model_type == "gemma3_text":
        config["sliding_window"] = draw(st.integers(1, 64))
    if model_type in ("qwen3_moe", "deepseek_v3"):
        config["moe_intermediate_size"] = draw(st.integers(1, 30))
    if model_type == "qwen3_moe":
        config["num_experts"] = draw(st.integers(1, 5))
        config["decoder_sparse_step"] = draw(st.integers(1, 3))
        config["mlp_only_layers"] = draw(st.lists(st.integers(0, 8), max_size=3))
    if model_type == "mixtral":
        config["num_local_experts"] = draw(st.integers(1, 5))
        config["sliding_window"] = None
    if model_type == "deepseek_v3":
        config["n_routed_experts"] = draw(st.integers(1, 5))
        config["n_shared_experts"] = draw(st.integers(1, 2))
        config["first_k_dense_replace"] = draw(st.integers(0, 3))
        config["q_lora_rank"] = draw(st.none() | st.integers(1, 20))
        for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            config[name] = draw(st.integers(1, 20))
    return _build(config)


def _build(config: dict[str, Any]) -> Generated:
    model = Generated(config, {}, 0, 0)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    model.tensors["model.embed_tokens.weight"] = (vocabulary, hidden)
    for index in range(config["num_hidden_layers"]):
        _attention(model, index)
        _feed_forward(model, index)
        _norms(model, index)
    model.tensors["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        model.tensors["lm_head.weight"] = (vocabulary, hidden)
    return model


def _attention(model: Generated, index: int) -> None:
    config, hidden = model.config, model.config["hidden_size"]
    place = f"model.layers.{index}.self_attn."
    heads, pairs = config["num_attention_heads"], config["num_key_value_heads"]
    head = config["head_dim"]
    if "kv_lora_rank" in config:
        rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
        nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
        if config["q_lora_rank"] is None:
            model.tensors[place + "q_proj.weight"] = (heads * (nope + rope), hidden)
        else:
            low = config["q_lora_rank"]
            model.tensors[place + "q_a_proj.weight"] = (low, hidden)
            model.tensors[place + "q_a_layernorm.weight"] = (low,)
            model.tensors[place + "q_b_proj.weight"] = (heads * (nope + rope), low)
        model.tensors[place + "kv_a_proj_with_mqa.weight"] = (rank + rope, hidden)
        model.tensors[place + "kv_a_layernorm.weight"] = (rank,)
        model.tensors[place + "kv_b_proj.weight"] = (heads * (nope + value), rank)
        model.tensors[place + "o_proj.weight"] = (hidden, heads * value)
        model.keys_and_values += rank + rope
        return
    for name, count in (("q_proj", heads), ("k_proj", pairs), ("v_proj", pairs)):
        model.tensors[f"{place}{name}.weight"] = (count * head, hidden)
        if config["model_type"] == "qwen2":
            model.tensors[f"{place}{name}.bias"] = (count * head,)
    model.tensors[place + "o_proj.weight"] = (hidden, heads * head)
    if config["model_type"] in ("qwen3", "qwen3_moe", "gemma3_text"):
        model.tensors[place + "q_norm.weight"] = (head,)
        model.tensors[place + "k_norm.weight"] = (head,)
    if config["model_type"] == "gemma3_text" and (index + 1) % 6:
        model.window_values += 2 * pairs * head
    else:
        model.keys_and_values += 2 * pairs * head


def _feed_forward(model: Generated, index: int) -> None:
    config, hidden = model.config, model.config["hidden_size"]
    place, model_type = f"model.layers.{index}.mlp.", config["model_type"]
    experts, inner = 0, config["intermediate_size"]
    if model_type == "mixtral":
        experts = config["num_local_experts"]
    elif model_type == "qwen3_moe":
        sparse = (index + 1) % config["decoder_sparse_step"] == 0
        if sparse and index not in config["mlp_only_layers"]:
            experts, inner = config["num_experts"], config["moe_intermediate_size"]
    elif model_type == "deepseek_v3" and index >= config["first_k_dense_replace"]:
        experts, inner = config["n_routed_experts"], config["moe_intermediate_size"]
        model.tensors[place + "gate.e_score_correction_bias"] = (experts,)
        _three(model, place + "shared_experts.", inner * config["n_shared_experts"])
    if not experts:
        _three(model, place, inner)
        return
    model.tensors[place + "gate.weight"] = (experts, hidden)
    for expert in range(experts):
        _three(model, f"{place}experts.{expert}.", inner)


def _three(model: Generated, place: str, inner: int) -> None:
    hidden = model.config["hidden_size"]
    model.tensors[place + "gate_proj.weight"] = (inner, hidden)
    model.tensors[place + "up_proj.weight"] = (inner, hidden)
    model.tensors[place + "down_proj.weight"] = (hidden, inner)


def _norms(model: Generated, index: int) -> None:
    names = ["input_layernorm", "post_attention_layernorm"]
    if model.config["model_type"] == "gemma3_text":
        names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for name in names:
        model.tensors[f"model.layers.{index}.{name}.weight"] = (model.config["hidden_size"],)


def write_head(
    path: Path, tensors: Mapping[str, tuple[int, ...]], dtype: str = "BF16", each: int = 2
) -> int:
    """A safetensors file with a head, and a hole where the values would be; its size in bytes."""
    head, end = {}, 0
    for name, shape in tensors.items():
        size = math.prod(shape) * each
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    content = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
    whole = struct.pack("<Q", len(content)) + content
    with path.open("wb") as file:
        file.write(whole)
        file.truncate(len(whole) + end)
    return len(whole) + end


def gguf_bytes(
    metadata: dict[str, Any],
    tensors: Mapping[str, tuple[int, ...]],
    version: int = 3,
    kind: int = 1,
    each: int = 2,
) -> bytes:
    """The head of a GGUF file; `kind` and `each`: the type of its tensors, and bytes of a value."""
    content = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        content += _gguf_text(key) + _gguf_value(value)
    end = 0
    for name, shape in tensors.items():
        content += _gguf_text(name) + struct.pack("<I", len(shape))
        content += b"".join(struct.pack("<Q", length) for length in reversed(shape))
        content += struct.pack("<IQ", kind, end)
        end += -(-math.prod(shape) * each // 32) * 32
    return content + bytes(-len(content) % 32)


def _gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _gguf_value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _gguf_text(value)
    kinds = {bool: 7, int: 10, float: 12, str: 8}
    kind = kinds[type(value[0])] if value else 4
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(
        _gguf_value(one)[4:] for one in value
    )
