"""The management API: through real granian on a real Unix socket, in a real uvloop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from gpustack_fast.api.application import Application
from gpustack_fast.api.documents import InstanceView, ModelView, RouteView, TargetView
from gpustack_fast.api.routes import Sources
from gpustack_fast.api.server import ApiServer
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.keys.store import KeyInfo, Scope

KEY = "gpustack_0123456789abcdef_0123456789abcdef0123456789abcdef"
MODELS = [
    ModelView(
        name=f"m{number}",
        backend="llama_cpp",
        source="python_package",
        categories=["llm"],
        replicas=2,
        ready_replicas=1,
        instances=[
            InstanceView(name=f"m{number}-abcde", state="running", pid=7),
            InstanceView(name="x", state="error"),
        ],
    )
    for number in range(5)
]
ROUTES = [
    RouteView(
        id=7,
        name="owner/default",
        created=1000,
        targets=[
            TargetView(model="m0", weight=100, state="active"),
            TargetView(model="m1", weight=0, fallback_status_codes=["5xx"], state="unavailable"),
        ],
        ready_targets=1,
        access_policy="public",
        generic_proxy=True,
        categories=["llm"],
        meta={"context": 4096},
    )
]


def key_info(scopes: list[Scope], expires: int | None = None) -> KeyInfo:
    return KeyInfo(
        name="k",
        access_key="0" * 16,
        masked="",
        allowed_models=["nothing"],
        scopes=scopes,
        created=1,
        expires=expires,
        custom=False,
    )


KEYS = {
    KEY: key_info(["*"]),
    "manages": key_info(["inference", "management"], expires=2**40),
    "infers": key_info(["inference"]),
    "expired": key_info(["*"], expires=1000),
}
SOURCES = Sources(version="1.2.3", models=lambda: MODELS, routes=lambda: ROUTES, find_key=KEYS.get)

Scenario = Callable[[httpx.AsyncClient], Awaitable[None]]


@asynccontextmanager
async def serving(socket: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A served API and a client of it."""
    server = ApiServer(Application(SOURCES), socket)
    await server.start()
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            yield client
    finally:
        await server.close()


def with_api(folder: Path, scenario: Scenario) -> None:
    """Runs a scenario against an API of its own."""

    async def serve_and_run() -> None:
        async with serving(folder / "api.sock") as client:
            await scenario(client)

    in_uvloop(serve_and_run())


def in_uvloop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


class Api:
    """One served API for many requests, in a loop of its own."""

    def __init__(self, runner: asyncio.Runner, client: httpx.AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, headers=headers))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        served = serving(tmp_path_factory.mktemp("api") / "api.sock")
        yield Api(runner, runner.run(served.__aenter__()))
        runner.run(served.__aexit__(None, None, None))


def bearer(key: str = KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_the_version_is_open_to_everybody(api: Api) -> None:
    response = api.get("/version")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"version": "1.2.3", "git_commit": ""}


def test_the_models_come_in_gpustack_s_list_shape(api: Api) -> None:
    response = api.get("/v2/models", bearer())
    assert response.status_code == 200
    document = response.json()
    assert document["pagination"] == {"page": 1, "perPage": 100, "total": 5, "totalPage": 1}
    assert [item["name"] for item in document["items"]] == ["m0", "m1", "m2", "m3", "m4"]
    assert document["items"][0] == {
        "name": "m0",
        "backend": "llama_cpp",
        "source": "python_package",
        "categories": ["llm"],
        "generic_proxy": False,
        "replicas": 2,
        "ready_replicas": 1,
        "instances": [
            {
                "name": "m0-abcde",
                "state": "running",
                "state_message": "",
                "pid": 7,
                "restart_count": 0,
                "last_restart_time": None,
            },
            {
                "name": "x",
                "state": "error",
                "state_message": "",
                "pid": None,
                "restart_count": 0,
                "last_restart_time": None,
            },
        ],
    }


