"""The memory of a GPU, part by part."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from sizing.published import MODELS, Published

from gpustack_fast.sizing import Estimate, Load, ModelFacts, estimate
from gpustack_fast.sizing.config_json import facts_of_config

GIB = 1 << 30


def published(name: str) -> ModelFacts:
    [model] = [one for one in MODELS if one.name.endswith(name)]
    return facts_of_config(model.config, "config.json")


def load(**fields: Any) -> Load:
    return Load(**{"context": 8192, "sequences": 1, **fields})


def part(found: Estimate, name: str) -> int:
    [one] = [one for one in found.parts if one.name == name]
    return one.bytes


def cache(name: str, **fields: Any) -> int:
    return part(estimate(published(name), load(**fields)), "kv_cache")


def weights(name: str, **fields: Any) -> int:
    return part(estimate(published(name), load(**fields)), "weights")


def test_an_estimate_names_its_parts_and_how_each_is_reckoned() -> None:
    found = estimate(published("Llama-3.1-8B-Instruct"), load(sequences=4))
    assert [one.name for one in found.parts] == [
        "weights",
        "kv_cache",
        "activations",
        "graphs",
        "runtime",
    ]
    assert found.total == sum(one.bytes for one in found.parts)
    [how] = [one.how for one in found.parts if one.name == "kv_cache"]
    assert how == "(131,072 bytes x 8,192 tokens) x 4 sequences"


def test_a_model_of_8_billion_takes_about_what_it_is_known_to_take() -> None:
    found = estimate(published("Llama-3.1-8B-Instruct"), load())
    assert part(found, "weights") == 2 * 8_030_261_248
    assert part(found, "kv_cache") == GIB
    # vLLM reports some 1.2 GiB of activations and 0.6 GiB of graphs for it.
    assert GIB < part(found, "activations") < 2 * GIB
    assert 19 * GIB < found.total < 22 * GIB


def test_the_cache_is_divided_as_far_as_there_are_heads() -> None:
    name = "Llama-3.1-8B-Instruct"  # 8 heads
    assert [cache(name, tensor=tensor) * 8 // GIB for tensor in (1, 2, 4, 8, 16)] == [8, 4, 2, 1, 1]


def test_the_cache_of_mla_is_whole_on_each_gpu() -> None:
    assert cache("DeepSeek-V3", tensor=8) == cache("DeepSeek-V3") == 8192 * 61 * 576 * 2


def test_a_pipeline_divides_the_layers_of_the_cache() -> None:
    assert cache("Llama-3.1-8B-Instruct", pipeline=2) == GIB // 2
    assert cache("DeepSeek-V3", pipeline=2) == 8192 * 31 * 576 * 2  # the longer of 30 and 31


def test_a_window_bounds_what_a_layer_keeps() -> None:
    name, each = "Mistral-7B-v0.1", 131_072
    short = cache(name, context=2048, batched_tokens=512)
    long = cache(name, context=32_768, batched_tokens=512)
    assert short == each * (2048 + 16)
    assert long == each * (4096 + 512 + 16)
    # What comes in one step is kept beside the window.
    assert cache(name, context=32_768, batched_tokens=32_768) == each * (32_768 + 16)


def test_layers_with_windows_are_padded_to_groups_as_vllm_does() -> None:
    # 10 layers keep all, 52 a window: 6 groups of 10.
    each = 2 * 16 * 128 * 2
    found = cache("gemma-3-27b-it", context=65_536, batched_tokens=1024)
    assert found == each * (10 * 65_536 + 60 * (1024 + 1024 + 16))


def test_so_are_layers_that_keep_all_where_they_are_more() -> None:
    facts = msgspec.structs.replace(
        published("Llama-3.1-8B-Instruct"),
        kv_window_bytes_per_token=400.0,
        window=1024,
        window_layers=4,
        full_layers=10,
        kv_bytes_per_token=1000.0,
    )
    found = part(estimate(facts, load(context=65_536, batched_tokens=1024)), "kv_cache")
    # 10 layers in 3 groups of 4.
    assert found == 100 * (12 * 65_536 + 4 * (1024 + 1024 + 16))
    few = msgspec.structs.replace(facts, full_layers=5, kv_bytes_per_token=500.0)
    found = part(estimate(few, load(context=65_536, batched_tokens=1024)), "kv_cache")
    assert found == 100 * (5 * 65_536 + 5 * (1024 + 1024 + 16))


def test_the_type_of_the_cache_scales_it() -> None:
    assert cache("Qwen3-8B", kv_dtype_bytes=1) * 2 == cache("Qwen3-8B")


def test_what_computes_in_another_type_keeps_that_type() -> None:
    assert cache("Qwen3-8B", dtype_bytes=4) == 2 * cache("Qwen3-8B")
    assert cache("Qwen3-8B", dtype_bytes=4, kv_dtype_bytes=1) * 2 == cache("Qwen3-8B")
    facts = msgspec.structs.replace(published("Qwen3-8B"), generates=False)
    plain = part(estimate(facts, load()), "activations")
    assert part(estimate(facts, load(dtype_bytes=4)), "activations") == 2 * plain
    facts = published("Qwen3-Next-80B-A3B-Instruct")
    grown = cache("Qwen3-Next-80B-A3B-Instruct", dtype_bytes=4)
    assert grown == 2 * (facts.kv_bytes_per_token * 8192 + facts.state_bytes)
    narrow = cache("Qwen3-Next-80B-A3B-Instruct", dtype_bytes=1)
    assert narrow == facts.kv_bytes_per_token * 4096 + facts.state_bytes


def test_a_state_does_not_grow_with_the_context() -> None:
    name = "Qwen3-Next-80B-A3B-Instruct"
    facts = published(name)
    grown = cache(name, context=16_384) - cache(name, context=8192)
    assert grown == facts.kv_bytes_per_token * 8192
    assert cache(name, context=8192) == facts.kv_bytes_per_token * 8192 + facts.state_bytes


def test_an_encoder_needs_no_cache_and_no_logits() -> None:
    found = estimate(published("bge-m3"), load())
    assert part(found, "kv_cache") == 0
    assert part(found, "activations") == 8192 * 1024 * 4 * 16


def test_weights_are_divided() -> None:
    name = "Llama-3.1-70B-Instruct"
    whole = weights(name)
    assert weights(name, tensor=4) == whole // 4
    # Each end of a pipeline has an embedding.
    embedding = 128_256 * 8192 * 2
    assert weights(name, pipeline=4) == (whole - embedding) // 4 + embedding


def test_an_engine_may_change_the_type_of_the_weights() -> None:
    assert weights("Qwen3-8B", weight_bytes=1000) == 1000


def test_activations_grow_with_tokens_sequences_and_vocabulary() -> None:
    facts = published("Qwen3-8B")

    def activations(**fields: Any) -> int:
        return part(estimate(facts, load(**fields)), "activations")

    assert activations(batched_tokens=16_384) > activations(batched_tokens=8192)
    assert activations(sequences=1024) - activations(sequences=512) == 512 * 151_936 * 4
    assert activations(tensor=2) < activations()


def test_graphs_are_optional() -> None:
    found = estimate(published("Qwen3-8B"), load(graphs=False))
    assert "graphs" not in [one.name for one in found.parts]


def test_gpus_that_work_together_have_buffers() -> None:
    facts = msgspec.structs.replace(published("Qwen3-8B"), weight_bytes=0)
    one = part(estimate(facts, load()), "runtime")
    assert part(estimate(facts, load(tensor=2)), "runtime") == one + 512 * 1024 * 1024


def test_a_pipeline_of_images_is_its_weights_and_a_process() -> None:
    facts = ModelFacts(
        architecture="FluxPipeline",
        format="safetensors",
        generates=False,
        weight_bytes=10 * GIB,
        parameters=0,
        dtype_bytes=2,
        layers=0,
        heads=0,
        kv_heads=0,
        vocabulary=0,
        hidden=0,
        context=0,
        kv_bytes_per_token=0,
    )
    found = estimate(facts, load(tensor=2, pipeline=2, graphs=False))
    assert part(found, "weights") == 5 * GIB
    assert part(found, "kv_cache") == part(found, "activations") == 0


def test_an_estimate_is_a_number_of_every_document_whatever_was_written() -> None:
    most = 1 << 62
    facts = msgspec.structs.replace(
        published("gemma-3-27b-it"),
        weight_bytes=most,
        kv_bytes_per_token=float(most),
        kv_window_bytes_per_token=float(most),
        state_bytes=most,
        vocabulary=1 << 28,
        hidden=1 << 24,
    )
    huge = load(context=10**30, sequences=256, batched_tokens=10**30)
    found = estimate(facts, huge)
    assert found.total < 1 << 63
    assert msgspec.json.decode(msgspec.json.encode(found), type=Estimate) == found


@given(
    model=st.sampled_from(MODELS),
    context=st.integers(1, 200_000),
    sequences=st.integers(1, 300),
    batched=st.integers(1, 40_000),
    tensor=st.sampled_from([1, 2, 4, 8, 16]),
    pipeline=st.integers(1, 8),
)
def test_more_load_never_takes_less_and_more_gpus_never_more(
    model: Published, context: int, sequences: int, batched: int, tensor: int, pipeline: int
) -> None:
    facts = facts_of_config(model.config, "config.json")
    base = load(
        context=context,
        sequences=sequences,
        batched_tokens=batched,
        tensor=tensor,
        pipeline=pipeline,
    )
    found = estimate(facts, base)
    assert all(one.bytes >= 0 and one.how for one in found.parts)
    for name in ("context", "sequences", "batched_tokens"):
        more = msgspec.structs.replace(base, **{name: getattr(base, name) * 2})
        assert estimate(facts, more).total >= found.total
    for name in ("tensor", "pipeline"):
        more = msgspec.structs.replace(base, **{name: getattr(base, name) * 2})
        divided = estimate(facts, more)
        assert part(divided, "weights") <= part(found, "weights")
        assert part(divided, "kv_cache") <= part(found, "kv_cache")
    assert msgspec.json.decode(msgspec.json.encode(found), type=Estimate) == found
