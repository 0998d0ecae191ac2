"""One request to an engine of ours, and whatever it answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gpustack_fast.engines.ask import ask


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.0 503 No\r\n\r\n", 503),
        (b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n", 0),
        (b"HTTP/1.1 2 OK\r\n\r\n", 0),
        (b"HTTP/1.1\r\n\r\n", 0),
        (b"SSH-2.0\r\n\r\n", 0),
    ],
)
def test_what_is_no_http_has_no_status(short_folder: Path, said: bytes, status: int) -> None:
    async def main() -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            writer.close()

        server = await asyncio.start_unix_server(answer, short_folder / "engine.sock")
        async with server:
            return (await ask(f"unix:{short_folder / 'engine.sock'}", "/health", "")).status

    assert asyncio.run(main()) == status
