"""100,000 requests with every fault on: nobody ever sees a byte of somebody else's response."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fake_responses import FAULTY_FRAMINGS
from harness import KEY, DataPlaneRouter, FakeEngine
from raw_http import eventually

REQUESTS = 100_000
CONNECTIONS = 96
NONCE = re.compile(rb"nonce-[0-9a-f]{16}")
STRANGER = "nonce-" + "f" * 16
"""The nonce of the responses that the engines send when nobody has asked."""
POISON = (
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 31\r\n\r\n"
    f'{{"id":"{STRANGER}"}}'
)
PLACES = (
    "before_head",
    "inside_head",
    "after_head",
    "at_frame",
    "inside_frame",
    "inside_chunk",
    "before_end",
)

HARMLESS: list[dict[str, Any]] = [
    {"pieces": "bytes", "frames": 1},
    {"pieces": "chunks", "frames": 1},
    {"line_end": "\r\n"},
    {"line_end": "\r"},
    {"comments": True},
    {"frames": 30},
    {"delay": 0.002},
    {"frame_bytes": 30_000},
    {"extra": POISON},
    {"extra": "\r\n"},
    {"close": "silent"},
    {"close": "announced"},
    {"close_idle": 0.0},
    {"close_idle": 0.001},
    {"framing": "close"},
    {"version": "1.0", "framing": "close"},
    {"interim": [100, 103]},
    {"trailers": True, "framing": "chunked"},
    {"coding": "gzip"},
    {"fault": {"how": "stall", "at": "before_head", "seconds": 0.01}},
]
"""Orders that a caller must not notice: the response is whole all the same."""

HARMFUL: list[dict[str, Any]] = [
    *(
        {"fault": {"how": how, "at": place, "after": 1}}
        for how in ("close", "reset")
        for place in PLACES
    ),
    *(
        {"fault": {"how": how, "at": place, "after": 0}}
        for how in ("close", "reset")
        for place in PLACES[3:]
    ),
    *({"framing": framing, "extra": POISON} for framing in FAULTY_FRAMINGS),
    {"status": 500},
    {"status": 400},
    {"status": 503, "close": "silent"},
    {"early": {"status": 400, "then": "reset"}},
    {"early": {"status": 400, "then": "close"}},
    {"early": {"status": 400, "then": "read"}},
]
"""Orders that may end in an error, but of the caller who asked for it."""

STALLS: list[dict[str, Any]] = [
    {"fault": {"how": "stall", "at": place, "after": 1}}
    for place in ("before_head", "after_head", "inside_frame")
]
"""Rare, and on a connection of their own, which each holds until a timeout of the router."""
LIMIT = 45
"""Seconds of that timeout: on a busy machine harmless requests do not take so long either."""


@dataclass
class Tally:
    """The sights of all callers."""

    asked: int = 0
    foreign: list[str] = field(default_factory=list)
    spoiled: list[str] = field(default_factory=list)
    """Responses to harmless requests that were not whole, that break HTTP, or that never come."""
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass
class Plan:
    """One request: its bytes, and what may come of it."""

    nonce: str
    wire: bytes
    harmless: bool
    leaves: bool
    stalls: bool


def plan(chance: random.Random, may_stall: bool) -> Plan:
    """A request by chance: plain, with an order, harmless or not, or from a caller that leaves."""
    nonce = f"nonce-{chance.getrandbits(60):016x}"
    kind = chance.random()
    stalls = may_stall and 0.45 <= kind < 0.456
    orders: dict[str, Any] = {}
    if kind < 0.30:
        orders = dict(chance.choice(HARMLESS))
    elif kind < 0.45:
        orders = dict(chance.choice(HARMFUL))
        if chance.random() < 0.5:
            orders["only_on"] = "engine-0"
    elif stalls:
        orders = dict(chance.choice(STALLS))
    harmless = not (stalls or 0.30 <= kind < 0.45)
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": nonce}]}
    if chance.random() < 0.5:
        body["stream"] = True
    if chance.random() < 0.05:
        body["padding"] = "p" * chance.randrange(200_000)
    headers = f"Host: router\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    if "early" in orders:
        headers += f"X-Fake: {json.dumps({**orders, 'nonce': nonce})}\r\n"
    elif orders:
        body["fake"] = orders
    payload = json.dumps(body).encode()
    if chance.random() < 0.2:
        framing = "Transfer-Encoding: chunked"
        cut = chance.randrange(1, len(payload))
        pieces = (payload[:cut], payload[cut:])
        payload = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        framing = f"Content-Length: {len(payload)}"
    wire = f"POST /v1/chat/completions HTTP/1.1\r\n{headers}{framing}\r\n\r\n".encode() + payload
    leaves = chance.random() < 0.03 and not stalls
    return Plan(nonce, wire, harmless, leaves, stalls)


class Caller:
    """One keep-alive connection that asks one request after the other."""

    def __init__(self, address: str, seed: int, tally: Tally) -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        self.address = address
        self.peer = (host, int(port))
        self.chance = random.Random(seed)
        self.tally = tally
        self.socket: socket.socket | None = None
        self.buffer = b""

    async def ask_all(self, count: int) -> None:
        async with asyncio.TaskGroup() as others:
            for number in range(count):
                # Only in the first quarter, so that nobody has to wait for a stall in the end.
                planned = plan(self.chance, may_stall=4 * number < count)
                if planned.stalls:
                    seed = self.chance.getrandbits(60)
                    other = Caller(self.address, seed, self.tally)
                    others.create_task(other.ask_and_go_on(planned))
                else:
                    await self.ask(planned)
                self.tally.asked += 1
            self.hang_up()

    async def ask_and_go_on(self, planned: Plan) -> None:
        """Asks this, and some more on the same connection, if that is kept."""
        await self.ask(planned)
        for _ in range(5):
            await self.ask(plan(self.chance, may_stall=False))
        self.hang_up()

    def hang_up(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    async def ask(self, plan: Plan) -> None:
        """Sends one request and judges what comes back."""
        loop = asyncio.get_running_loop()
        if self.socket is None:
            self.socket = socket.socket()
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(self.socket, self.peer)
            self.buffer = b""
        if plan.leaves:
            await self.leave(plan)
            return
        cut = (
            self.chance.randrange(1, len(plan.wire))
            if self.chance.random() < 0.1
            else len(plan.wire)
        )
        try:
            await loop.sock_sendall(self.socket, plan.wire[:cut])
            if cut < len(plan.wire):
                await loop.sock_sendall(self.socket, plan.wire[cut:])
        except ConnectionError:
            pass  # An early response and a close; the response lies in the socket.
        await self.judge(plan)

    async def leave(self, plan: Plan) -> None:
        """Goes away after a part of the request, or after the beginning of the response."""
        loop = asyncio.get_running_loop()
        assert self.socket is not None
        self.tally.outcomes["left"] += 1
        await loop.sock_sendall(
            self.socket, plan.wire[: self.chance.randrange(1, len(plan.wire) + 1)]
        )
        await asyncio.sleep(self.chance.choice([0, 0.001]))
        self.hang_up()

    async def judge(self, plan: Plan) -> None:
        """Reads one response to its end, and looks for nonces in every byte of it."""
        try:
            seen, status, payload, whole = await self.read_response()
        except (AssertionError, ValueError, TimeoutError) as error:
            self.tally.spoiled.append(f"{error!r}: {plan.wire[-300:]!r} got {self.buffer[:500]!r}")
            self.hang_up()
            return
        strangers = {found.decode() for found in NONCE.findall(seen + payload)} - {plan.nonce}
        if strangers:
            self.tally.foreign.append(f"asked {plan.nonce}, saw {strangers}: {plan.wire[-300:]!r}")
        mine = plan.nonce.encode() in payload
        if status == 200 and whole and b"[DONE]" in payload and b'"error"' in payload:
            # A caller who stops at [DONE] would take it for whole, another for broken.
            outcome = "truncated"
            self.hang_up()
        elif status == 200 and whole and (b"[DONE]" in payload or b'"chat.completion"' in payload):
            outcome = "done"
        elif status == 200 and whole:
            outcome = "error event" if b'"error"' in payload else "truncated"
            # The router closes behind an error event; its head had promised nothing yet.
            self.hang_up()
        else:
            outcome = f"{status}" if whole else "broken"
        self.tally.outcomes[outcome] += 1
        if outcome == "truncated" or (plan.harmless and (outcome != "done" or not mine)):
            self.tally.spoiled.append(f"{outcome}: {plan.wire[-300:]!r} got {seen[-500:]!r}")

    async def read_response(self) -> tuple[bytes, int, bytes, bool]:
        """All bytes of the next response, status, inflated payload, and whether it is whole."""
        loop = asyncio.get_running_loop()
        assert self.socket is not None
        end_seen = False
        while True:
            parsed = parse_response(self.buffer)
            if parsed is not None or end_seen:
                break
            try:
                data = await asyncio.wait_for(loop.sock_recv(self.socket, 1 << 18), 5 * LIMIT)
            except ConnectionError:
                data = b""
            end_seen = not data
            self.buffer += data
        if parsed is None:
            seen, self.buffer = self.buffer, b""
            self.hang_up()
            return seen, int(seen[9:12] or 0), seen, False
        end, status, payload, closes = parsed
        seen, self.buffer = self.buffer[:end], self.buffer[end:]
        if closes:
            self.hang_up()
        return seen, status, payload, True


def parse_response(data: bytes) -> tuple[int, int, bytes, bool] | None:
    """The end of the first response in `data`, its status, its payload, and whether it is the last.

    None while it is not whole.
    """
    head_end = data.find(b"\r\n\r\n") + 4
    if head_end < 4:
        return None
    head = data[:head_end].lower()
    status = int(head[9:12])
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        found = parse_chunks(data, head_end)
        if found is None:
            return None
        end, payload = found
    else:
        match = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
        assert match, f"An answer that no framing ends: {head!r}"
        end = head_end + int(match[1])
        if len(data) < end:
            return None
        payload = data[head_end:end]
    if b"\r\ncontent-encoding: gzip\r\n" in head:
        payload = zlib.decompress(payload, 31)
    return end, status, payload, b"\r\nconnection: close\r\n" in head


def parse_chunks(data: bytes, at: int) -> tuple[int, bytes] | None:
    """The end and the payload of a chunked body; None while it is not whole."""
    pieces: list[bytes] = []
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(data[at:line_end], 16)
        end = line_end + 2 + size + 2
        if len(data) < end:
            return None
        assert data[end - 2 : end] == b"\r\n", "a chunk that does not end where it says"
        if size == 0:
            return end, b"".join(pieces)
        pieces.append(data[line_end + 2 : end - 2])
        at = end


@pytest.mark.timeout(900)
def test_no_caller_ever_sees_anothers_nonce(
    fake_engines: Callable[..., list[FakeEngine]], router: Callable[..., DataPlaneRouter]
) -> None:
    engines = fake_engines(1) + fake_engines(1, unix=True)
    for engine in engines:
        engine.control("keep_journal", False)
        engine.defaults(close_chance=0.02)
    plane = router(engines, workers=2, timeouts={"first_frame": LIMIT, "idle": LIMIT})
    tally = Tally()

    async def ask_all() -> None:
        share = REQUESTS // CONNECTIONS + 1
        await asyncio.gather(
            *(Caller(plane.address, seed, tally).ask_all(share) for seed in range(CONNECTIONS))
        )

    asyncio.run(ask_all())
    assert tally.asked >= REQUESTS
    assert tally.foreign[:10] == []
    assert tally.spoiled[:10] == []
    assert tally.outcomes["done"] > REQUESTS // 2, tally.outcomes
    for outcome in ("left", "error event", "broken", "400", "502", "504"):
        assert tally.outcomes[outcome] > 0, tally.outcomes
    assert_faults_happened(engines)
    eventually(plane.is_idle, "every lease to be returned")


def assert_faults_happened(engines: list[FakeEngine]) -> None:
    """By the engines' own count."""
    counters: Counter[str] = Counter()
    for engine in engines:
        counters.update(engine.state()["counters"])
    wanted = {f"fault:{how}:{place}" for how in ("close", "reset") for place in PLACES}
    wanted |= {f"framing:{framing}" for framing in FAULTY_FRAMINGS}
    wanted |= {f"fault:stall:{place}" for place in ("before_head", "after_head", "inside_frame")}
    wanted |= {f"early:{then}" for then in ("reset", "close", "read")}
    wanted |= {"extra", "close:silent", "close_idle", "closed_by_chance", "pieces:bytes", "interim"}
    assert not wanted - counters.keys()
