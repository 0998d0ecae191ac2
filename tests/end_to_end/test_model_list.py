"""`/v1/models`, in the shape of OpenAI's API and of Anthropic's."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from harness import DataPlaneRouter, FakeEngine, ServedRouter, external
from raw_http import eventually
from seam_samples import route_entry, target_entry

Routers = Callable[..., DataPlaneRouter]

NAMES = ["a", "b", "org/c", "d", "e"]
ANTHROPIC = [("anthropic-version", "2023-06-01")]


@pytest.fixture
def plane(fake_engines: Callable[..., list[FakeEngine]], router: Routers) -> DataPlaneRouter:
    routes = [
        route_entry(name, [target_entry()], created=1_767_323_045, meta={"owner": name})
        for name in NAMES
    ]
    return router(fake_engines(1), routes=routes)


def listed(plane: DataPlaneRouter, query: str = "") -> Any:
    response = plane.request("GET", f"/v1/models{query}", headers=ANTHROPIC)
    assert response.status == 200, response.body
    return response.json()


def ids(document: Any) -> list[str]:
    return [model["id"] for model in document["data"]]


def test_clients_of_openais_api_get_its_list_and_nothing_else(plane: DataPlaneRouter) -> None:
    document = plane.request("GET", "/v1/models?limit=2").json()
    assert document.keys() == {"object", "data"}
    assert document["data"][0] == {
        "id": "a",
        "object": "model",
        "created": 1_767_323_045,
        "owned_by": "gpustack",
    }
    assert ids(document) == NAMES, "`limit` is no word of that API"


def test_clients_of_anthropics_api_get_its_list_with_openais_members(
    plane: DataPlaneRouter,
) -> None:
    document = listed(plane)
    assert (document["has_more"], document["first_id"], document["last_id"]) == (False, "a", "e")
    assert document["object"] == "list"
    for name, model in zip(NAMES, document["data"], strict=True):
        assert (model["type"], model["id"], model["display_name"]) == ("model", name, name)
        assert model["object"] == "model"
        created = datetime.datetime.fromisoformat(model["created_at"])
        assert created.timestamp() == model["created"] == 1_767_323_045
    one = plane.request("GET", "/v1/models/org/c", headers=ANTHROPIC).json()
    assert one == document["data"][2]


@pytest.mark.parametrize(
    ("query", "found", "has_more"),
    [
        ("?limit=1000", NAMES, False),
        ("?limit=2", ["a", "b"], True),
        ("?limit=5", NAMES, False),
        ("?limit=2&after_id=b", ["org/c", "d"], True),
        ("?limit=2&after_id=org%2Fc", ["d", "e"], False),
        ("?after_id=e", [], False),
        ("?limit=2&before_id=d", ["b", "org/c"], True),
        ("?limit=5&before_id=org/c", ["a", "b"], False),
        ("?before_id=a", [], False),
    ],
)
def test_a_page_is_what_was_asked_for(
    plane: DataPlaneRouter, query: str, found: list[str], has_more: bool
) -> None:
    document = listed(plane, query)
    assert (ids(document), document["has_more"]) == (found, has_more)
    ends = (found[0], found[-1]) if found else (None, None)
    assert (document["first_id"], document["last_id"]) == ends


@pytest.mark.parametrize(
    "query",
    [
        "?limit=0",
        "?limit=1001",
        "?limit=x",
        "?limit=-1",
        "?limit=",
        "?after_id=z",
        "?before_id=z",
        "?after_id=a&before_id=b",
    ],
)
def test_a_page_that_cannot_be_is_an_error_of_that_api(plane: DataPlaneRouter, query: str) -> None:
    response = plane.request("GET", f"/v1/models{query}", headers=ANTHROPIC)
    assert response.status == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["type"] == "error"


def test_other_errors_of_the_list_are_of_that_api_too(plane: DataPlaneRouter) -> None:
    response = plane.request("GET", "/v1/models/nobody", headers=ANTHROPIC)
    assert (response.status, response.json()["error"]["type"]) == (404, "not_found_error")
    response = plane.request("GET", "/v1/models", headers=ANTHROPIC, key=None)
    assert (response.status, response.json()["error"]["type"]) == (401, "authentication_error")


def test_a_page_shows_only_what_the_key_may_use(plane: DataPlaneRouter) -> None:
    plane.add_key("fedcba9876543210", "a-key-for-two-models", allowed_models=["b", "d"])
    document = plane.request(
        "GET", "/v1/models?limit=1", headers=ANTHROPIC, key="a-key-for-two-models"
    ).json()
    assert (ids(document), document["has_more"]) == (["b"], True)
    beyond = plane.request(
        "GET", "/v1/models?after_id=a", headers=ANTHROPIC, key="a-key-for-two-models"
    )
    assert beyond.status == 400, "the id of another is that of none"


def test_the_length_of_the_context_stands_there_under_every_name_that_clients_read(
    fake_engines: Callable[..., list[FakeEngine]], router: Routers
) -> None:
    plane = router(fake_engines(1), instance={"context_length": 40_960})
    (model, _) = plane.request("GET", "/v1/models").json()["data"]
    assert (model["max_model_len"], model["context_length"]) == (40_960, 40_960)
    assert "max_input_tokens" not in model
    (model, _) = listed(plane)["data"]
    assert (model["max_input_tokens"], model["max_model_len"]) == (40_960, 40_960)
    assert plane.request("GET", "/v1/models/m").json()["context_length"] == 40_960


def test_engines_are_asked_for_it_again_whenever_they_come_back(
    fake_engines: Callable[..., list[FakeEngine]], serve: Callable[..., ServedRouter]
) -> None:
    engines = fake_engines(2)
    for engine, length in zip(engines, (32_768, 16_384), strict=True):
        engine.arguments += ["--defaults", json.dumps({"max_model_len": length})]
        engine.restart()
    server = serve(external(engines))

    def lengths() -> list[int | None]:
        models = server.request("GET", "/v1/models").json()["data"]
        return [model.get("context_length") for model in models]

    eventually(lambda: lengths() == [16_384, 16_384], "the least of both")
    engines[1].kill()
    eventually(lambda: server.running() == 1, "it is missed")
    engines[1].arguments[-1] = json.dumps({"max_model_len": 65_536})
    engines[1].start()
    eventually(lambda: lengths() == [32_768, 32_768], "what it tells now")


def test_anthropics_own_sdk_reads_every_page(plane: DataPlaneRouter) -> None:
    client = anthropic.Anthropic(base_url=plane.address, api_key=plane.key, max_retries=0)
    models = list(client.models.list(limit=2))
    assert [model.id for model in models] == NAMES
    assert [model.display_name for model in models] == NAMES
    assert client.models.retrieve("org/c").created_at.year == 2026
