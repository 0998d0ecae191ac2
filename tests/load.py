"""Steady load on a server, whose every byte is checked: short requests at a rate, and open streams.

It runs on a thread of its own, with sockets of its own, so that what a test does meanwhile (a
reload, a kill, an upgrade) does not stop it. Half of the short requests come over connections that
are kept, half over new ones. What a fake engine says is the nonce of the request, in every frame;
of a real one the shape of its response is checked, to its last mark.

    with Load(server.address, KEY, "m", rate=200, streams=50) as load:
        ...
    assert load.problems() == []
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Damaged", "Failed", "Load", "Outcome", "Response", "check"]

RESPONSE_WITHIN = 120.0
PAUSE = 0.05
"""Seconds until a refused connection is tried again."""
ENDED_WITHIN = 180.0


@dataclass(frozen=True)
class Outcome:
    """One request."""

    kind: str
    """`request`, or `stream`."""
    began: float
    """`time.monotonic()`, when its first byte was sent."""
    ended: float
    problem: str
    """What was wrong with its response; empty: nothing was."""
    damaged: bool = False
    """Whether it looked whole, and held something else than what the engine has said."""


class Broken(Exception):
    """A response that did not come whole, and whose framing says so."""


class Damaged(Exception):
    """A response that looks whole, and is not what the engine has said."""


class Failed(Exception):
    """A response that says itself that it is an error, or ends in one."""


class Response:
    """A whole response."""

    def __init__(self, status: int, closes: bool, body: bytes) -> None:
        self.status = status
        self.closes = closes
        self.body = body


class Link:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, head: str, body: bytes) -> Response:
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        return await self._read()

    async def _read(self) -> Response:
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except asyncio.IncompleteReadError as error:
            raise Broken(f"it ended before its head: {error.partial[:80]!r}") from error
        lines = head.split("\r\n")
        status = int(lines[0].split()[1])
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        closes = fields.get("connection") == "close"
        try:
            if fields.get("transfer-encoding") == "chunked":
                body = b"".join([piece async for piece in self._chunks()])
            elif "content-length" in fields:
                body = await self.reader.readexactly(int(fields["content-length"]))
            else:
                body, closes = await self.reader.read(), True
        except asyncio.IncompleteReadError as error:
            raise Broken(f"it ended in its middle, status {status}") from error
        return Response(status, closes, body)

    async def _chunks(self) -> Any:
        while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)

    def close(self) -> None:
        self.writer.close()


class Load:
    """Load from the begin of the block to its end, behind which every request has ended.

    `rate`: short requests per second. `streams`: those that are open at any time, each of `frames`
    frames, `delay` seconds apart. `fake`: whether a fake engine responds. `fields`: more of the
    body. `patient`: a refused connection is tried again, while nobody listens, at what `address` is
    by then.
    """

    def __init__(
        self,
        address: str,
        key: str,
        model: str,
        *,
        rate: float = 50.0,
        streams: int = 10,
        frames: int = 40,
        delay: float = 0.1,
        fake: bool = True,
        fields: dict[str, Any] | None = None,
        patient: bool = False,
    ) -> None:
        self.address = address
        self.key = key
        self.model = model
        self.rate, self.streams = rate, streams
        self.frames, self.delay = frames, delay
        self.fake, self.fields, self.patient = fake, fields or {}, patient
        self.outcomes: list[Outcome] = []
        self.open_streams = 0
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._idle: list[Link] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self.stop()

    def begin_no_more(self) -> None:
        """Begins no more requests, and does not wait for those that run."""
        self._stopping.set()

    def stop(self) -> None:
        """Begins no more requests, and waits for those that run."""
        self.begin_no_more()
        if self._thread.ident is not None:
            self._thread.join(ENDED_WITHIN)
        assert not self._thread.is_alive(), "requests have not ended"

    def problems(self, kind: str | None = None) -> list[str]:
        """What was wrong, with the seconds since the first request."""
        return [
            f"{one.kind} at {one.began - self.outcomes[0].began:.2f} s: {one.problem}"
            for one in list(self.outcomes)
            if one.problem and kind in (None, one.kind)
        ]

    def succeeded(self, kind: str) -> int:
        return sum(1 for one in list(self.outcomes) if one.kind == kind and not one.problem)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.streams):
                group.create_task(self._stream_on_and_on())
            if self.rate:
                await self._requests(group)
        for link in self._idle:
            link.close()

    async def _requests(self, group: asyncio.TaskGroup) -> None:
        begun, sent = time.monotonic(), 0
        while not self._stopping.is_set():
            due = int((time.monotonic() - begun) * self.rate)
            for _ in range(due - sent):
                group.create_task(self._one("request", 1, 0.0))
            sent = due
            await asyncio.sleep(min(0.02, 1 / self.rate))

    async def _stream_on_and_on(self) -> None:
        while not self._stopping.is_set():
            self.open_streams += 1
            await self._one("stream", self.frames, self.delay)
            self.open_streams -= 1

    async def _one(self, kind: str, frames: int, delay: float) -> None:
        number = next(self._numbers)
        keeps = kind == "request" and number % 2 == 0
        try:
            link = (self._kept() if keeps else None) or await self._connect()
        except OSError as error:
            now = time.monotonic()
            self.outcomes.append(Outcome(kind, now, now, f"{type(error).__name__}: {error}"))
            await asyncio.sleep(PAUSE)
            return
        began = time.monotonic()
        problem, damaged = "", False
        try:
            async with asyncio.timeout(RESPONSE_WITHIN):
                response = await self._ask(link, kind, number, frames, delay, keeps=keeps)
            check(kind, f"nonce-{number};" if self.fake else None, frames, response)
        except TimeoutError:
            problem = f"no whole response within {RESPONSE_WITHIN:g} s"
        except (OSError, Broken, Damaged, Failed) as error:
            problem, damaged = f"{type(error).__name__}: {error}", isinstance(error, Damaged)
        self.outcomes.append(Outcome(kind, began, time.monotonic(), problem, damaged))
        if problem:
            await asyncio.sleep(PAUSE)

    async def _ask(
        self, link: Link, kind: str, number: int, frames: int, delay: float, *, keeps: bool
    ) -> Response:
        body = self._body(kind, number, frames, delay)
        last = "" if keeps else "Connection: close\r\n"
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(self.address).netloc}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{last}\r\n"
        )
        try:
            response = await link.ask(head, body)
        except BaseException:
            link.close()
            raise
        if keeps and not response.closes:
            self._idle.append(link)
        else:
            link.close()
        return response

    def _kept(self) -> Link | None:
        """A connection that was kept, and is not closed as far as can be known."""
        while self._idle:
            link = self._idle.pop()
            if not link.reader.at_eof():
                return link
            link.close()
        return None

    async def _connect(self) -> Link:
        end = time.monotonic() + RESPONSE_WITHIN
        while True:
            parts = urlsplit(self.address)  # where a server listens that was started again
            try:
                return Link(*await asyncio.open_connection(parts.hostname, parts.port))
            except ConnectionRefusedError:
                is_over = self._stopping.is_set() or time.monotonic() > end
                if not self.patient or is_over:
                    raise
                await asyncio.sleep(PAUSE)

    def _body(self, kind: str, number: int, frames: int, delay: float) -> bytes:
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"Count from {number}."}],
            **self.fields,
        }
        if kind == "stream":
            fields["stream"] = True
        if self.fake:
            fields["fake"] = {"nonce": f"nonce-{number};", "frames": frames, "delay": delay}
        else:
            fields["max_tokens"] = frames
        return json.dumps(fields).encode()


def check(kind: str, nonce: str | None, frames: int, response: Response) -> None:
    """Raises Failed where a response says that it is an error, and Damaged where it is not what was
    said: by a fake engine the nonce, in each frame of a stream; by a real one (None) anything.
    """
    if response.status != 200:
        raise Failed(f"status {response.status}: {response.body[:300]!r}")
    if kind == "stream":
        _check_stream(nonce, frames, response.body)
    else:
        _check_whole(nonce, response.body)


def _check_whole(nonce: str | None, body: bytes) -> None:
    try:
        said = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise Damaged(f"no chat completion: {body[:200]!r}") from error
    if nonce not in (None, said):
        raise Damaged(f"it said {said!r} to {nonce}")


def _check_stream(nonce: str | None, frames: int, body: bytes) -> None:
    events = list(_events(body))
    if events and events[-1].startswith('{"error":'):
        raise Failed(f"a stream that ends in an error: {events[-1][:300]}")
    if not events or events[-1] != "[DONE]":
        raise Damaged(f"a stream without its end: {body[-200:]!r}")
    try:
        choices = [one for event in events[:-1] for one in json.loads(event)["choices"]]
        said = [one["delta"].get("content") or "" for one in choices]
    except (ValueError, LookupError, TypeError) as error:
        raise Damaged(f"a frame that is none: {body[-300:]!r}") from error
    if not choices or choices[-1]["finish_reason"] is None:
        raise Damaged("a stream without a reason for its end")
    if nonce is not None and [one for one in said if one] != [nonce] * frames:
        raise Damaged(f"it said {''.join(said)!r} to {nonce}")


def _events(body: bytes) -> Iterator[str]:
    """The data of each event; comments are none."""
    for block in body.decode().split("\n\n"):
        for line in block.splitlines():
            with contextlib.suppress(ValueError):
                field, data = line.split(": ", 1)
                if field == "data":
                    yield data