def test_the_routes_come_with_their_numbers_and_targets(api: Api) -> None:
    document = api.get("/v2/model-routes", bearer()).json()
    assert document["pagination"] == {"page": 1, "perPage": 100, "total": 1, "totalPage": 1}
    assert document["items"] == [
        {
            "id": 7,
            "name": "owner/default",
            "created": 1000,
            "targets": [
                {
                    "model": "m0",
                    "weight": 100,
                    "fallback_status_codes": [],
                    "overridden_model_name": None,
                    "state": "active",
                },
                {
                    "model": "m1",
                    "weight": 0,
                    "fallback_status_codes": ["5xx"],
                    "overridden_model_name": None,
                    "state": "unavailable",
                },
            ],
            "ready_targets": 1,
            "access_policy": "public",
            "generic_proxy": True,
            "categories": ["llm"],
            "meta": {"context": 4096},
        }
    ]


@pytest.mark.parametrize("path", ["/v2/models", "/v2/model-routes"])
def test_a_key_for_inference_alone_manages_nothing(api: Api, path: str) -> None:
    response = api.get(path, bearer("infers"))
    assert response.status_code == 403
    document = response.json()
    assert (document["code"], document["reason"]) == (403, "Forbidden")
    assert document["message"].startswith(
        "API key does not have permission to access management features."
    )
    assert api.get(path, bearer("manages")).status_code == 200


def test_an_expired_key_is_rejected_and_told_why(api: Api) -> None:
    response = api.get("/v2/models", bearer("expired"))
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert response.json()["reason"] == "Unauthorized"
    assert response.json()["message"].startswith("This API key has expired.")


@pytest.mark.parametrize(
    ("query", "names", "pagination"),
    [
        ("page=1&perPage=2", ["m0", "m1"], {"page": 1, "perPage": 2, "total": 5, "totalPage": 3}),
        ("page=3&perPage=2", ["m4"], {"page": 3, "perPage": 2, "total": 5, "totalPage": 3}),
        ("page=4&perPage=2", [], {"page": 4, "perPage": 2, "total": 5, "totalPage": 3}),
        (
            "page=-1&perPage=2",
            ["m0", "m1", "m2", "m3", "m4"],
            {"page": -1, "perPage": 2, "total": 5, "totalPage": 3},
        ),
    ],
)
def test_lists_are_paged(
    api: Api, query: str, names: list[str], pagination: dict[str, int]
) -> None:
    document = api.get(f"/v2/models?{query}", bearer()).json()
    assert [item["name"] for item in document["items"]] == names
    assert document["pagination"] == pagination


@pytest.mark.parametrize(
    "query", ["page=0", "page=-2", "perPage=0", "page=x", "page=", "page=9999999999", "page=--1"]
)
def test_a_page_that_cannot_be_is_rejected(api: Api, query: str) -> None:
    response = api.get(f"/v2/models?{query}", bearer())
    assert response.status_code == 422
    assert response.json()["reason"] == "Invalid"


@pytest.mark.parametrize(
    "headers",
    [
        bearer(),
        {"authorization": f"bEaReR   {KEY}"},
        {"X-API-Key": KEY},
        {"Authorization": "Bearer another", "X-API-Key": KEY},
        {"Authorization": f"Bearer {KEY}", "X-API-Key": "another"},
    ],
)
def test_a_key_is_taken_from_either_header(api: Api, headers: dict[str, str]) -> None:
    assert api.get("/v2/models", headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "wrong"},
        {"Authorization": "Bearer wrong", "X-API-Key": "wrong"},
    ],
)
def test_without_a_right_key_the_response_is_401_in_the_management_shape(
    api: Api, headers: dict[str, str]
) -> None:
    response = api.get("/v2/models", headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    document = response.json()
    assert (document["code"], document["reason"]) == (401, "Unauthorized")
    assert document["message"].startswith("Invalid authentication credentials")


@pytest.mark.parametrize(
    "path", ["/", "/v2", "/v2/models/", "/v2/Models", "/v2/%6dodels", "/healthz/x"]
)
def test_an_unknown_path_is_404_in_the_management_shape(api: Api, path: str) -> None:
    response = api.get(path, bearer())
    assert response.status_code == 404
    assert (response.json()["code"], response.json()["reason"]) == (404, "NotFound")


def test_a_wrong_method_is_405_and_told_the_right_ones(api: Api) -> None:
    response = api.get("/v2/models", bearer(), method="POST")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"
    assert response.json()["reason"] == "MethodNotAllowed"


def test_head_has_the_head_of_get_and_no_body(tmp_path: Path) -> None:
    responses: list[httpx.Response] = []

    async def scenario(client: httpx.AsyncClient) -> None:
        for method in ("GET", "HEAD", "GET"):
            responses.append(await client.request(method, "/version"))

    with_api(tmp_path, scenario)
    whole, head, after = responses
    assert (head.status_code, head.content) == (200, b"")
    assert (
        head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))
    )
    assert after.content == whole.content


