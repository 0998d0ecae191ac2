"""What an engine's health path says, over real sockets."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import health
from gpustack_fast.engines.external import health_path
from gpustack_fast.engines.health import FALL, Health

SILENT = b""
"""An engine that answers nothing, and closes no connection."""


class Engine:
    """Gives each request the answer of now, and notes its first line."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        self.asked: list[str] = []
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.decode().splitlines()[0])
        if self.answer == SILENT:
            await reader.read()
        writer.write(self.answer)
        writer.close()

    def answers(self, status: str) -> None:
        self.answer = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode()


Scenario = Callable[[Engine], Awaitable[None]]


def run(scenario: Scenario, unix: Path | None = None) -> None:
    """Runs a scenario with an engine on a loopback port, or on a Unix socket."""

    async def main() -> None:
        engine = Engine()
        if unix is not None:
            server = await asyncio.start_unix_server(engine.serve, unix)
            engine.address = f"unix:{unix}"
        else:
            server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
            engine.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            await scenario(engine)

    uvloop.run(main())


@pytest.mark.parametrize("is_unix", [True, False])
def test_an_engine_that_answers_200_is_well(short_folder: Path, is_unix: bool) -> None:
    async def scenario(engine: Engine) -> None:
        asked = Health(engine.address, "/health")
        assert await asked.problem(running=False) is None
        assert (asked.note, engine.asked) == ("", ["GET /health HTTP/1.1"])

    run(scenario, short_folder / "e.sock" if is_unix else None)


def test_without_a_path_nothing_is_asked() -> None:
    async def scenario(engine: Engine) -> None:
        assert await Health(engine.address, None).problem(running=False) is None
        assert engine.asked == []

    run(scenario)


def test_a_5xx_counts_at_once_at_the_start_and_later_after_several_in_a_row() -> None:
    async def scenario(engine: Engine) -> None:
        asked = Health(engine.address, "/health")
        engine.answers("503 Service Unavailable")
        problem = await asked.problem(running=False)
        assert problem is not None
        assert problem == (
            f"The engine at {engine.address} answers GET /health with 503. Look into its log."
        )
        engine.answers("204 No Content")
        assert await asked.problem(running=False) is None
        engine.answers("500 Internal Server Error")
        told = [await asked.problem(running=True) for _ in range(FALL)]
        assert [one is not None for one in told] == [False] * (FALL - 1) + [True]
        engine.answers("200 OK")
        assert await asked.problem(running=False) is None
        engine.answers("500 Internal Server Error")
        assert await asked.problem(running=True) is None, "it is counted anew"

    run(scenario)


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405, 501])
def test_an_answer_that_says_nothing_of_health_is_noted(status: int) -> None:
    async def scenario(engine: Engine) -> None:
        asked = Health(engine.address, "/health")
        engine.answers(f"{status} Whatever")
        assert await asked.problem(running=False) is None
        assert f"answers GET /health with {status}" in asked.note
        assert "Set `health_path`" in asked.note
        engine.answers("200 OK")
        assert await asked.problem(running=True) is None
        assert asked.note == ""

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (SILENT, "did not answer GET / within 0.05 s"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "something that is no HTTP"),
        (b"x" * 100_000, "something that is no HTTP"),
        (b"HTTP/1.1 200", "something that is no HTTP"),
        (b"HTTP/1.1 " + b"2" * 5000 + b"\r\n", "something that is no HTTP"),
        (b"HTTP/1.1 20 OK\r\n", "something that is no HTTP"),
    ],
)
def test_what_is_no_answer_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, told: str
) -> None:
    monkeypatch.setattr(health, "ANSWER_WITHIN", 0.05 if answer == SILENT else 10.0)

    async def scenario(engine: Engine) -> None:
        engine.answer = answer
        assert told in (await Health(engine.address, "/").problem(running=False) or "")

    run(scenario)


def test_a_connection_that_ends_without_an_answer_is_a_problem() -> None:
    async def scenario(engine: Engine) -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            problem = await Health(address, "/health").problem(running=False)
        assert "gave no answer to GET /health (Connection reset by peer)" in (problem or "")

    run(scenario)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("running", [False, True])
def test_a_fault_of_this_machine_is_no_verdict_on_an_engine(
    monkeypatch: pytest.MonkeyPatch, running: bool, number: int
) -> None:
    async def full(*_: object) -> None:
        raise OSError(number, "This machine is short of something")

    async def scenario(engine: Engine) -> None:
        asked = Health(engine.address, "/health")
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "open_connection", full)
            for _ in range(FALL):
                with pytest.raises(OSError, match="This machine"):
                    await asked.problem(running=running)
        engine.answers("500 Internal Server Error")
        assert await asked.problem(running=True) is None, "none of them counted"

    run(scenario)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, None),
        ({"engine": "openai", "health_path": "/"}, "/"),
        ({"engine": "vllm"}, "/health"),
        ({"engine": "sglang"}, "/health"),
        ({"engine": "llama_cpp"}, "/health"),
        ({"engine": "tei"}, "/health"),
        ({"engine": "tensorrt_llm"}, "/health"),
        ({"engine": "vllm", "health_path": "/ping"}, "/ping"),
        ({"engine": "vllm", "health_path": ""}, None),
    ],
)
def test_each_kind_of_engine_has_its_path_and_a_model_may_have_another(
    fields: dict[str, str], path: str | None
) -> None:
    model = ModelConfig(name="m", backend="external", urls=["http://h:1"], **fields)  # type: ignore[arg-type]
    assert health_path(model) == path
