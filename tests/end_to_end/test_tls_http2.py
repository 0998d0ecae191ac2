"""TLS and HTTP/2 toward real clients: httpx, the openai SDK, and the whole product."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
import trustme
from websockets.sync.client import connect

from harness import KEY, DataPlaneRouter, FakeEngine, external, serving
from raw_http import DEADLINE, chat, events, eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate for 127.0.0.1, and what a client trusts it by."""

    certificate: Path
    key: Path
    trust: ssl.SSLContext


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(tmp_path / "certificate.pem", append=True)
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return Certificate(tmp_path / "certificate.pem", tmp_path / "key.pem", trust)


@pytest.fixture
def plane(engine: FakeEngine, router: Routers, certificate: Certificate) -> DataPlaneRouter:
    """The data plane over `engine`, speaking TLS."""
    plane = router([engine], tls_certificate=certificate.certificate, tls_key=certificate.key)
    plane.address = plane.address.replace("http://", "https://")
    return plane


@pytest.fixture(params=["HTTP/2 over TLS", "HTTP/1.1 over TLS", "HTTP/2"])
def way(request: pytest.FixtureRequest) -> str:
    """A way to speak to us that is not the plain one."""
    return str(request.param)


@pytest.fixture
def client(
    request: pytest.FixtureRequest,
    way: str,
    engine: FakeEngine,
    router: Routers,
    certificate: Certificate,
) -> Iterator[httpx.Client]:
    """An httpx client that speaks so, with a data plane behind it."""
    plane = request.getfixturevalue("plane") if "TLS" in way else router([engine])
    http2 = way.startswith("HTTP/2")
    with httpx.Client(
        # Without TLS nothing can be agreed on: HTTP/2 is spoken from the first byte.
        http1="TLS" in way,
        http2=http2,
        base_url=plane.address,
        verify=certificate.trust,
        headers=AUTHORIZATION,
        timeout=DEADLINE,
    ) as client:
        yield client


def test_a_completion_streamed_and_not(client: httpx.Client, way: str) -> None:
    whole = client.post("/v1/chat/completions", json=chat())
    assert whole.status_code == 200
    assert whole.json()["object"] == "chat.completion"
    with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        received = events(stream.read())
    assert received[-1] == "[DONE]"
    assert {whole.http_version, stream.http_version} == {way.removesuffix(" over TLS")}


def test_errors_head_and_options_keep_the_connection(client: httpx.Client) -> None:
    for _ in range(2):
        assert client.post("/v1/chat/completions", content=b"{" * 9).status_code == 400
        assert (
            client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        )
        shown, head = client.get("/v1/models"), client.head("/v1/models")
        assert head.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == shown.headers["content-length"]
        options = client.options("/v1/models")
        assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


def test_a_big_body_and_a_big_response_pass(client: httpx.Client, engine: FakeEngine) -> None:
    body = json.dumps(chat(text="é\n " * 2_000_000), ensure_ascii=False).encode()
    response = client.post(
        "/v1/chat/completions", content=body, headers={"X-Fake": '{"frame_bytes": 5000000}'}
    )
    assert response.status_code == 200
    entry = engine.last()
    assert entry["sha256"] == hashlib.sha256(body).hexdigest()
    assert entry["sent_sha256"] == hashlib.sha256(response.content).hexdigest()
    assert len(response.content) > 5_000_000


def test_a_client_that_leaves_inside_a_stream_ends_the_engines_work(
    client: httpx.Client, engine: FakeEngine
) -> None:
    engine.defaults(fault={"how": "stall", "at": "at_frame", "after": 2})
    with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
        next(stream.iter_bytes())
        # The connection: over HTTP/2 httpx does not tell the server of a stream that it closes
        # early (no RST_STREAM).
        client.close()
    eventually(lambda: engine.last()["ended"] == "peer_closed", "the engine to see the close")


def test_many_streams_share_one_connection(
    plane: DataPlaneRouter, certificate: Certificate, engine: FakeEngine
) -> None:
    async def ask(client: httpx.AsyncClient, number: int) -> str:
        body = chat(text=f"number {number}", stream=True)
        async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            assert stream.status_code == 200
            return (await stream.aread()).decode()

    async def ask_all() -> list[str]:
        async with httpx.AsyncClient(
            http2=True,
            base_url=plane.address,
            verify=certificate.trust,
            headers=AUTHORIZATION,
            limits=httpx.Limits(max_connections=1),
            timeout=DEADLINE,
        ) as client:
            responses = await asyncio.gather(*(ask(client, number) for number in range(100)))
            assert plane.plane.stats().connections == 1
            return responses

    responses = asyncio.run(ask_all())
    assert all(events(response.encode())[-1] == "[DONE]" for response in responses)
    assert len(engine.inference()) == 100
    eventually(plane.is_idle, "every lease to be returned")


def test_the_openai_sdk_speaks_http2_over_tls(
    plane: DataPlaneRouter, certificate: Certificate
) -> None:
    transport = openai.DefaultHttpxClient(http2=True, verify=certificate.trust)
    with openai.OpenAI(
        base_url=f"{plane.address}/v1", api_key=KEY, max_retries=0, http_client=transport
    ) as client:
        whole = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "x"}]
        )
        assert whole.http_response.http_version == "HTTP/2"
        assert whole.parse().choices[0].message.content
        with client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        ) as stream:
            assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][
                -1
            ] == "stop"


def test_a_websocket_passes_over_tls(plane: DataPlaneRouter, certificate: Certificate) -> None:
    url = plane.address.replace("https", "wss", 1) + "/v1/realtime?model=m"
    message = bytes(range(256)) * 4_000
    with connect(
        url, additional_headers=AUTHORIZATION, ssl=certificate.trust, proxy=None, max_size=None
    ) as client:
        for _ in range(3):
            client.send(message)
            assert client.recv(DEADLINE) == message
    eventually(plane.is_idle, "the lease to be returned")


def test_serve_speaks_tls_with_the_certificate_of_its_configuration(
    fake_engines: Engines, certificate: Certificate
) -> None:
    server = (
        f'[server]\ntls_certificate = "{certificate.certificate}"\ntls_key = "{certificate.key}"\n'
    )
    with serving(external(fake_engines(1), more=server), wait=False) as product:
        address = product.address.replace("http://", "https://")
        with httpx.Client(
            base_url=address, http2=True, verify=certificate.trust, headers=AUTHORIZATION
        ) as client:

            def is_ready() -> bool:
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.ConnectError:
                    assert product.process.poll() is None, product.output()
                    return False

            eventually(is_ready, "/readyz to answer 200 over TLS")
            response = client.post("/v1/chat/completions", json=chat())
            assert (response.status_code, response.http_version) == (200, "HTTP/2")
            # The management API behind the same port.
            models = client.get("/v2/models")
            assert (models.status_code, models.http_version) == (200, "HTTP/2")
        plain = httpx.get(f"{product.address}/healthz")
        assert plain.status_code == 400
        assert "HTTPS" in plain.text
