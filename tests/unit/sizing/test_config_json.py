"""What a config.json says: parameters, cache, windows, states, quantisation; and hostile ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sizing.generated import Generated, attempt, models
from sizing.published import MODELS

from gpustack_fast.sizing import FactsError, ModelFacts
from gpustack_fast.sizing.config_json import Weights, facts_of_config, read_json
from gpustack_fast.sizing.families import Family
from gpustack_fast.sizing.fields import Fields
from gpustack_fast.sizing.layers import layers_of

DENSE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def facts(**fields: Any) -> ModelFacts:
    return facts_of_config({**DENSE, **fields}, "config.json")


@given(models())
def test_the_reckoned_size_is_that_of_all_tensors(model: Generated) -> None:
    found = facts_of_config(model.config, "config.json")
    assert found.parameters == model.parameters
    assert found.weight_bytes == 2 * model.parameters
    assert found.kv_bytes_per_token == 2 * model.keys_and_values
    assert found.kv_window_bytes_per_token == 2 * model.window_values


def test_the_usual_fields_become_facts() -> None:
    found = facts()
    assert (found.architecture, found.format, found.generates) == (
        "LlamaForCausalLM",
        "safetensors",
        True,
    )
    assert (found.layers, found.heads, found.kv_heads, found.hidden) == (4, 8, 2, 128)
    assert (found.vocabulary, found.context, found.experts) == (1000, 4096, 0)
    assert found.kv_bytes_per_token == 4 * 2 * 2 * 16 * 2
    assert found.kv_splits_by_heads and not found.multimodal and not found.window


@pytest.mark.parametrize(
    ("fields", "full", "narrow"),
    [
        ({"sliding_window": None}, 4, 0),
        ({"model_type": "mistral"}, 0, 4),  # the family's own default
        ({"model_type": "mistral", "sliding_window": None}, 4, 0),
        ({"sliding_window": 64, "use_sliding_window": False}, 4, 0),
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 3}, 3, 1),
        ({"model_type": "gemma2", "sliding_window": 64}, 2, 2),
        ({"model_type": "gemma3_text", "sliding_window": 64}, 0, 4),
        ({"model_type": "gemma3_text", "sliding_window": 64, "sliding_window_pattern": 2}, 2, 2),
        (
            {
                "sliding_window": 64,
                "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            },
            1,
            3,
        ),
        # Without a window there is none, whatever the types are called.
        ({"layer_types": ["sliding_attention"] * 4}, 4, 0),
        ({"layer_types": ["chunked_attention"] * 3 + ["full_attention"]}, 4, 0),
        # Layers that share another's keys and values keep none.
        ({"num_kv_shared_layers": 3}, 1, 0),
    ],
)
def test_layers_keep_all_or_a_window(fields: dict[str, Any], full: int, narrow: int) -> None:
    found = facts(**fields)
    assert (found.full_layers, found.window_layers) == (full, narrow)
    assert bool(found.window) == bool(narrow)


def test_mla_keeps_one_vector_for_all_heads_which_is_not_divided() -> None:
    found = facts(model_type="deepseek_v3", kv_lora_rank=512, qk_rope_head_dim=64)
    assert found.kv_bytes_per_token == 4 * 576 * 2
    assert not found.kv_splits_by_heads


def test_sparse_attention_keeps_an_index_beside_it() -> None:
    found = facts(
        model_type="deepseek_v32",
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        q_lora_rank=64,
        index_topk=2048,
        index_head_dim=128,
    )
    assert found.kv_bytes_per_token == 4 * (576 * 2 + 132)


def test_other_heads_where_a_layer_sees_everything() -> None:
    found = facts(
        model_type="gemma4_text",
        sliding_window=64,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        head_dim=16,
        global_head_dim=32,
        num_global_key_value_heads=1,
    )
    assert found.kv_window_bytes_per_token == 3 * 2 * 2 * 16 * 2
    assert found.kv_bytes_per_token == 1 * 2 * 1 * 32 * 2


@pytest.mark.parametrize(
    ("fields", "layers", "state"),
    [
        # convolution (3 of the 4 last inputs) and state of an inner width of 256
        ({"model_type": "mamba", "state_size": 16}, 4, 256 * 3 + 256 * 16),
        (
            {
                "model_type": "bamba",
                "attn_layer_indices": [1],
                "mamba_n_heads": 8,
                "mamba_d_head": 32,
                "mamba_d_state": 16,
                "mamba_n_groups": 1,
                "mamba_d_conv": 4,
            },
            3,
            (256 + 32) * 3 + 256 * 16,
        ),
        (
            {
                "model_type": "qwen3_next",
                "full_attention_interval": 4,
                "linear_num_key_heads": 2,
                "linear_key_head_dim": 16,
                "linear_num_value_heads": 4,
                "linear_value_head_dim": 16,
                "linear_conv_kernel_dim": 4,
            },
            3,
            (2 * 32 + 64) * 3 + 64 * 16,
        ),
        ({"model_type": "lfm2", "full_attn_idxs": [0, 3], "conv_L_cache": 3}, 2, 2 * 128),
        (
            {
                "model_type": "kimi_linear",
                "linear_attn_config": {
                    "full_attn_layers": [4],
                    "kda_layers": [1, 2, 3],
                    "num_heads": 8,
                    "head_dim": 16,
                    "short_conv_kernel_size": 4,
                },
            },
            3,
            3 * 128 * 3 + 128 * 16,
        ),
        (
            {
                "model_type": "nemotron_h",
                "hybrid_override_pattern": "M-*M",
                "mamba_num_heads": 8,
                "mamba_head_dim": 32,
                "ssm_state_size": 16,
                "n_groups": 1,
            },
            2,
            (256 + 32) * 3 + 256 * 16,
        ),
    ],
)
def test_recurrent_layers_keep_a_state_of_constant_size(
    fields: dict[str, Any], layers: int, state: int
) -> None:
    found = facts(**fields)
    assert found.state_bytes == layers * state * 2
    attending = {"mamba": 0, "bamba": 1, "lfm2": 2}.get(fields["model_type"], 1)
    assert found.full_layers == attending


def test_a_state_may_want_more_precision() -> None:
    fields = {
        "model_type": "qwen3_next",
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 16,
    }
    assert facts(**fields, mamba_ssm_dtype="float32").state_bytes == 3 * (128 * 3 * 2 + 1024 * 4)


@pytest.mark.parametrize(
    ("quantization", "name", "share"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", 4.15625 / 8),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "gptq", 1.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 1.000244140625),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4.5 / 8),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 1.0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt", 4.5 / 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}
                },
                "ignore": ["lm_head"],
            },
            "compressed-tensors",
            4.125 / 8,
        ),
    ],
)
def test_a_quantised_model_has_small_matrices_and_large_embeddings(
    quantization: dict[str, Any], name: str, share: float
) -> None:
    plain, found = facts(), facts(quantization_config=quantization)
    matrices = 4 * (128 * 128 * 2 + 2 * 128 * 32 + 3 * 128 * 256)
    assert found.quantization == name
    assert found.parameters == plain.parameters
    assert found.weight_bytes == round((plain.parameters - matrices) * 2 + matrices * share)
    # What an engine computes with, and keeps of a sequence, has the type of the model.
    assert found.dtype_bytes == 2
    assert found.kv_bytes_per_token == plain.kv_bytes_per_token


def test_modules_that_are_not_converted_keep_their_size() -> None:
    small = {"quant_method": "fp8"}
    kept = {**small, "ignored_layers": ["model.layers.0.self_attn.q_proj"]}
    attention = 4 * (128 * 128 * 2 + 2 * 128 * 32)
    one, other = facts(quantization_config=small), facts(quantization_config=kept)
    assert other.weight_bytes - one.weight_bytes == attention


def test_of_gpt_oss_the_experts_alone_are_small() -> None:
    [model] = [one for one in MODELS if one.name == "openai/gpt-oss-120b"]
    found = facts_of_config(model.config, "config.json")
    # The files on its page come to 65.2 GB.
    assert abs(found.weight_bytes - 65.2e9) < 0.02 * 65.2e9


@pytest.mark.parametrize(
    ("architecture", "model_type", "generates"),
    [
        ("Qwen3ForCausalLM", "qwen3", True),
        ("Qwen2VLForConditionalGeneration", "qwen2_vl", True),
        ("GPT2LMHeadModel", "gpt2", True),
        ("ChatGLMModel", "chatglm", True),
        ("InternVLChatModel", "internvl_chat", True),
        ("MiniCPMV", "minicpmv", True),
        ("Qwen2ForRewardModel", "qwen2", False),
        ("WhisperForConditionalGeneration", "whisper", False),
        ("BertModel", "bert", False),
        ("Qwen2Model", "qwen2", False),
        ("Qwen3ForSequenceClassification", "qwen3", False),
        ("XLMRobertaForSequenceClassification", "xlm-roberta", False),
    ],
)
def test_who_writes_text(architecture: str, model_type: str, generates: bool) -> None:
    found = facts(
        architectures=[architecture],
        model_type=model_type,
        d_model=64,
        decoder_layers=2,
        encoder_layers=2,
    )
    assert found.generates is generates


def test_a_file_of_sentence_transformers_makes_a_writer_an_embedder() -> None:
    assert not facts_of_config(DENSE, "config.json", embeds=True).generates


def test_an_encoder_keeps_nothing() -> None:
    found = facts(model_type="bert", architectures=["BertModel"])
    assert (found.kv_bytes_per_token, found.state_bytes) == (0, 0)


def test_whisper_keeps_what_it_heard_for_each_sequence() -> None:
    [model] = [one for one in MODELS if one.name == "openai/whisper-large-v3"]
    found = facts_of_config(model.config, "config.json")
    assert found.state_bytes == 1500 * found.kv_bytes_per_token
    assert (found.layers, found.context, found.multimodal) == (32, 448, False)


def test_the_text_part_of_a_model_that_sees_is_what_counts() -> None:
    text = {name: value for name, value in DENSE.items() if name != "architectures"}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": text,
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "torch_dtype": "float16",
    }
    found, plain = facts_of_config(config, "config.json"), facts()
    assert found.multimodal and found.generates
    assert found.kv_bytes_per_token == plain.kv_bytes_per_token
    assert found.parameters > plain.parameters


def test_what_a_family_leaves_out_is_filled_in() -> None:
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
    }
    found = facts_of_config(config, "config.json")
    assert (found.heads, found.kv_heads, found.vocabulary, found.context) == (
        8,
        4,
        262_208,
        131_072,
    )


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        (None, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        ({"type": "dynamic", "factor": 2}, 8192),
        ({"rope_type": "llama3", "factor": 8.0}, 4096),
        ({"rope_type": "yarn", "factor": 4.0}, 4096),
        ({"rope_type": "linear", "factor": None}, 4096),
    ],
)
def test_the_context_is_what_vllm_derives(rope: Any, context: int) -> None:
    assert facts(rope_scaling=rope).context == context


def test_an_architecture_that_is_not_known_is_reckoned_as_most_are_and_says_so() -> None:
    found = facts(model_type="tomorrow", architectures=["TomorrowForCausalLM"])
    assert found.parameters == facts().parameters
    assert any("tomorrow is not known here" in one for one in found.assumptions)


def test_files_are_believed_before_the_configuration() -> None:
    weights = Weights(bytes=1234, parameters=617, dtype="F16")
    found = facts_of_config(DENSE, "config.json", weights)
    assert (found.weight_bytes, found.parameters, found.assumptions) == (1234, 617, [])


def test_a_model_without_layers_is_an_error_with_the_next_step() -> None:
    with pytest.raises(FactsError, match=r"does not say how many layers .* fetch the file again"):
        facts(num_hidden_layers=None, model_type="tomorrow")


@pytest.mark.parametrize("layers", [-1, 1 << 70, "many", 4.5, True, [], {}, 5000])
def test_a_number_that_cannot_be_is_an_error_with_the_next_step(layers: Any) -> None:
    with pytest.raises(FactsError, match=r"config\.json"):
        facts(num_hidden_layers=layers, model_type="tomorrow")


@pytest.mark.parametrize(
    "name", ["mlp_only_layers", "moe_layers", "moe_layer_freq", "intermediate_size", "head_dim"]
)
def test_a_list_that_is_longer_than_any_is_an_error_with_the_next_step(name: str) -> None:
    with pytest.raises(FactsError, match=rf"{name} is a list of 100,000 numbers, .* fetch it ag"):
        facts(num_local_experts=4, **{name: [0] * 100_000})


def test_each_field_of_a_file_is_read_a_few_times_however_many_layers_there_are() -> None:
    """A list may be long, and a stranger may write 4,096 layers."""

    class Counted(dict[str, Any]):
        asked: ClassVar[Counter[str]] = Counter()

        def get(self, name: str, default: Any = None) -> Any:
            self.asked[name] += 1
            return super().get(name, default)

    fields = Counted(DENSE | {"num_local_experts": 4, "num_hidden_layers": 4096})
    assert len(layers_of(Fields(fields, "config.json"), Family())) == 4096
    assert max(Counted.asked.values()) <= 4, Counted.asked


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({"mlp_layer_types": ["dense", "sparse"]}, "-+++"),
        ({"first_k_dense_replace": 3}, "---+"),
        ({"mlp_only_layers": [0, 2]}, "-+-+"),
        ({"moe_layer_freq": [0, 1, 1]}, "-++-"),
        ({"moe_layers": [1, 3]}, "-+-+"),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, "-+-+"),
        ({"moe_layer_freq": 2}, "+-+-"),
        ({"decoder_sparse_step": 2}, "-+-+"),
        ({"decoder_sparse_step": 0}, "++++"),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, "--+-"),
        ({}, "++++"),
    ],
)
def test_which_layers_have_experts(fields: dict[str, Any], layers: str) -> None:
    text = Fields(DENSE | {"num_local_experts": 4} | fields, "config.json")
    found = layers_of(text, Family())
    assert "".join("+" if one.feed_forward == "experts" else "-" for one in found) == layers


def test_a_model_that_no_machine_could_hold_is_an_error_with_the_next_step() -> None:
    with pytest.raises(FactsError, match=r"no machine could hold, .* fetch it again\."):
        facts(
            num_hidden_layers=4096,
            num_local_experts=1 << 16,
            hidden_size=1 << 24,
            intermediate_size=1 << 24,
        )


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}", b"1"]
)
def test_a_file_that_is_no_json_object_is_an_error_with_the_next_step(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(FactsError, match=r"[Ff]etch the model again\."):
        read_json(tmp_path / "config.json")


FIELDS = [
    *sorted({name for model in MODELS for name in model.config}),
    "text_config", "vision_config", "kv_lora_rank", "state_size", "layers_block_type",
    "linear_attn_config", "attn_layer_period", "hybrid_override_pattern", "full_attn_idxs",
    "conv_L_cache", "index_topk", "num_kv_shared_layers", "v_head_dim", "moe_layer_freq",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=6)
    ),
    max_leaves=12,
)
TYPES = st.sampled_from(
    sorted(
        {"mamba", "jamba", "nemotron_h", "bert"} | {model.config["model_type"] for model in MODELS}
    )
)


@given(
    st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON, max_size=10),
    st.fixed_dictionaries({}, optional={"model_type": TYPES}),
    st.booleans(),
)
def test_any_json_gives_facts_or_an_error_of_ours(
    fields: dict[str, Any], more: dict[str, Any], whole: bool
) -> None:
    content = {**(DENSE if whole else {}), **fields, **more}
    found = attempt(lambda: facts_of_config(content, "config.json"))
    if found is not None:
        assert found.weight_bytes >= 0 and found.kv_bytes_per_token >= 0 and found.layers > 0
        assert json.loads(msgspec.json.encode(found))["layers"] == found.layers
