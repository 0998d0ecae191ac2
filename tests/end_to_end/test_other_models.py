"""What a key reaches of an engine: only the models that it may use, however a request picks them.

One engine serves `mine` and `secret`, which are two models by the configuration, and `tuned`, an
adapter of `mine`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import build, chat
from sound_form import FORM, form

Routers = Callable[..., DataPlaneRouter]

NARROW, WIDE = (f"gpustack_{digit * 16}_{'0' * 32}" for digit in "ab")
"""Keys: of `mine` alone, and of all that the engine serves."""
ALL = ["mine", "secret", "tuned"]


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    from seam_samples import route_entry, target_entry

    def route(name: str, *targets: Any, **fields: Any) -> Any:
        return route_entry(name=name, created=1, targets=list(targets), **fields)

    routes = [
        route("mine", target_entry(model="m"), generic_proxy=True, number=1),
        route("secret", target_entry(model="secret"), generic_proxy=True, number=2),
        route("tuned", target_entry(model="m", served_name="lora-7")),
    ]
    one = router([engine], routes=routes, served_name="mine", others={"secret": engine})
    one.add_key("a" * 16, NARROW, allowed_models=["mine"])
    one.add_key("b" * 16, WIDE, allowed_models=ALL)
    return one


CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/model/proxy" + CHAT, [("X-GPUStack-Model", "mine")]),
        ("/model/proxy/1" + CHAT, []),
        ("/model/proxy/1/embed?model=secret", []),
    ],
    ids=str,
)
def test_the_generic_proxy_reaches_no_model_by_the_engine_of_another_route(
    plane: DataPlaneRouter, engine: FakeEngine, target: str, fields: list[tuple[str, str]]
) -> None:
    for name in ("secret", "lora-7", "mine"):
        refused = plane.request("POST", target, chat(name), key=NARROW, headers=fields)
        assert refused.status == 403, "the body is not read"
        message = refused.json()["error"]["message"]
        assert "secret" not in message and "tuned" not in message
    assert engine.journal() == []
    assert plane.request("POST", target, chat("secret"), key=WIDE, headers=fields).status == 200


def test_a_public_name_that_the_engine_takes_for_another_model_is_replaced_by_the_proxy_too(
    engine: FakeEngine, router: Routers
) -> None:
    """The route's name is here the engine's name for somebody else's model."""
    from seam_samples import route_entry, target_entry

    own = target_entry(model="m", served_name="engines-own")
    routes = [
        route_entry(name="base", targets=[own], generic_proxy=True),
        route_entry(name="other", targets=[target_entry(model="m", served_name="base")]),
    ]
    plane = router([engine], routes=routes, served_name="engines-own")
    plane.add_key("a" * 16, NARROW, allowed_models=["base"])
    sent = json.dumps(chat("engines-own")).encode()
    for target in (CHAT, "/model/proxy" + CHAT):
        assert plane.request("POST", target, chat("base"), key=NARROW).status == 200
        assert engine.last()["sha256"] == hashlib.sha256(sent).hexdigest()


PICKS: list[dict[str, Any]] = [
    {"lora_path": "lora-7"},
    {"lora_path": ["lora-7", None]},
    {"lora": [{"id": 0, "scale": 1.0}]},
    {"lora": {"name": "x", "path": "/adapters/x"}},
    {"lora_request": {"lora_name": "x", "lora_int_id": 1, "lora_path": "/x"}},
    {"adapter_id": "lora-7"},
    {"adapters": "/x"},
    {"extra_body": {"lora": {"name": "x"}}},
    {"lora_config": {"lora_name": "x"}},
    {"lora_task_id": 7},
    {"adapter_source": "hub", "adapter_id": "x/y"},
    {"merged_adapters": {"ids": ["x"], "weights": [1]}},
    {"peft": "x"},
    {"draft_model": "x"},
    {"model_id": "secret"},
    {"vllm_xargs": {"model": "secret"}},
    {"custom_params": {"lora_path": "lora-7"}},
    {"sampling_params": {"n": 1, "lora": "x"}},
    {"custom_params": {"a": {"lora": "x"}}},
    {"options": {"num_ctx": 4096, "deep": [{"model": "x"}]}},
    # Go's readers of JSON know no case.
    {"Model": "secret"},
    {"MODEL": "secret"},
    {"LoRA_Path": "lora-7"},
    {"models": ["secret"]},
    {"fallbacks": [{"model": "secret"}]},
    {"context_window_fallbacks": [{"mine": "secret"}]},
]
HARMLESS: list[dict[str, Any]] = [
    {"lora_path": None},
    {"lora": []},
    {"lora_path": ""},
    {"lora_request": {}},
    {"user": "lora", "metadata": {"lora_path": "x"}},
    {"vllm_xargs": {"model": None, "top_n_sigma": 1}},
    {"custom_params": {"lora_path": ""}, "sampling_params": {}, "extra_args": None},
    {"custom_params": [], "options": {"num_ctx": 4096, "deep": {"model": None}}},
    {"extra_body": {"messages": [{"role": "user", "content": "hi", "lora": "x"}]}},
    {"extra_body": {"guided_json": {"properties": {"model": {"type": "string"}}}}},
]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat("mine"),
    "/v1/completions": {"model": "mine", "prompt": "x"},
    "/v1/messages": {**chat("mine"), "max_tokens": 1},
    "/v1/responses": {"model": "mine", "input": "x"},
    "/v1/embeddings": {"model": "mine", "input": "x"},
    "/v1/images/generations": {"model": "mine", "prompt": "x"},
    "/v1/rerank": {"model": "mine", "query": "x", "documents": ["x"]},
    "/v1/score": {"model": "mine", "queries": "x", "documents": ["x"]},
    "/model/proxy" + CHAT: chat("mine"),
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("picks", PICKS, ids=str)
def test_a_field_that_picks_an_adapter_is_for_keys_of_the_whole_engine(
    plane: DataPlaneRouter, engine: FakeEngine, path: str, picks: dict[str, Any]
) -> None:
    for body in ({**BODIES[path], **picks}, {**picks, **BODIES[path]}):
        refused = plane.request("POST", path, body, key=NARROW)
        assert refused.status == 403, refused.body
        assert "adapter" in refused.json()["error"]["message"]
    assert engine.journal() == []
    assert plane.request("POST", path, BODIES[path] | picks, key=WIDE).status == 200


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
def test_a_field_that_picks_nothing_passes(plane: DataPlaneRouter, fields: dict[str, Any]) -> None:
    assert plane.chat(chat("mine", **fields), key=NARROW).status == 200


