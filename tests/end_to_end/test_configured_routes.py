"""Routes of a configuration file and keys of `keys create` hold in the whole product."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness import KEY, FakeEngine, ServedRouter, serving
from raw_http import chat, eventually

CONFIG = """
[server]
server_timing_in_streams = true

[[models]]
name = "main"
backend = "external"
engine = "vllm"
urls = ["{main}"]
served_name = "org/Served-1B"
categories = ["llm"]

[[models]]
name = "spare"
backend = "external"
urls = ["{spare}"]

[[routes]]
name = "open"
targets = [{{ model = "main" }}]
access_policy = "public"

[[routes]]
name = "safe"
targets = [{{ model = "main" }}, {{ model = "spare", fallback = ["5xx"] }}]
meta = {{ owner = "team a" }}

[[routes]]
name = "main:tuned"
targets = [{{ model = "main", overridden_model_name = "tuned" }}]

[[routes]]
name = "chosen"
targets = [{{ model = "main" }}]
access_policy = "allowed_keys"
allowed_keys = ["alice"]

[[routes]]
name = "raw"
targets = [{{ model = "spare" }}]
generic_proxy = true

[[routes]]
name = "raw-vllm"
targets = [{{ model = "main" }}]
generic_proxy = true
"""


@pytest.fixture(scope="module")
def engines() -> Iterator[list[FakeEngine]]:
    started = [FakeEngine(name, "--port", "0") for name in ("main", "spare")]
    yield started
    for engine in started:
        engine.kill()


@pytest.fixture(scope="module")
def server(engines: list[FakeEngine]) -> Iterator[ServedRouter]:
    main, spare = engines
    with serving(CONFIG.format(main=main.address, spare=spare.address), "--workers", "2") as one:
        eventually(lambda: one.running() == 2, "both engines to be reached")
        yield one


@pytest.fixture(autouse=True)
def forget(engines: list[FakeEngine]) -> None:
    for engine in engines:
        engine.reset()


def create(server: ServedRouter, *arguments: str) -> str:
    made = server.keys("create", *arguments)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_a_public_route_needs_no_key(server: ServedRouter) -> None:
    assert server.chat(chat("open"), key=None).status == 200
    assert server.chat(chat("safe"), key=None).status == 401


def test_a_fallback_helps_out(server: ServedRouter, engines: list[FakeEngine]) -> None:
    engines[0].defaults(status=503)
    response = server.chat(chat("safe", "a nonce"))
    assert response.status == 200
    assert response.json()["model"] == "safe"
    assert [len(engine.inference()) for engine in engines] == [1, 1]


def test_a_fallback_gets_nothing_while_all_is_well(
    server: ServedRouter, engines: list[FakeEngine]
) -> None:
    for _ in range(10):
        assert server.chat(chat("safe")).status == 200
    assert engines[1].inference() == []


def test_an_adapter_has_a_route_of_its_own(server: ServedRouter, engines: list[FakeEngine]) -> None:
    assert server.chat(chat("main:tuned")).json()["model"] == "main:tuned"
    assert engines[0].last()["model"] == "tuned"


def test_a_key_is_chosen_by_its_name(server: ServedRouter) -> None:
    assert server.chat(chat("chosen"), key=KEY).status == 403
    assert server.chat(chat("chosen"), key=create(server, "alice")).status == 200


def test_scopes_and_expiry_of_a_made_key_hold(server: ServedRouter) -> None:
    manager = create(server, "manager", "--scope", "management")
    assert server.chat(chat("safe"), key=manager).status == 403
    assert server.request("GET", "/v2/models", key=manager).status == 200
    user = create(server, "user", "--scope", "inference", "--expires-in", "30d")
    assert server.chat(chat("safe"), key=user).status == 200
    assert server.request("GET", "/v2/models", key=user).status == 403
    short = create(server, "short", "--expires-in", "1s")
    eventually(lambda: server.chat(chat("safe"), key=short).status == 401, "the key to expire")
    assert "expired" in server.chat(chat("safe"), key=short).json()["error"]["message"]


def numbers(server: ServedRouter) -> dict[str, int]:
    """The routes' numbers, as the management API shows them."""
    items = server.request("GET", "/v2/model-routes").json()["items"]
    return {item["name"]: item["id"] for item in items}


def test_the_generic_proxy_is_reached_by_name_and_by_number(
    server: ServedRouter, engines: list[FakeEngine]
) -> None:
    number = numbers(server)["raw-vllm"]
    assert server.request("GET", f"/model/proxy/{number}/version?x=1").status == 200
    assert (
        server.request(
            "GET", "/model/proxy/version", headers=[("X-GPUStack-Model", "raw-vllm")]
        ).status
        == 200
    )
    assert [entry["target"] for entry in engines[0].received("/version")] == [
        "/version?x=1",
        "/version",
    ]
    closed = server.request("GET", f"/model/proxy/{numbers(server)['safe']}/version")
    assert closed.status == 404
    assert "generic_proxy" in closed.json()["error"]["message"]


def test_administrative_paths_of_a_known_engine_are_hidden(
    server: ServedRouter, engines: list[FakeEngine]
) -> None:
    number = numbers(server)["raw-vllm"]
    for path in (
        "collective_rpc",
        "v1/load_lora_adapter",
        "sleep?level=1",
        "%63ollective_rpc",
        "/collective_rpc",
    ):
        assert server.request("POST", f"/model/proxy/{number}/{path}", {}).status == 404, path
    assert engines[0].state()["administrative"] == 0


def test_of_an_unknown_engine_only_inference_paths_are_reached(
    server: ServedRouter, engines: list[FakeEngine]
) -> None:
    number = numbers(server)["raw"]
    body = {"model": "raw", "input": "x"}
    assert server.request("POST", f"/model/proxy/{number}/v1/embeddings", body).status == 200
    for path in ("debug", "collective_rpc", "v1/load_lora_adapter", "admin"):
        assert server.request("POST", f"/model/proxy/{number}/{path}", {}).status == 404, path
    assert {entry["target"] for entry in engines[1].inference()} == {"/v1/embeddings"}


def test_numbers_and_keys_outlive_a_restart(server: ServedRouter) -> None:
    before = numbers(server)
    key = create(server, "lasting", "--scope", "inference")
    server.stop()
    server.start()
    server.wait_until_ready()
    eventually(lambda: server.running() == 2, "both engines to be reached")
    assert numbers(server) == before
    assert server.chat(chat("safe"), key=key).status == 200


def test_what_is_known_of_vllm_is_used(server: ServedRouter, engines: list[FakeEngine]) -> None:
    """It is asked for its usage, and speaks Anthropic's Messages by itself."""
    stream = server.chat(chat("safe", stream=True))
    assert json.loads(engines[0].last()["text"])["stream_options"] == {"include_usage": True}
    assert b'"usage"' not in stream.body
    assert b": server-timing " in stream.body
    body: dict[str, Any] = {**chat("safe"), "max_tokens": 5}
    assert server.request("POST", "/v1/messages", body).json()["model"] == "safe"
    assert engines[0].last()["target"] == "/v1/messages"
    assert (
        server.request("POST", "/v1/messages", {**body, "model": "spare"}).json()["type"]
        == "message"
    )
    assert engines[1].last()["target"] == "/v1/chat/completions"


def test_the_list_shows_meta_and_categories(server: ServedRouter) -> None:
    listed = server.request("GET", "/v1/models?with_meta=true&categories=llm").json()["data"]
    safe = next(entry for entry in listed if entry["id"] == "safe")
    assert safe["meta"] == {"owner": "team a"}
    assert safe["owned_by"] == "gpustack"
