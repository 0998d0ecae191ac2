"""How long a context is, as engines tell it."""

from __future__ import annotations

from typing import Any

import pytest

from gpustack_fast.backends import ENGINES, context_length


def models(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(entries)}


@pytest.mark.parametrize(
    ("document", "length"),
    [
        (models({"id": "m", "max_model_len": 32768}), 32768),  # vLLM, SGLang
        (models({"id": "m", "meta": {"n_ctx_train": 8192}}), None),  # an older llama.cpp
        (models({"id": "m", "meta": {"n_ctx": 4096, "n_ctx_train": 8192}}), 4096),
        ({"model_id": "m", "max_input_length": 512}, 512),  # text-embeddings-inference
        (models({"id": "m", "context_length": 200000}), 200000),
        (models({"id": "m", "context_window": 131072}), 131072),
        (models({"id": "m", "max_context_length": 1024}), 1024),
        (models({"id": "m", "max_model_len": None, "meta": {"n_ctx": 7}}), 7),
        (models({"id": "other", "max_model_len": 9}), 9),
        (models({"id": "n", "max_model_len": 1}, {"id": "m", "max_model_len": 2}), 2),
        (models({"id": "n", "max_model_len": 1}, {"id": "o", "max_model_len": 2}), None),
        (models({"id": "m", "max_model_len": None}, {"id": "n", "max_model_len": 2}), None),
        (models({"id": "m"}), None),
        (models(), None),
    ],
)
def test_it_is_read_from_every_engine_s_answer(document: Any, length: int | None) -> None:
    assert context_length(document, "m") == length


@pytest.mark.parametrize("value", [True, 0, -1, 4096.5, "4096", [], {}, None, 2**60])
def test_what_is_no_number_of_tokens_is_not_told(value: Any) -> None:
    assert context_length(models({"id": "m", "max_model_len": value}), "m") is None
    assert context_length(models({"id": "m", "meta": {"n_ctx": value}}), "m") is None
    assert context_length({"max_input_length": value}, "m") is None


@pytest.mark.parametrize(
    "document",
    [
        None,
        1,
        "x",
        [],
        [{"id": "m", "max_model_len": 1}],
        {},
        {"data": {}},
        {"data": None},
        {"data": ["m", 1, None]},
        models({"id": "m", "meta": [1]}),
        models({"id": ["m"]}),
    ],
)
def test_whatever_else_an_engine_says_tells_nothing(document: Any) -> None:
    assert context_length(document, "m") is None


def test_every_kind_of_engine_is_asked_at_a_path_that_it_has() -> None:
    paths = {name: engine.facts.context_path for name, engine in ENGINES.items()}
    assert paths.pop("tei") == "/info"
    assert set(paths.values()) == {"/v1/models"}