def test_a_field_far_behind_the_model_is_seen_before_the_engine_has_the_whole_request(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 300_000}], "lora_path": "lora-7"}
    body = {"model": "mine", **long}
    with plane.client() as client:
        client.send(build("POST", CHAT, body, key=NARROW, chunk=10_000))
        assert client.read_response().status == 403
    assert not any(entry["complete"] for entry in engine.inference())


@pytest.mark.parametrize(
    "query",
    [
        "model=secret",
        "m%6Fdel=secret",
        "lora_path=lora-7",
        "model[]=secret",
        "+lora=x",
        "%5Blora%5D=x",
        "options[lora]=x",
        "a=1;lora=x",
    ],
)
def test_a_query_that_picks_a_model_is_for_keys_of_the_whole_engine(
    plane: DataPlaneRouter, engine: FakeEngine, query: str
) -> None:
    for path in (CHAT, "/model/proxy" + CHAT):
        target = f"{path}?{query}"
        assert plane.request("POST", target, chat("mine"), key=NARROW).status == 403
        assert engine.journal() == []
        assert plane.request("POST", target, chat("mine"), key=WIDE).status == 200
        engine.reset()
    assert plane.request("POST", CHAT + "?beta=true", chat("mine"), key=NARROW).status == 200


def test_a_form_that_picks_an_adapter_is_for_keys_of_the_whole_engine(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    path = "/v1/audio/transcriptions"
    for fields in (
        {"lora": "x", "model": "mine"},
        {"model": "mine", "lora_path": "x"},
        {"model": "mine", "[lora]": "x"},
        {"model": "mine", " lora": "x"},
        {"model": "mine", "options[lora_path]": "x"},
        {"model": "mine", "extra_body[lora_path]": "x"},
        {"model": "mine", "vllm_xargs[model]": "x"},
        {"model": "mine", "custom_params.lora_path": "x"},
    ):
        refused = plane.request("POST", path, form(fields), headers=FORM, key=NARROW)
        assert refused.status == 403, refused.body
    second = form({"model": "mine", "model[]": "secret"})
    for key in (NARROW, WIDE):
        refused = plane.request("POST", path, second, headers=FORM, key=key)
        assert refused.status == 400
        assert "send `model` once" in refused.json()["error"]["message"]
    assert engine.journal() == []
    harmless = form({"model": "mine", "lora": "", "timestamp_granularities[]": "word"})
    assert plane.request("POST", path, harmless, headers=FORM, key=NARROW).status == 200
    picks = form({"model": "mine", "lora": "x"})
    assert plane.request("POST", path, picks, headers=FORM, key=WIDE).status == 200


def test_an_engine_with_one_name_alone_keeps_nothing_from_its_keys(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine])
    plane.add_key("a" * 16, NARROW, allowed_models=["m"])
    assert plane.chat(chat("m", lora=[{"id": 0, "scale": 0.5}]), key=NARROW).status == 200


def test_a_number_of_a_route_that_a_key_may_not_use_says_as_little_as_none(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    answers = [
        plane.request("GET", f"/model/proxy/{number}/embed", key=NARROW) for number in (2, 9)
    ]
    assert [answer.status for answer in answers] == [404, 404]
    messages = [answer.json()["error"]["message"] for answer in answers]
    assert messages[0].replace("number 2", "number 9") == messages[1]
    assert "No route that this API key may use has the number 2" in messages[0]
    assert "secret" not in messages[0]
    assert engine.journal() == []


def test_without_a_key_the_reason_is_what_is_not_read(engine: FakeEngine, router: Routers) -> None:
    from seam_samples import route_entry, target_entry

    targets = [target_entry(model="m")]
    shown = {"access_policy": "public", "generic_proxy": True, "number": 1}
    routes = [
        route_entry(name="mine", created=1, targets=targets, **shown),
        route_entry("secret", [target_entry(model="m", served_name="lora-7")]),
    ]
    plane = router([engine], routes=routes)
    refused = plane.request("POST", "/model/proxy/1" + CHAT, b"x", key=None)
    assert refused.status == 401, refused.body
    message = refused.json()["error"]["message"]
    assert "what is not read of this request could name another model" in message
    assert "x-api-key: KEY" in message
    assert "JSON body" in message
    assert "secret" not in message
    assert engine.journal() == []
    assert plane.request("POST", "/model/proxy" + CHAT, chat("mine"), key=None).status == 200
