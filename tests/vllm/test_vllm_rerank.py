"""Rerank in Jina's shape, and scores, of a real vLLM through the whole product."""

from __future__ import annotations

from typing import Any

import pytest

from harness import ServedRouter
from vllm_engine import VllmEngine, ask

NAMES = pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])

DOCUMENTS = ["Paris is a city.", "Rome was not built in a day.", "☃"]


def rerank(router: ServedRouter, path: str = "/v1/rerank", **fields: Any) -> Any:
    body = {"model": "tiny", "query": "A city", "documents": DOCUMENTS, **fields}
    response = ask(router, "POST", path, body)
    assert response.status == 200, response.body
    return response.json()


@NAMES
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_the_response_has_jinas_shape(reranking_router: ServedRouter, name: str, path: str) -> None:
    response = rerank(reranking_router, path, model=name)
    assert response["model"] == name
    assert response["object"] == "list"
    scores = [result["relevance_score"] for result in response["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in response["results"]) == [0, 1, 2]
    for result in response["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    assert set(response["usage"]) == {"prompt_tokens", "total_tokens"}


def test_the_scores_are_the_engines(reranking_router: ServedRouter, reranker: VllmEngine) -> None:
    body = {"model": reranker.model, "query": "A city", "documents": DOCUMENTS}
    direct = reranker.request("POST", "/v1/rerank", body).json()["results"]
    through = rerank(reranking_router)["results"]
    expected = [(one["index"], one["relevance_score"]) for one in direct]
    assert [(one["index"], one["relevance_score"]) for one in through] == expected


def test_at_most_top_n_results_come(reranking_router: ServedRouter) -> None:
    every = [result["index"] for result in rerank(reranking_router)["results"]]
    assert [result["index"] for result in rerank(reranking_router, top_n=2)["results"]] == every[:2]


def test_documents_stay_out_when_nobody_wants_them(reranking_router: ServedRouter) -> None:
    response = rerank(reranking_router, return_documents=False)
    assert all(set(result) == {"index", "relevance_score"} for result in response["results"])


def test_documents_may_be_objects_with_a_text(reranking_router: ServedRouter) -> None:
    # vLLM itself takes strings alone.
    objects = rerank(
        reranking_router, documents=[{"text": DOCUMENTS[0]}, DOCUMENTS[1], {"text": DOCUMENTS[2]}]
    )
    assert objects["results"] == rerank(reranking_router)["results"]


def test_an_error_of_the_engine_keeps_its_status(reranking_router: ServedRouter) -> None:
    response = ask(
        reranking_router,
        "POST",
        "/v1/rerank",
        {"model": "tiny", "query": 5, "documents": DOCUMENTS},
    )
    assert response.status == 400
    assert response.json()["error"]["message"]


@NAMES
def test_a_score_for_each_text(reranking_router: ServedRouter, name: str) -> None:
    body = {"model": name, "text_1": "A city", "text_2": DOCUMENTS}
    response = ask(reranking_router, "POST", "/v1/score", body).json()
    assert response["model"] == name
    assert [one["index"] for one in response["data"]] == [0, 1, 2]
    assert len({one["score"] for one in response["data"]}) == 3


def test_an_endpoint_that_the_engine_lacks_is_a_404(reranking_router: ServedRouter) -> None:
    response = ask(reranking_router, "POST", "/v1/embeddings", {"model": "tiny", "input": "Hello"})
    assert response.status == 404
    assert response.json()["error"]["message"]
