"""Rerank responses have Jina's shape, whatever dialect the engine speaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

TEXTS = ["none", "xx", "xxxx", "x"]
"""The fake engine likes x."""
BEST_FIRST = [2, 1, 3, 0]


@pytest.fixture(params=["vllm", "llama_cpp", "tei"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plane(dialect: str, fake_engines: Engines, router: Routers) -> DataPlaneRouter:
    engine = fake_engines(1)[0]
    engine.defaults(rerank=dialect)
    # vLLM and llama.cpp rank in the shape of Jina's API, which is no dialect of its own here.
    dialects = ["openai", "tei"] if dialect == "tei" else ["openai"]
    return router([engine], served_name="the/engines name", model={"dialects": dialects})


def rerank(plane: DataPlaneRouter, path: str = "/v1/rerank", **fields: Any) -> dict[str, Any]:
    body = {"model": "default", "query": "which has most x?", "documents": TEXTS, **fields}
    response = plane.request("POST", path, body)
    assert response.status == 200, response.body
    assert response.header("content-type") == "application/json"
    document: dict[str, Any] = response.json()
    assert document["model"] == "default"
    assert document["object"] == "list"
    assert set(document["usage"]) >= {"prompt_tokens", "total_tokens"}
    return document


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_the_results_come_best_first_with_their_documents(
    plane: DataPlaneRouter, path: str
) -> None:
    results = rerank(plane, path)["results"]
    assert [result["index"] for result in results] == BEST_FIRST
    assert [result["document"]["text"] for result in results] == [
        TEXTS[index] for index in BEST_FIRST
    ]
    assert [result["relevance_score"] for result in results] == [3.5, 1.5, 0.5, -0.5]


@pytest.mark.parametrize("top_n", [1, 2, 4, 100])
def test_there_are_at_most_top_n_results(plane: DataPlaneRouter, top_n: int) -> None:
    results = rerank(plane, top_n=top_n)["results"]
    assert [result["index"] for result in results] == BEST_FIRST[:top_n]


def test_documents_are_left_out_when_nobody_wants_them(plane: DataPlaneRouter) -> None:
    results = rerank(plane, return_documents=False)["results"]
    assert [result["index"] for result in results] == BEST_FIRST
    assert all("document" not in result for result in results)


def test_documents_may_be_objects_with_a_text(plane: DataPlaneRouter) -> None:
    results = rerank(plane, documents=[{"text": text} for text in TEXTS], return_documents=True)[
        "results"
    ]
    assert [result["document"]["text"] for result in results] == [
        TEXTS[index] for index in BEST_FIRST
    ]


def test_texts_that_are_hard_to_quote_come_back_as_they_were(plane: DataPlaneRouter) -> None:
    odd = ['x "quoted" \\ \n\t', "x \u2028 é 日本 \U0001f600", "x </script>", ""]
    results = rerank(plane, documents=odd)["results"]
    assert sorted(result["document"]["text"] for result in results) == sorted(odd)


def test_an_engines_error_is_no_ranking(plane: DataPlaneRouter) -> None:
    body = {"model": "m", "query": "q", "documents": ["a"]}
    response = plane.request(
        "POST", "/v1/rerank", body, headers=[("X-Fake", '{"status": 422, "error": "too long"}')]
    )
    assert response.status == 422
    assert "too long" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "says",
    [
        '{"results": [{"index": 0, "relevance_score": "x"}, {"index": 1, "relevance_score": 1}]}',
        '[{"index": 0, "score": "x"}, {"index": 1, "score": 1}]',
        '[{"index": 0, "score": 1}, {"index": 7, "score": 1}]',
        '[{"index": 0, "score": 1}, {"index": 0, "score": 1}]',
        '[{"index": 0, "score": 1}]',
        "[]",
    ],
)
def test_what_is_no_ranking_of_the_documents_is_502(plane: DataPlaneRouter, says: str) -> None:
    body = {"model": "default", "query": "q", "documents": ["a", "b"]}
    orders = [("X-Fake", json.dumps({"body_text": says}))]
    response = plane.request("POST", "/v1/rerank", body, headers=orders)
    assert response.status == 502, response.body
    assert "The engine" in response.json()["error"]["message"]


def test_a_request_too_long_to_be_held_is_413_and_reaches_no_engine(
    fake_engines: Engines, router: Routers
) -> None:
    engine = fake_engines(1)[0]
    body = {"model": "default", "query": "q", "documents": ["x" * (65 << 20)]}
    response = router([engine]).request("POST", "/v1/rerank", body)
    assert response.status == 413
    assert response.json()["error"]["message"].endswith(".")
    assert engine.inference() == []
