"""Routes: names of any shape, weighted targets over several models, fallback, and access."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import Response, chat, eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]


def route(name: str, *targets: Any, **fields: Any) -> Any:
    from seam_samples import route_entry, target_entry

    entries = [target_entry(one) if isinstance(one, str) else one for one in targets or ("m",)]
    return route_entry(name=name, created=1, targets=entries, **fields)


def target(model: str, **fields: Any) -> Any:
    from seam_samples import target_entry

    return target_entry(model=model, **fields)


def key_of(digit: str) -> str:
    return f"gpustack_{digit * 16}_{'0' * 32}"


@pytest.fixture
def engines(fake_engines: Engines) -> list[FakeEngine]:
    return fake_engines(2)


@pytest.fixture
def two_models(engines: list[FakeEngine], router: Routers) -> Callable[..., DataPlaneRouter]:
    """`two_models(routes)`: models `m` and `spare`, with an engine each."""

    def start(*routes: Any, **options: Any) -> DataPlaneRouter:
        return router([engines[0]], others={"spare": engines[1]}, routes=list(routes), **options)

    return start


def served(engines: list[FakeEngine]) -> list[int]:
    """Inference requests that each engine got."""
    return [len(engine.inference()) for engine in engines]


# --- names ---


@pytest.mark.parametrize(
    "name",
    ["alias", "Qwen/Qwen3-8B", "base:lora", "owner/base:lora", "é 日本", "with space", "a%2Fb"],
)
def test_a_route_of_any_name_is_used_listed_and_shown(
    two_models: Callable[..., DataPlaneRouter], name: str, engines: list[FakeEngine]
) -> None:
    plane = two_models(route(name))
    response = plane.chat(chat(name))
    assert response.status == 200, response.body
    assert response.json()["model"] == name
    assert engines[0].last()["model"] == "m"
    listed = plane.request("GET", "/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == [name]
    from urllib.parse import quote

    for written in (quote(name, safe=""), quote(name, safe="/:")):
        shown = plane.request("GET", f"/v1/models/{written}")
        assert shown.status == 200, shown.body
        assert shown.json()["id"] == name


def test_names_are_compared_exactly(two_models: Callable[..., DataPlaneRouter]) -> None:
    plane = two_models(route("Alias"))
    for name in ("alias", "Alias ", " Alias", "ALIAS", "Alias/"):
        assert plane.chat(chat(name)).status == 404


def test_a_target_may_have_a_name_of_its_own(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("m:tuned", target("m", served_name="tuned-adapter")))
    response = plane.chat(chat("m:tuned", stream=True))
    assert engines[0].last()["model"] == "tuned-adapter"
    assert {json.loads(event)["model"] for event in response.events()[:-1]} == {"m:tuned"}


# --- weights ---


def test_targets_get_requests_by_their_weights(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("both", target("m", weight=300), target("spare", weight=100)))
    with plane.client() as client:
        for _ in range(400):
            assert (
                client.request("POST", "/v1/chat/completions", chat("both"), key=KEY).status == 200
            )
    first, second = served(engines)
    assert first + second == 400
    assert 240 < first < 360, "three quarters are 300; 60 are seven standard deviations"


def test_a_target_of_weight_nothing_gets_nothing(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("both", target("m"), target("spare", weight=0)))
    for _ in range(20):
        assert plane.chat(chat("both")).status == 200
    assert served(engines) == [20, 0]


def test_a_target_without_a_running_instance_is_passed_over(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("both", target("m"), target("spare")))
    plane.states = ["error"]
    plane.publish()
    for _ in range(10):
        assert plane.chat(chat("both")).status == 200
    assert served(engines) == [0, 10]


# --- fallback ---


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_a_5xx_falls_back_where_that_was_chosen(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine], status: int, stream: bool
) -> None:
    plane = two_models(route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])))
    engines[0].defaults(status=status)
    response = plane.chat(chat("safe", "a nonce", stream=stream))
    assert response.status == 200, response.body
    assert b"a nonce" in response.body
    assert b'"safe"' in response.body and b'"spare"' not in response.body
    assert served(engines) == [1, 1]
    assert engines[1].last()["model"] == "spare"
    failures = [instance.failures for instance in plane.plane.stats().instances]
    assert failures == [1, 0], "its answer counts, though nobody saw it"


@pytest.mark.parametrize("status", [400, 404, 422, 429])
def test_a_4xx_falls_back_only_where_that_was_chosen(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine], status: int
) -> None:
    plane = two_models(
        route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])),
        route("safer", target("m"), target("spare", weight=0, fallback=["4xx", "5xx"])),
    )
    engines[0].defaults(status=status)
    assert plane.chat(chat("safe")).status == status
    assert served(engines) == [1, 0]
    assert plane.chat(chat("safer")).status == 200
    assert served(engines) == [2, 1]


def test_a_5xx_stays_where_no_fallback_was_chosen(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("plain", target("m"), target("spare", weight=0, fallback=["4xx"])))
    engines[0].defaults(status=500, error="own words")
    response = plane.chat(chat("plain"))
    assert response.status == 500
    assert "own words" in response.json()["error"]["message"]
    assert served(engines) == [1, 0]


def test_the_fallbacks_own_error_is_what_the_caller_gets(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])))
    engines[0].defaults(status=500, error="first")
    engines[1].defaults(status=503, error="second")
    response = plane.chat(chat("safe"))
    assert response.status == 503
    assert "second" in response.json()["error"]["message"]
    assert served(engines) == [1, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_that_stands_in_for_a_target_that_does_not_run_tells_its_own_error(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine], stream: bool
) -> None:
    plane = two_models(route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])))
    plane.states = ["error"]
    plane.publish()
    engines[1].defaults(status=500, error="own words")
    response = plane.chat(chat("safe", stream=stream))
    assert response.status == 500
    assert "own words" in response.json()["error"]["message"]
    assert served(engines) == [0, 1]


def test_a_target_with_a_share_is_no_fallback_for_itself(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(
        route("alone", target("m", fallback=["5xx"])),
        route("safe", target("m", fallback=["5xx"]), target("spare", weight=0, fallback=["5xx"])),
    )
    engines[0].defaults(status=500, error="own words")
    response = plane.chat(chat("alone"))
    assert response.status == 500
    assert "own words" in response.json()["error"]["message"]
    assert served(engines) == [1, 0]
    assert plane.chat(chat("safe")).status == 200
    assert served(engines) == [2, 1]


def test_an_adapter_s_error_falls_back_to_another_name_of_the_same_engine(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    adapter = target("m", served_name="adapter")
    plane = two_models(route("safe", adapter, target("m", weight=0, fallback=["5xx"])))
    engines[0].defaults(status=500, error="own words", times=1)
    assert plane.chat(chat("safe")).status == 200
    assert [entry["model"] for entry in engines[0].inference()] == ["adapter", "m"]


@pytest.mark.parametrize("place", ["before_head", "after_head"])
def test_what_an_engine_took_down_with_it_before_its_first_frame_falls_back(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine], place: str
) -> None:
    plane = two_models(route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])))
    engines[0].defaults(fault={"how": "exit", "at": place})
    response = plane.chat(chat("safe", "a nonce", stream=True))
    assert response.status == 200, response.body
    assert response.events()[-1] == "[DONE]"
    assert len(engines[1].inference()) == 1
    eventually(lambda: not engines[0].alive(), "the engine to end")


def test_nothing_falls_back_after_the_first_frame(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])))
    engines[0].defaults(fault={"how": "close", "at": "at_frame", "after": 1})
    response = plane.chat(chat("safe", stream=True))
    assert "error" in json.loads(response.events()[-1])
    assert served(engines) == [1, 0]


def test_the_fallback_gets_requests_when_nothing_else_runs_and_only_then(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])))
    for _ in range(20):
        assert plane.chat(chat("safe")).status == 200
    assert served(engines) == [20, 0]
    plane.states = ["starting"]
    plane.publish()
    assert plane.chat(chat("safe")).status == 200
    assert served(engines) == [20, 1]


def test_a_large_body_reaches_the_fallback_whole(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("safe", target("m"), target("spare", weight=0, fallback=["5xx"])))
    engines[0].defaults(status=500)
    text = "x" * 500_000
    assert plane.chat(chat("safe", text)).status == 200
    assert engines[1].last()["length"] > 500_000


# --- who may use a route ---


def models_of(plane: DataPlaneRouter, key: str | None, query: str = "") -> list[str]:
    response = plane.request("GET", "/v1/models" + query, key=key)
    assert response.status == 200, response.body
    return [entry["id"] for entry in response.json()["data"]]


@pytest.fixture
def guarded(two_models: Callable[..., DataPlaneRouter]) -> DataPlaneRouter:
    """A route of each policy, and keys: a, "alice", of one route; b, allowed `normal` alone."""
    plane = two_models(
        route("open", access_policy="public"),
        route("normal"),
        route("by-name", access_policy="allowed_keys", allowed_keys=["alice"]),
        route("by-id", access_policy="allowed_keys", allowed_keys=["a" * 16]),
    )
    plane.add_key("a" * 16, key_of("a"), name="alice")
    plane.add_key("b" * 16, key_of("b"), name="bob", allowed_models=["normal", "by-name"])
    return plane


def statuses(plane: DataPlaneRouter, key: str | None) -> dict[str, int]:
    return {
        name: plane.chat(chat(name), key=key).status
        for name in ("open", "normal", "by-name", "by-id")
    }


def test_a_public_route_needs_no_key(guarded: DataPlaneRouter) -> None:
    assert statuses(guarded, None) == {"open": 200, "normal": 401, "by-name": 401, "by-id": 401}
    assert set(statuses(guarded, "wrong").values()) == {401}, "its owner would believe it right"


def test_a_route_for_chosen_keys_takes_those_alone(guarded: DataPlaneRouter) -> None:
    assert statuses(guarded, KEY) == {"open": 200, "normal": 200, "by-name": 403, "by-id": 403}
    assert statuses(guarded, key_of("a")) == {
        "open": 200,
        "normal": 200,
        "by-name": 200,
        "by-id": 200,
    }


def test_a_keys_own_models_bind_it_too(guarded: DataPlaneRouter) -> None:
    assert statuses(guarded, key_of("b")) == {
        "open": 200,
        "normal": 200,
        "by-name": 403,
        "by-id": 403,
    }


def test_a_rejection_names_the_model(guarded: DataPlaneRouter) -> None:
    error = guarded.chat(chat("by-name")).json()["error"]
    assert "by-name" in error["message"]
    assert error["type"] == "permission_error"


def test_the_list_shows_what_the_key_may_use(guarded: DataPlaneRouter) -> None:
    assert set(models_of(guarded, KEY)) == {"open", "normal"}
    assert set(models_of(guarded, key_of("a"))) == {"open", "normal", "by-name", "by-id"}
    assert set(models_of(guarded, key_of("b"))) == {"open", "normal"}
    assert guarded.request("GET", "/v1/models/by-name").status == 404
    assert guarded.request("GET", "/v1/models/by-name", key=key_of("a")).status == 200


def test_without_a_public_route_a_missing_key_is_401_before_the_body_is_read(
    two_models: Callable[..., DataPlaneRouter],
) -> None:
    plane = two_models(route("normal"))
    assert plane.chat(b"no JSON", key=None).status == 401


# --- keys ---


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"scopes": ["*"]}, 200),
        ({"scopes": ["inference"]}, 200),
        ({"scopes": ["inference", "management"]}, 200),
        ({"scopes": ["management"]}, 403),
        ({"scopes": []}, 403),
        ({"expires": 4_000_000_000}, 200),
        ({"expires": 1_000_000_000}, 401),
    ],
    ids=str,
)
def test_a_keys_scopes_and_expiry_decide(
    two_models: Callable[..., DataPlaneRouter], fields: dict[str, Any], status: int
) -> None:
    plane = two_models(route("normal"))
    plane.add_key("c" * 16, key_of("c"), **fields)
    for path, body in (
        ("/v1/chat/completions", chat("normal")),
        ("/v1/messages", {**chat("normal"), "max_tokens": 1}),
    ):
        response = plane.request("POST", path, body, key=key_of("c"))
        assert response.status == status, response.body
        message = response.json().get("error", {}).get("message", "")
        assert status != 401 or "expired" in message
        assert status != 403 or "inference" in message


# --- the list ---


def test_the_list_is_filtered_by_categories_and_shows_meta_when_asked(
    two_models: Callable[..., DataPlaneRouter],
) -> None:
    plane = two_models(
        route("chatty", categories=["llm"], meta={"max_model_len": 1024, "tags": ["a"]}),
        route("vectors", categories=["embedding"]),
        route("both", categories=["llm", "reranker"]),
        route("plain"),
    )
    assert set(models_of(plane, KEY)) == {"chatty", "vectors", "both", "plain"}
    assert set(models_of(plane, KEY, "?categories=llm")) == {"chatty", "both"}
    assert set(models_of(plane, KEY, "?categories=embedding&categories=reranker")) == {
        "vectors",
        "both",
    }
    assert models_of(plane, KEY, "?categories=image") == []
    plain = plane.request("GET", "/v1/models?categories=embedding").json()["data"][0]
    assert plain["owned_by"] == "gpustack"
    assert not plain.get("meta")
    with_meta = plane.request("GET", "/v1/models?with_meta=true").json()["data"]
    assert next(one for one in with_meta if one["id"] == "chatty")["meta"] == {
        "max_model_len": 1024,
        "tags": ["a"],
    }
    without = plane.request("GET", "/v1/models?with_meta=false").json()["data"]
    assert not any(one.get("meta") for one in without)


def test_a_route_that_is_not_ready_is_not_listed(
    two_models: Callable[..., DataPlaneRouter],
) -> None:
    plane = two_models(route("first"), route("second", "spare"), route("either", "m", "spare"))
    plane.states = ["starting"]
    plane.publish()
    assert set(models_of(plane, KEY)) == {"second", "either"}
    assert plane.request("GET", "/v1/models/first").status == 404


def test_the_legacy_list_is_the_list(two_models: Callable[..., DataPlaneRouter]) -> None:
    plane = two_models(route("a"), route("b"))
    assert (
        plane.request("GET", "/v1-openai/models").json()
        == plane.request("GET", "/v1/models").json()
    )


def test_every_response_names_one_route_in_its_record(
    two_models: Callable[..., DataPlaneRouter], engines: list[FakeEngine]
) -> None:
    plane = two_models(route("a"), route("b", "spare"))
    responses: list[Response] = [plane.chat(chat(name)) for name in "abab"]
    assert all(response.status == 200 for response in responses)
    assert Counter(record.route for record in plane.records(4)) == {"a": 2, "b": 2}
