"""Requests reach the engine, and responses the caller: the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from harness import ENDED_WITHIN, KEY, DataPlaneRouter, FakeEngine
from raw_http import Client, Response, build, chat, eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]


def sent_by_engine(engine: FakeEngine) -> tuple[int, str]:
    """Length and hash of the payload of its last response."""
    entry = engine.last()
    return entry["sent_bytes"], entry["sent_sha256"]


def received(response: Response) -> tuple[int, str]:
    return len(response.body), hashlib.sha256(response.body).hexdigest()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "orders",
    [
        {},
        {"frames": 200},
        {"pieces": "bytes", "frames": 2},
        {"pieces": "chunks", "frames": 2},
        {"line_end": "\r\n"},
        {"line_end": "\r"},
        {"comments": True},
        {"comments": True, "line_end": "\r\n", "pieces": "bytes", "frames": 2},
        {"delay": 0.01, "frames": 5},
        {"frame_bytes": 100_000},
        {"frame_bytes": 2_000_000, "frames": 2},
        {"framing": "close"},
        {"version": "1.0", "framing": "close"},
        {"framing": "length"},
        {"trailers": True},
        {"interim": [100, 103]},
    ],
    ids=str,
)
def test_the_bytes_of_a_stream_pass_unchanged(
    engine: FakeEngine, plane: DataPlaneRouter, path: str, orders: dict[str, Any]
) -> None:
    body = chat(text="a nonce", stream=True, prompt="a nonce", fake=orders)
    response = plane.request("POST", path, body)
    assert response.status == 200
    assert response.broken is None
    assert response.header("content-type") == "text/event-stream; charset=utf-8"
    assert received(response) == sent_by_engine(engine)
    assert response.events()[-1] == "[DONE]"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "orders",
    [
        {},
        {"frame_bytes": 3_000_000},
        {"pieces": "bytes"},
        {"framing": "chunked"},
        {"framing": "chunked", "pieces": "chunks", "trailers": True},
        {"framing": "close"},
        {"version": "1.0", "framing": "close"},
        {"interim": [103]},
    ],
    ids=str,
)
def test_the_bytes_of_a_whole_response_pass_unchanged(
    engine: FakeEngine, plane: DataPlaneRouter, path: str, orders: dict[str, Any]
) -> None:
    response = plane.request("POST", path, chat(text="a nonce", prompt="a nonce", fake=orders))
    assert response.status == 200
    assert response.broken is None
    assert response.header("content-type") == "application/json"
    assert received(response) == sent_by_engine(engine)
    assert "x-fake-trailer" not in str(response.headers)


def test_frames_that_are_no_json_pass_unchanged(engine: FakeEngine, plane: DataPlaneRouter) -> None:
    frames = [
        "data: not json\n\n",
        ":\n\n",
        "event: odd\ndata: {}\n\n",
        "data:\n\n",
        "retry: 5\n\n",
        "data: [DONE]\n\n",
    ]
    response = plane.chat(chat(stream=True, fake={"raw_frames": frames}))
    assert response.body == "".join(frames).encode()


@pytest.mark.parametrize("ending", ["", "data: cut without its blank line", "data: one line end\n"])
def test_what_a_stream_leaves_behind_its_last_frame_is_passed_too(
    engine: FakeEngine, plane: DataPlaneRouter, ending: str
) -> None:
    frames = ["data: {}\n\n", "data: [DONE]\n\n", ending]
    response = plane.chat(chat(stream=True, fake={"raw_frames": frames}))
    assert response.broken is None
    assert response.body == "".join(frames).encode()


@pytest.mark.parametrize("chunk", [None, 1000, 7])
@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_the_bytes_of_a_request_pass_unchanged(
    engine: FakeEngine, plane: DataPlaneRouter, size: int, chunk: int | None
) -> None:
    odd = (
        b' "n": NaN, "big": 123456789012345678901234567890, "f": 1.10, "e": 1e400, "lone": '
        b'"\\ud800", "u": "\xc3\xa9",'
    )
    padding = os.urandom(size // 2).hex().encode()
    body = (
        b'{"unknown": {"model": "inner"},'
        + odd
        + b'  "pad": "'
        + padding
        + b'", "model"  :  "m" , "last": [ ] }\r\n'
    )
    response = plane.request("POST", "/v1/chat/completions", body, chunk=chunk)
    assert response.status == 200, response.body
    assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()


def test_a_request_in_single_bytes_passes_unchanged(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    body = json.dumps(chat(text="slowly")).encode()
    with plane.client() as client:
        for byte in build("POST", "/v1/chat/completions", body, key=KEY):
            client.send(bytes([byte]))
        assert client.read_response().status == 200
    assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()


def test_an_engine_hears_its_own_name_and_a_caller_the_routes(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], served_name="Qwen/Qwen3-8B")
    body = (
        b'{ "messages":[{"role":"user","content":"model default"}], "model" : "def\\u0061ult", '
        b'"stream":false}'
    )
    response = plane.request("POST", "/v1/chat/completions", body)
    assert response.json()["model"] == "default"
    expected = body.replace(b'"def\\u0061ult"', b'"Qwen/Qwen3-8B"')
    assert engine.last()["text"].encode() == expected


@pytest.mark.parametrize(
    "served_name", ["q", "a-much-longer-name/than-the-route-has", 'quote"back\\slash']
)
@pytest.mark.parametrize(
    "pieces", [{}, {"pieces": "bytes"}, {"pieces": "chunks"}, {"framing": "chunked"}], ids=str
)
@pytest.mark.parametrize("stream", [True, False])
def test_every_frame_carries_the_routes_name_and_nothing_else_changes(
    engine: FakeEngine, router: Routers, served_name: str, pieces: dict[str, Any], stream: bool
) -> None:
    plane = router([engine], served_name=served_name)
    orders = {"frames": 3, **pieces}
    text = f'the text says "model": {served_name!r} too'
    response = plane.chat(chat("default", text, stream=stream, fake=orders))
    assert response.broken is None
    documents = (
        [json.loads(event) for event in response.events()[:-1]] if stream else [response.json()]
    )
    assert [document["model"] for document in documents] == ["default"] * (4 if stream else 1)
    before = response.body.replace(
        b'"model":"default"', b'"model":' + json.dumps(served_name).encode()
    )
    assert hashlib.sha256(before).hexdigest() == engine.last()["sent_sha256"]


@pytest.mark.parametrize("status", [400, 404, 418, 422, 429, 500, 503])
def test_an_engines_own_error_passes_with_its_status_and_body(
    engine: FakeEngine, plane: DataPlaneRouter, status: int
) -> None:
    orders = {
        "status": status,
        "error": "no such parameter",
        "headers": [["retry-after", "7"], ["x-should-retry", "yes"]],
    }
    response = plane.chat(chat(text="n-9", stream=True, fake=orders))
    assert response.status == status
    assert response.json()["error"]["message"] == "no such parameter n-9"
    assert response.header("retry-after") == "7"
    assert response.header("x-should-retry") == "yes"


@pytest.mark.parametrize("status", [401, 403])
def test_an_engine_that_rejects_our_key_is_our_fault_and_not_the_callers(
    engine: FakeEngine, plane: DataPlaneRouter, status: int
) -> None:
    response = plane.chat(chat(fake={"status": status, "body_text": '{"error": "Unauthorized"}'}))
    assert response.status == 502
    assert response.json()["error"]["code"] == "engine_error"


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_an_engines_error_without_a_body_gets_one(
    engine: FakeEngine, plane: DataPlaneRouter, status: int
) -> None:
    response = plane.chat(chat(fake={"status": status, "body_text": ""}))
    assert response.status in (status, 502)
    assert response.json()["error"]["message"]


def test_headers_pass_in_both_directions_and_repeated_ones_stay_repeated(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    orders = {
        "headers": [
            ["content-language", "a"],
            ["content-language", "b"],
            ["x-ratelimit-remaining", "5"],
        ]
    }
    sent = [
        ("OpenAI-Organization", "org"),
        ("x-stainless-timeout", "NOT_GIVEN"),
        ("traceparent", "00-1-2-03"),
        ("X-A", ""),
    ]
    response = plane.chat(chat(fake=orders), headers=sent)
    assert response.all("content-language") == ["a", "b"]
    assert response.header("x-ratelimit-remaining") == "5"
    got = {name.lower(): value for name, value in engine.last()["headers"]}
    assert {name.lower(): value for name, value in sent}.items() <= got.items()


def test_credentials_and_hop_by_hop_headers_never_reach_an_engine(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    secret = "only-the-router-may-see-this"
    headers = [
        ("Authorization", f"bearer {KEY}"),
        ("X-Api-Key", KEY),
        ("Cookie", f"session={secret}"),
        ("Proxy-Authorization", secret),
        ("Connection", "keep-alive, X-Named, Authorization"),
        ("X-Named", secret),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", secret),
        ("TE", "gzip"),
        ("Trailer", "X-T"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAAA"),
        ("X-GPUStack-Model-Instance", secret),
        ("X-GPUStack-Auth-Token", secret),
    ]
    response = plane.request("POST", "/v1/chat/completions", chat(), key=None, headers=headers)
    assert response.status == 200, response.body
    got = engine.last()["headers"]
    assert KEY not in str(got)
    assert secret not in str(got)
    names = [name.lower() for name, _ in got]
    for name in (
        "authorization",
        "x-api-key",
        "cookie",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
    ):
        assert name not in names
    assert names.count("host") == 1
    assert names.count("content-length") + names.count("transfer-encoding") == 1


def test_an_engines_hop_by_hop_headers_never_reach_a_caller(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    hop = [
        ["connection", "x-named"],
        ["x-named", "1"],
        ["keep-alive", "timeout=5"],
        ["proxy-authenticate", "Basic"],
    ]
    response = plane.chat(chat(fake={"headers": hop}))
    names = {name.lower() for name, _ in response.headers}
    assert not names & {"x-named", "proxy-authenticate"}
    assert response.header("connection") == "keep-alive"
    assert response.header("keep-alive") == "timeout=75", "this server's own, not the engine's"


def test_an_engine_gets_its_own_key(fake_engines: Engines, router: Routers) -> None:
    engine = fake_engines(1)[0]
    router([engine], instance={"api_key": "the-engines-own"}).chat(chat())
    assert [v for name, v in engine.last()["headers"] if name.lower() == "authorization"] == [
        "Bearer the-engines-own"
    ]


def request_id_at(engine: FakeEngine) -> str:
    found = [value for name, value in engine.last()["headers"] if name.lower() == "x-request-id"]
    assert len(found) == 1
    return str(found[0])


def test_a_callers_request_id_is_sent_on_and_returned(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    response = plane.chat(chat(), headers=[("X-Request-Id", "caller-7.a")])
    assert response.header("x-request-id") == "caller-7.a"
    assert response.header("request-id") == "caller-7.a"
    assert request_id_at(engine).startswith("caller-7.a")
    assert plane.records()[0].request_id == "caller-7.a"


@pytest.mark.parametrize("id_", [None, "", "x" * 1000, "bad id", "bad\tid", 'q"uote'])
def test_a_request_without_a_sane_id_gets_one(
    engine: FakeEngine, plane: DataPlaneRouter, id_: str | None
) -> None:
    response = plane.chat(chat(), headers=[] if id_ is None else [("X-Request-Id", id_)])
    made = response.header("x-request-id")
    assert made
    assert made != id_
    assert request_id_at(engine).startswith(made)
    assert plane.chat(chat()).header("x-request-id") != made


def test_the_model_list_names_the_routes_and_responds_to_head(plane: DataPlaneRouter) -> None:
    listed = plane.request("GET", "/v1/models")
    document = listed.json()
    assert document["object"] == "list"
    assert sorted(entry["id"] for entry in document["data"]) == ["default", "m"]
    assert all(
        entry["object"] == "model" and entry["created"] == 1 and entry["owned_by"]
        for entry in document["data"]
    )
    head = plane.request("HEAD", "/v1/models")
    assert head.status == 200
    assert head.header("content-length") == str(len(listed.body))
    with plane.client() as client:
        client.send(build("HEAD", "/v1/models", key=KEY) + build("GET", "/v1/models/m", key=KEY))
        client.read_response("HEAD")
        assert client.read_response("GET").json()["id"] == "m"


def test_a_route_with_a_slash_in_its_name_is_found_escaped_and_raw(
    engine: FakeEngine, router: Routers
) -> None:
    from seam_samples import route_entry, target_entry

    plane = router(
        [engine], routes=[route_entry(name="a/b", created=5, targets=[target_entry(model="m")])]
    )
    assert plane.request("GET", "/v1/models/a%2Fb").json()["id"] == "a/b"
    assert plane.request("GET", "/v1/models/a/b").json()["id"] == "a/b"
    missing = plane.request("GET", "/v1/models/m")
    assert missing.status == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_many_requests_pass_over_one_connection_on_either_side(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    with plane.client() as client:
        for number in range(50):
            body = chat(text=f"n-{number}", stream=number % 2 == 0)
            response = client.request("POST", "/v1/chat/completions", body, key=KEY)
            assert f"n-{number}".encode() in response.body
    assert len({entry["connection"] for entry in engine.inference()}) == 1


def test_pipelined_requests_are_served_in_order(engine: FakeEngine, plane: DataPlaneRouter) -> None:
    with plane.client() as client:
        client.send(
            b"".join(
                build("POST", "/v1/chat/completions", chat(text=f"n-{n}"), key=KEY)
                for n in range(5)
            )
        )
        responses = [client.read_response().json() for _ in range(5)]
    assert [response["id"] for response in responses] == [f"chatcmpl-n-{n}" for n in range(5)]


def test_a_caller_of_http_1_0_gets_no_chunks(engine: FakeEngine, plane: DataPlaneRouter) -> None:
    with plane.client() as client:
        request = build("POST", "/v1/chat/completions", chat(stream=True), key=KEY)
        client.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        response = client.read_response()
    assert response.header("transfer-encoding") is None
    assert response.broken is None
    assert response.events()[-1] == "[DONE]"


def test_a_caller_that_expects_100_continue_is_asked_for_its_body(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    request = build(
        "POST", "/v1/chat/completions", chat(), key=KEY, headers=[("Expect", "100-continue")]
    )
    head, _, body = request.partition(b"\r\n\r\n")
    with plane.client() as client:
        client.send(head + b"\r\n\r\n")
        assert client.read_head().status == 100
        client.send(body)
        assert client.read_response().status == 200
    assert not [name for name, _ in engine.last()["headers"] if name.lower() == "expect"]


def test_what_one_read_brought_leaves_in_one_chunk(plane: DataPlaneRouter) -> None:
    response = plane.chat(chat(stream=True, fake={"frames": 20}))
    assert len(response.chunks) <= 3, "frames that came together were torn apart"
    assert all(chunk.endswith(b"\n\n") for chunk in response.chunks)


def test_small_writes_wait_for_nothing_on_either_leg(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    """With Nagle's algorithm on, the kernel would hold small writes back."""
    if engine.address.startswith("unix:"):
        return
    with plane.client() as client:
        plane.send_chat(
            client, chat(stream=True, fake={"fault": {"how": "stall", "at": "after_head"}})
        )
        eventually(lambda: engine.state()["in_progress"], "the engine to be busy")
        ours = own_sockets()
        client_port = client.socket.getsockname()[1]
        engine_port = int(engine.address.rpartition(":")[2])
        toward_client = [one for one in ours if peer_port(one) == client_port]
        toward_engine = [one for one in ours if peer_port(one) == engine_port]
        assert toward_client
        assert toward_engine
        for one in toward_client + toward_engine:
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        for one in ours:
            one.close()


def own_sockets() -> list[socket.socket]:
    """Duplicates of all TCP sockets of this process, the data plane's included."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            one = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if one.family == socket.AF_INET:
            found.append(one)
        else:
            one.close()
    return found


def peer_port(one: socket.socket) -> int | None:
    try:
        port: int = one.getpeername()[1]
        return port
    except OSError:
        return None


def test_curl_can_use_it(plane: DataPlaneRouter) -> None:
    command = [
        "curl",
        "-sS",
        "--fail",
        "-H",
        f"Authorization: Bearer {KEY}",
        "-H",
        "Content-Type: application/json",
    ]
    command += ["-d", json.dumps(chat(text="from curl")), f"{plane.address}/v1/chat/completions"]
    done = subprocess.run(command, capture_output=True, timeout=ENDED_WITHIN, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "from curl"


def test_a_table_can_be_replaced_under_requests(engine: FakeEngine, plane: DataPlaneRouter) -> None:
    with Client(plane.address) as client:
        for number in range(20):
            assert plane.publish() == number + 2
            assert client.request("POST", "/v1/chat/completions", chat(), key=KEY).status == 200
