"""The sizes that authors publish, from the fields of their configurations alone."""

from __future__ import annotations

import pytest
from sizing.published import MODELS, Published

from gpustack_fast.sizing.config_json import facts_of_config
from gpustack_fast.sizing.documents import ModelFacts

NAMED = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)


def facts_of(model: Published) -> ModelFacts:
    return facts_of_config(model.config, "config.json")


@NAMED
def test_the_number_of_parameters_is_the_one_that_is_published(model: Published) -> None:
    found = facts_of(model).parameters
    assert abs(found - model.parameters) <= model.parameters * model.tolerance


@NAMED
def test_the_cache_of_a_token_is_that_of_its_layers_heads_and_widths(model: Published) -> None:
    facts = facts_of(model)
    scale = facts.dtype_bytes / 2
    assert facts.kv_bytes_per_token == model.kv_bytes_per_token * scale
    assert facts.kv_window_bytes_per_token == model.window_bytes_per_token * scale


@NAMED
def test_no_published_model_is_called_unknown(model: Published) -> None:
    assert not any("not known" in one for one in facts_of(model).assumptions)


def qwen3(hidden: int, inner: int, layers: int, heads: int, pairs: int, head: int) -> ModelFacts:
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "dtype": "bfloat16",
        "head_dim": head,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "max_position_embeddings": 2048,
        "model_type": "qwen3",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": pairs,
        "tie_word_embeddings": True,
        "vocab_size": 259,
    }
    return facts_of_config(config, "config.json")


def test_two_generated_models_have_exactly_the_parameters_that_torch_counted() -> None:
    assert qwen3(128, 256, 2, 4, 2, 32).parameters == 328_832
    assert qwen3(1024, 4096, 16, 16, 4, 64).parameters == 243_570_688


def test_a_gibibyte_holds_as_many_tokens_as_vllm_logged() -> None:
    each = qwen3(128, 256, 2, 4, 2, 32).kv_bytes_per_token
    assert (1 << 30) / each == 2_097_152
