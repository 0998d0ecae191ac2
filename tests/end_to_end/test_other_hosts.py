"""Fields that send an engine to a host of the caller's choice: for keys that may manage.

Engines that pass a request's state on to each other are told by such fields where from and whereto.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import build, chat
from sound_form import FORM, form

Routers = Callable[..., DataPlaneRouter]

INFERRING = f"gpustack_{'a' * 16}_{'0' * 32}"
"""A key that may infer, and that alone."""
CHAT = "/v1/chat/completions"
PULL = {"do_remote_prefill": True, "remote_host": "6.6.6.6", "remote_port": 1}

NAMES: list[dict[str, Any]] = [
    {"kv_transfer_params": PULL},
    {"ec_transfer_params": {"peer": "6.6.6.6"}},
    {"bootstrap_host": "6.6.6.6"},
    {"bootstrap_host": ["6.6.6.6"], "bootstrap_port": [1], "bootstrap_room": [1]},
    {"bootstrap_room": 7},
    {"disaggregated_params": {"request_type": "generation_only"}},
    {"migration_request": {"protocol": 1}},
    {"api_base": "http://6.6.6.6"},
    {"base_url": "http://6.6.6.6"},
    {"Base_URL": "http://6.6.6.6"},
    {"vllm_xargs": {"kv_transfer_params": "x"}},
    {"extra_body": {"kv_transfer_params": PULL}},
    {"extra_args": {"n": 1, "ec_transfer_params": PULL}},
    {"sampling_params": {"n": 1, "extra_args": {"kv_transfer_params": PULL}}},
    {"custom_params": {"a": [{"b": {"base_url": "http://6.6.6.6"}}]}},
]
HARMLESS: list[dict[str, Any]] = [
    {"kv_transfer_params": None},
    {"kv_transfer_params": {}},
    {"bootstrap_host": "", "bootstrap_port": None},
    {"vllm_xargs": {"kv_transfer_params": None}},
    {"metadata": {"kv_transfer_params": "x", "base_url": "x"}},
    {"user": "kv_transfer_params"},
]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat("m"),
    "/v1/completions": {"model": "m", "prompt": "x"},
    "/v1/messages": {**chat("m"), "max_tokens": 1},
    "/v1/responses": {"model": "m", "input": "x"},
    "/v1/embeddings": {"model": "m", "input": "x"},
    "/model/proxy" + CHAT: chat("m"),
    "/model/proxy/1" + CHAT: chat("m"),
}


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture
def plane(engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    from seam_samples import route_entry, target_entry

    routes = [
        route_entry("m", [target_entry()], generic_proxy=True, number=1, access_policy="public")
    ]
    one = router([engine], routes=routes)
    one.add_key("a" * 16, INFERRING, scopes=["inference"])
    return one


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("names", NAMES, ids=str)
def test_a_field_that_names_a_host_is_for_keys_that_may_manage(
    plane: DataPlaneRouter, engine: FakeEngine, path: str, names: dict[str, Any]
) -> None:
    for key in (INFERRING, None):
        for body in ({**BODIES[path], **names}, {**names, **BODIES[path]}):
            refused = plane.request("POST", path, body, key=key)
            assert refused.status == 403, refused.body
            assert "management" in refused.json()["error"]["message"]
    assert engine.journal() == []
    assert plane.request("POST", path, BODIES[path] | names).status == 200


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("fields", HARMLESS, ids=str)
def test_a_field_that_names_none_passes(
    plane: DataPlaneRouter, path: str, fields: dict[str, Any]
) -> None:
    assert plane.request("POST", path, BODIES[path] | fields, key=INFERRING).status == 200


def test_it_is_seen_in_queries_and_forms_too(plane: DataPlaneRouter, engine: FakeEngine) -> None:
    for target in (CHAT, "/model/proxy/1" + CHAT):
        for name in ("bootstrap%5Fhost", "options[base_url]", "+api_base", "extra_body"):
            query = f"{target}?a=1&{name}=6.6.6.6"
            assert plane.request("POST", query, chat("m"), key=INFERRING).status == 403, name
    path = "/v1/audio/transcriptions"
    names = form({"model": "m", "kv_transfer_params": "{}"})
    assert plane.request("POST", path, names, headers=FORM, key=INFERRING).status == 403
    for field in ("kv_transfer_params[do_remote]", " bootstrap_host", "vllm_xargs", "nvext[a]"):
        other = form({"model": "m", field: "x"})
        refused = plane.request("POST", path, other, headers=FORM, key=INFERRING)
        assert refused.status == 403, field
    assert engine.journal() == []
    assert plane.request("POST", path, names, headers=FORM).status == 200


@pytest.mark.parametrize("path", [CHAT, "/model/proxy/1" + CHAT])
def test_it_is_seen_far_behind_the_model_before_the_engine_has_the_whole_request(
    plane: DataPlaneRouter, engine: FakeEngine, path: str
) -> None:
    messages = [{"role": "user", "content": "x" * 300_000}]
    body = {"model": "m", "messages": messages, "kv_transfer_params": PULL}
    with plane.client() as client:
        client.send(build("POST", path, body, key=INFERRING, chunk=10_000))
        assert client.read_response().status == 403
    assert not any(entry["complete"] for entry in engine.inference())


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_no_other_encoding_of_json_hides_it_from_the_proxy(
    plane: DataPlaneRouter, engine: FakeEngine, codec: str
) -> None:
    """Python's reader of JSON finds the encoding out by itself."""
    path = "/model/proxy/1" + CHAT
    body = '{"kv_transfer_params": {"remote_host": "6.6.6.6"}}'.encode(codec)
    assert plane.request("POST", path, body, key=INFERRING).status == 400
    assert engine.journal() == []
    assert plane.request("POST", path, body).status == 200


def test_what_is_no_json_passes_through_the_proxy_as_it_is(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    for body in (b"\xff\xfe\x00binary", b"[1, 2]", b"", b'{"a": broken', b"%PDF-1.7 {", b"7"):
        target = "/model/proxy/1/upload"
        headers = [("Content-Type", "application/octet-stream")]
        response = plane.request("POST", target, body, key=INFERRING, headers=headers)
        assert response.status == 200, response.body
        assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()
