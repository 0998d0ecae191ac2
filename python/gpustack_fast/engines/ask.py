"""Asks an engine one thing: a request of HTTP/1.0, whose response ends with the connection.

So no length and no coding has to be understood. Engines (uvicorn, cpp-httplib) answer it as such.
"""

from __future__ import annotations

import asyncio
import errno
from urllib.parse import urlsplit

__all__ = ["LARGEST", "Answer", "ask"]

LARGEST = 8 * 1024 * 1024
"""Bytes of a response. vLLM's metrics are some 60 KB."""


class Answer:
    """A status, 0 where what came was no HTTP, and a body."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body


async def ask(address: str, path: str, key: str, body: bytes | None = None) -> Answer:
    """One GET, or with a `body` of JSON one POST. `address`: `unix:/PATH` or `http://HOST:PORT`.

    The caller bounds the time. Raises OSError when there is no whole response.
    """
    if address.startswith("unix:"):
        host = "engine"
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        parts = urlsplit(address)
        host = parts.netloc
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.0\r\nHost: {host}\r\n"
        if key:
            head += f"Authorization: Bearer {key}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + (body or b""))
        await writer.drain()
        return _answer(await _read(reader))
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """All that comes. Raises OSError where that is too much."""
    found = bytearray()
    while piece := await reader.read(65536):
        found += piece
        if len(found) > LARGEST:
            raise OSError(errno.EMSGSIZE, f"It sent more than {LARGEST} bytes")
    return bytes(found)


def _answer(response: bytes) -> Answer:
    """Raises OSError where nothing, or half a head, came."""
    head, end, body = response.partition(b"\r\n\r\n")
    if not end:
        raise ConnectionResetError(errno.ECONNRESET, "The engine closed the connection")
    words = head.split(None, 2)
    is_http = len(words) > 1 and words[0].startswith(b"HTTP/1.")
    has_status = is_http and len(words[1]) == 3 and words[1].isdigit()
    return Answer(int(words[1]) if has_status else 0, body)