def test_a_body_that_nobody_reads_does_not_spoil_the_next_request(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            refused = await client.post("/v2/models", content=b"x" * 1_000_000)
            assert refused.status_code == 405
            assert (await client.get("/version")).status_code == 200

    with_api(tmp_path, scenario)


def test_many_requests_at_once_are_all_served(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        responses = await asyncio.gather(
            *(
                client.get(f"/v2/models?page={1 + n % 5}&perPage=1", headers=bearer())
                for n in range(100)
            )
        )
        assert [response.json()["items"][0]["name"] for response in responses] == [
            f"m{n % 5}" for n in range(100)
        ]

    with_api(tmp_path, scenario)


def test_the_server_leaves_signals_and_logs_alone_and_ends_without_a_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def surroundings() -> tuple[object, ...]:
        signals = [
            signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        ]
        return (
            signals,
            list(logging.getLogger().handlers),
            list(logging.getLogger("_granian").handlers),
        )

    async def run() -> None:
        before = surroundings()
        server = ApiServer(Application(SOURCES), tmp_path / "api.sock")
        await server.start()
        assert (tmp_path / "api.sock").stat().st_mode == stat.S_IFSOCK | 0o600
        assert surroundings() == before
        await server.close()
        assert surroundings() == before

    in_uvloop(run())
    assert not (tmp_path / "api.sock").exists()
    assert capfd.readouterr() == ("", "")


def test_it_can_be_closed_while_a_client_keeps_its_connection(tmp_path: Path) -> None:
    socket = tmp_path / "api.sock"

    async def run() -> None:
        server = ApiServer(Application(SOURCES), socket)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"GET /version HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await server.close()
        writer.close()

    in_uvloop(run())


def test_it_starts_again_over_the_socket_of_a_dead_server(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, sys, pathlib\n"
        "from gpustack_fast.api.application import Application\n"
        "from gpustack_fast.api.routes import Sources\n"
        "from gpustack_fast.api.server import ApiServer\n"
        "sources = Sources(version='0', models=list, routes=list, find_key=lambda text: None)\n"
        "async def main():\n"
        "    await ApiServer(Application(sources), pathlib.Path(sys.argv[1])).start()\n"
        "    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    dead = tmp_path / "api.sock"

    async def die() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            str(dead),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert await process.wait() == 0

    asyncio.run(die())
    assert dead.exists()

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/version")).json()["version"] == "1.2.3"

    with_api(tmp_path, scenario)


def test_a_socket_that_cannot_be_made_is_an_error_and_no_hang(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises((GpustackFastError, OSError)):
            await ApiServer(Application(SOURCES), tmp_path / "missing" / "api.sock").start()

    in_uvloop(run())


def test_a_socket_that_nobody_answers_is_told_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: ApiServer) -> bool:
        return False

    monkeypatch.setattr("gpustack_fast.api.server._PATIENCE", 0.2)
    monkeypatch.setattr(ApiServer, "_listens", never)

    async def run() -> None:
        server = ApiServer(Application(SOURCES), tmp_path / "api.sock")
        with pytest.raises(GpustackFastError, match=r"did not listen on .* within 0\.2 s. Start"):
            await server.start()
        await server.close()

    in_uvloop(run())


def test_a_websocket_is_closed_without_a_response() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    asyncio.run(Application(SOURCES)({"type": "websocket"}, receive, send))
    assert json.dumps(sent) == '[{"type": "websocket.close", "code": 1008}]'
