"""Base URLs that are wrong: what leaves no doubt works, else a 404 says what to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

ASKED = {
    "chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "m", "prompt": "hi"},
    "messages": {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
    },
    "responses": {"model": "m", "input": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "rerank": {"model": "m", "query": "hi", "documents": ["a", "b"]},
}


@pytest.fixture
def engine(fake_engines: Engines) -> FakeEngine:
    return fake_engines(1)[0]


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    return router([engine], model={"dialects": ["openai", "anthropic"]})


@pytest.mark.parametrize("endpoint", ASKED)
@pytest.mark.parametrize(
    "form", ["/v1/v1/{}", "/{}", "/v1/{}/", "//v1//{}", "/v1/v1/{}//?beta=true"]
)
def test_a_path_that_can_mean_one_thing_only_leads_there(
    plane: DataPlaneRouter, engine: FakeEngine, form: str, endpoint: str
) -> None:
    response = plane.request("POST", form.format(endpoint), ASKED[endpoint])
    assert response.status == 200, response.body
    query = "?beta=true" if "?" in form else ""
    assert engine.last()["target"] == f"/v1/{endpoint}{query}", "the engine gets the right path"
    assert plane.records()[0].path == f"/v1/{endpoint}"


@pytest.mark.parametrize("path", ["/models", "/v1/v1/models", "/v1/models/", "//models//"])
def test_the_list_of_models_is_found_so_too(plane: DataPlaneRouter, path: str) -> None:
    assert [model["id"] for model in plane.request("GET", path).json()["data"]] == ["m", "default"]
    one = plane.request("GET", f"{path.rstrip('/')}/default/")
    assert one.json()["id"] == "default"


def test_a_corrected_path_asks_for_a_key_as_the_right_one_does(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    for path in ("/chat/completions", "/v1/v1/chat/completions", "/models"):
        method, body = ("GET", None) if path == "/models" else ("POST", ASKED["chat/completions"])
        response = plane.request(method, path, body, key=None)
        assert response.status == 401, path
    assert not engine.inference()


def test_a_stored_response_is_found_under_a_wrong_base_url(plane: DataPlaneRouter) -> None:
    made = plane.request("POST", "/v1/v1/responses", {"model": "m", "input": "hi"}).json()
    for path in ("/responses/{}", "/v1/v1/responses/{}", "/v1/responses/{}/"):
        assert plane.request("GET", path.format(made["id"])).json()["id"] == made["id"]
    plane.add_key("fedcba9876543210", "another-key-of-somebody")
    other = plane.request("GET", f"/responses/{made['id']}", key="another-key-of-somebody")
    assert other.status == 404, "whose it is is asked as ever"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/chat/completion", "Did you mean /v1/chat/completions?"),
        ("/openai/v1/chat/completions", "Take /openai out of the base URL"),
        ("/v1/chat/completions/chat/completions", "Take /v1/chat/completions out of the base URL"),
        ("/api/chat", "Ollama"),
    ],
)
def test_what_could_mean_something_else_says_what_to_change(
    plane: DataPlaneRouter, engine: FakeEngine, path: str, told: str
) -> None:
    response = plane.request("POST", path, ASKED["chat/completions"])
    assert response.status == 404
    assert told in response.json()["error"]["message"]
    anthropic = {"headers": [("anthropic-version", "2023-06-01")]}
    document = plane.request("POST", path, ASKED["messages"], **anthropic).json()
    assert (document["type"], document["error"]["type"]) == ("error", "not_found_error")
    assert told in document["error"]["message"]
    assert not engine.inference()


def test_anthropics_path_behind_a_prefix_is_explained_in_its_dialect(
    plane: DataPlaneRouter,
) -> None:
    document = plane.request("POST", "/anthropic/v1/messages", ASKED["messages"]).json()
    assert document["type"] == "error"
    assert "Take /anthropic out of the base URL" in document["error"]["message"]


def test_the_generic_proxys_paths_stay_as_they_are(router: Routers, engine: FakeEngine) -> None:
    plane = router([engine], routes=None)
    assert plane.request("POST", "//model/proxy/v1/chat/completions", {"model": "m"}).status != 200
    assert (
        plane.request("POST", "/v1/model/proxy/v1/chat/completions", {"model": "m"}).status == 404
    )
    assert not engine.inference()


def test_the_root_says_what_this_is(plane: DataPlaneRouter) -> None:
    response = plane.request("GET", "/", key=None)
    assert response.status == 200
    about: dict[str, Any] = response.json()
    assert about["name"] == "gpustack-fast"
    assert about["version"]
    assert "/v1" in about["message"]
    head = plane.request("HEAD", "/", key=None)
    assert (head.status, head.body) == (200, b"")
    assert plane.request("POST", "/", {}).status == 405


def test_health_is_answered_under_the_name_that_engines_have_for_it(
    plane: DataPlaneRouter,
) -> None:
    assert plane.request("GET", "/health", key=None).status == 200
    assert plane.request("HEAD", "/health", key=None).status == 200
