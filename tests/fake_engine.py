"""An engine of every kind that obeys orders, for faults and endpoints that no real engine here has.

    python tests/fake_engine.py --uds /tmp/engine.sock
    python tests/fake_engine.py --port 0              # prints the port that it got

Orders (see `fake_responses.ORDERS`) come with a request, in the field `fake` of its JSON body or in
the header `X-Fake: <json>` (for what must happen before the body is read, and for forms), or for
all requests by `POST /fake/defaults`. A request's own orders win over the defaults.

What it says on which path stands in `fake_endpoints`; any other path is echoed, and with
`Upgrade: websocket` each is an echo of WebSocket messages.

It keeps a journal of what it received: `GET /fake/journal`, `GET /fake/state`, `POST /fake/reset`.
A stall without `seconds` lasts until `POST /fake/go_on`, behind which none begins until the reset.
Times in it are `time.monotonic()`, which all processes of one machine share.

Raw sockets without a server library, because it must be able to break HTTP; the standard library
alone, because a test of ours must not depend on an engine's environment.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

import fake_form
import fake_responses
import fake_websocket
from fake_endpoints import Asked
from fake_endpoints.asked import Orders
from fake_request import Request, parse
from fake_responses import Response

TEXT_LIMIT = 64 * 1024
"""Bodies up to this length are kept in the journal as text."""

Entry = dict[str, Any]
"""One request in the journal:

connection, method, target, headers, length, sha256, text
model            of the JSON body, the last one if there are several, or of a form
complete         the whole request arrived by its framing
started, ended   ended: answered, died, peer_closed, or None while it runs
ended_at
sent_bytes, sent_sha256, sent_frames   of the whole payload; the SHA-256 of each frame
messages         of a WebSocket
"""


class Engine:
    """The part that all connections share: the journal, the defaults and the counters."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.going_on = asyncio.Event()
        self.stopping = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        """Forgets everything but its open connections."""
        self.going_on.clear()
        self.journal: list[Entry] = []
        self.defaults: Orders = {}
        self.seen: set[str] = set()
        self.counters: Counter[str] = Counter()
        self.memory: dict[str, Any] = {}
        self.keep_journal = True

    def state(self) -> dict[str, Any]:
        """The document of `GET /fake/state`."""
        return {
            "name": self.name,
            "pid": os.getpid(),
            "connections": sum(1 for connection in self.connections if not connection.control),
            "accepted": self.accepted,
            "in_progress": sum(
                1 for connection in self.connections if connection.entry is not None
            ),
            "administrative": self.memory.get("administrative", 0),
            "counters": dict(self.counters),
        }

    def orders(self, own: Any) -> Orders:
        """The defaults with a request's orders over them. Raises ValueError for an unknown one."""
        orders = dict(self.defaults)
        if orders and "times" in orders:
            orders.pop("times")
            self.defaults["times"] -= 1
            if self.defaults["times"] <= 0:
                self.defaults = {}
        if isinstance(own, dict):
            orders |= own
        unknown = orders.keys() - fake_responses.ORDERS
        if unknown:
            raise ValueError(f"The fake engine knows no order {', '.join(sorted(unknown))}.")
        if orders.get("only_on", self.name) != self.name:
            return {key: orders[key] for key in ("nonce", "frames") if key in orders}
        return orders

    def first_time(self, word: str) -> bool:
        """True when `word` is new."""
        new = word not in self.seen
        self.seen.add(word)
        return new

    def count(self, orders: Orders) -> None:
        """Counts what was ordered, so that a test can show that its faults really happened."""
        for key, value in orders.items():
            match key:
                case "fault":
                    self.counters[f"fault:{value['how']}:{value['at']}"] += 1
                case "early":
                    self.counters[f"early:{value.get('then', 'close')}"] += 1
                case "framing" | "pieces" | "close" | "version" | "status":
                    self.counters[f"{key}:{value}"] += 1
                case "nonce" | "frames":
                    pass
                case _:
                    self.counters[key] += 1


class Connection(asyncio.Protocol):
    """One connection from the router: requests in, ordered responses out, one at a time."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.buffer = bytearray()
        self.request: Request | None = None
        self.entry: Entry | None = None
        self.task: asyncio.Task[None] | None = None
        self.idle_close: asyncio.TimerHandle | None = None
        self.read_rate: float | None = None
        self.gone = False
        self.control = False
        self.websocket = False
        self.writable = asyncio.Event()
        self.writable.set()

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.engine.accepted += 1
        self.number = self.engine.accepted
        self.engine.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.idle_close is not None:
            self.idle_close.cancel()
            self.idle_close = None
        self.buffer += data
        if self.read_rate is not None:
            self.read_slowly(len(data))
        if self.websocket:
            self.echo()
        else:
            self.advance()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def eof_received(self) -> bool:
        self.leave("peer_closed")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.leave("peer_closed")
        self.engine.connections.discard(self)

    # --- reading ---

    def advance(self) -> None:
        """Reads as many requests as are there; a response that takes time holds the next back."""
        while self.task is None and not self.gone:
            if self.request is None:
                self.request = self.read_head()
            request = self.request
            if request is None or self.read_rate == 0:
                return
            if not request.read(self.buffer):
                self.note_progress()
                return
            self.request = None
            self.respond(request)

    def read_head(self) -> Request | None:
        """Reads a head if it is whole: notes it in the journal and obeys orders before the body."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        lines = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
        del self.buffer[: end + 4]
        method, target, version = lines[0].split(" ", 2)
        headers = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers.append((name, value.strip(" \t")))
        request = Request(method, target, headers)
        request.is_last = version == "HTTP/1.0"
        if target.startswith("/fake/"):
            self.control = True
            return request
        self.open_entry(request)
        own = parse(request.fields["x-fake"], default={}) if "x-fake" in request.fields else {}
        orders = {**self.engine.defaults, **own}
        if "read_rate" in orders:
            self.engine.counters["read_rate"] += 1
            self.read_rate = float(orders["read_rate"])
            self.read_slowly(len(self.buffer))
        if "early" in orders:
            self.respond_early(request, self.engine.orders(own))
        return None if self.gone else request

    def open_entry(self, request: Request) -> None:
        self.entry = {
            "connection": self.number,
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "length": 0,
            "sha256": None,
            "text": None,
            "model": None,
            "complete": False,
            "started": time.monotonic(),
            "ended": None,
            "ended_at": None,
            "sent_bytes": 0,
            "sent_sha256": None,
            "sent_frames": [],
            "messages": 0,
        }
        if self.engine.keep_journal:
            self.engine.journal.append(self.entry)

    def note_progress(self) -> None:
        if self.entry is not None and self.request is not None:
            self.entry["length"] = len(self.request.body)

    def read_slowly(self, received: int) -> None:
        """Stops reading for the time of `received` bytes at the ordered rate; 0: for ever."""
        assert self.read_rate is not None
        self.transport.pause_reading()
        loop = asyncio.get_running_loop()
        if self.read_rate > 0:
            loop.call_later(received / self.read_rate, self.resume)
        else:
            self.watch_for_hang_up()

    def resume(self) -> None:
        if not self.gone:
            self.transport.resume_reading()

    def watch_for_hang_up(self) -> None:
        """Asks the kernel for a close behind unread bytes, which asyncio does not see."""
        if self.gone or self.transport.is_closing():
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self.leave("peer_closed")
            self.transport.abort()
        else:
            asyncio.get_running_loop().call_later(0.02, self.watch_for_hang_up)

    # --- responding ---

    def respond(self, request: Request) -> None:
        """Answers a whole request: at once where the orders allow it, else in a task."""
        if self.control:
            self.transport.write(control_response(self.engine, request))
            self.control = False
            return
        fields, files = self.close_body(request)
        if request.responded_early:
            self.finish("answered")
            return
        orders = self.orders_of(request, fields)
        self.engine.count(orders)
        if request.is_last:
            orders = {**orders, "close": "silent"}
        if (
            request.fields.get("upgrade", "").lower() == "websocket"
            and orders.get("status", 200) == 200
        ):
            self.open_websocket(request, orders)
            return
        response = fake_responses.compose(self.asked(request, orders, fields, files))
        if request.method == "HEAD":
            response.frames, response.end = [], b""
        self.note_response(response)
        if orders.keys().isdisjoint(SLOW_ORDERS):
            extra = str(orders.get("extra", "")).encode("latin-1")
            wire = [response.head, *map(response.on_the_wire, response.frames), response.end, extra]
            self.transport.write(b"".join(wire))
            self.finish("answered")
            self.after_response(orders)
        else:
            self.task = asyncio.get_running_loop().create_task(self.obey(response, orders))

    def orders_of(self, request: Request, fields: dict[str, Any]) -> Orders:
        """A request's orders. Unknown ones make it a 400; some hold for the first time alone."""
        own = fields.get("fake")
        own = parse(own) if isinstance(own, str) else own
        if "x-fake" in request.fields:
            own = {**parse(request.fields["x-fake"], default={}), **(own or {})}
        try:
            orders = self.engine.orders(own)
        except ValueError as error:
            orders = {"status": 400, "error": str(error)}
        if "once" in orders and not self.engine.first_time(str(orders["once"])):
            orders = {key: orders[key] for key in ("nonce", "frames") if key in orders}
        return orders

    def asked(
        self, request: Request, orders: Orders, fields: dict[str, Any], files: dict[str, int]
    ) -> Asked:
        return Asked(
            method=request.method,
            target=request.target,
            orders=orders,
            fields=fields,
            files=files,
            body=bytes(request.body),
            headers=request.headers,
            engine=self.engine.name,
            memory=self.engine.memory,
        )

    def close_body(self, request: Request) -> tuple[dict[str, Any], dict[str, int]]:
        """Notes that the request is whole; returns the fields of its object or form, and files."""
        entry = self.entry
        assert entry is not None
        body = bytes(request.body)
        entry["complete"] = True
        entry["length"] = len(body)
        entry["sha256"] = hashlib.sha256(body).hexdigest()
        if len(body) <= TEXT_LIMIT:
            entry["text"] = body.decode("utf-8", "replace")
        fields: Any = {}
        files: dict[str, int] = {}
        content_type = request.fields.get("content-type", "")
        if content_type.lower().startswith("multipart/form-data"):
            try:
                fields, files = fake_form.read_form(content_type, body)
            except ValueError:
                self.engine.counters["broken_form"] += 1
        elif body:
            fields = parse(body, default={})
        if not isinstance(fields, dict):
            fields = {}
        entry["model"] = fields.get("model")
        return fields, files

    # --- WebSocket ---

    def open_websocket(self, request: Request, orders: Orders) -> None:
        """Switches protocols; from here on every message comes back."""
        self.websocket = True
        accept = fake_websocket.accept_for(request.fields.get("sec-websocket-key", ""))
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [
            f"Sec-WebSocket-Accept: {accept}",
            *(f"{name}: {value}" for name, value in orders.get("headers", [])),
        ]
        greeting = b""
        if "greeting" in orders:
            greeting = fake_websocket.frame(
                fake_websocket.TEXT, str(orders["greeting"]).encode(), masked=False
            )
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + greeting)
        self.echo()

    def echo(self) -> None:
        """Answers what has arrived; after a close frame the connection is closed."""
        assert self.entry is not None
        sent, messages, over = fake_websocket.echo(self.buffer)
        self.entry["messages"] += messages
        self.transport.write(sent)
        if over:
            self.finish("answered")
            self.hang_up("close")

    def note_response(self, response: Response) -> None:
        if self.entry is not None and self.engine.keep_journal:
            payload = b"".join(response.frames)
            self.entry["sent_bytes"] = len(payload)
            self.entry["sent_sha256"] = hashlib.sha256(payload).hexdigest()
            self.entry["sent_frames"] = [
                hashlib.sha256(frame).hexdigest() for frame in response.frames
            ]

    async def obey(self, response: Response, orders: Orders) -> None:
        """Sends a response as slowly, as oddly and as incompletely as ordered."""
        fault = orders.get("fault", {})
        after = fault.get("after", 1)
        singly = orders.get("pieces") in ("bytes", "chunks")
        await self.strike(fault, "before_head")
        if fault.get("at") == "inside_head":
            await self.send(response.head[: len(response.head) // 2], singly=False)
            await self.strike(fault, "inside_head")
            await self.send(response.head[len(response.head) // 2 :], singly=False)
        else:
            await self.send(response.head, singly)
        await self.strike(fault, "after_head")
        for number, frame in enumerate(response.frames):
            if number and orders.get("delay"):
                await asyncio.sleep(orders["delay"])
            if number == after and fault.get("at") in ("at_frame", "inside_frame", "inside_chunk"):
                await self.send_half(response, frame, fault["at"])
                await self.strike(fault, fault["at"])
                if fault["at"] == "inside_frame":
                    frame = frame[len(frame) // 2 :]
                elif fault["at"] == "inside_chunk":
                    wire = response.on_the_wire(frame)
                    await self.send(wire[len(wire) // 2 :], singly)
                    continue
            await self.send(response.on_the_wire(frame), singly)
        await self.strike(fault, "before_end")
        await self.send(response.end, singly=False)
        self.finish("answered")
        if "extra_delay" in orders:
            await asyncio.sleep(orders["extra_delay"])
            await self.send(str(orders["extra"]).encode("latin-1"), singly=False)
            self.engine.counters["extra_sent"] += 1
        self.task = None
        self.after_response(orders)
        self.advance()

    async def send_half(self, response: Response, frame: bytes, place: str) -> None:
        """The first half of a frame in a whole chunk, or of its chunk."""
        if place == "inside_frame":
            await self.send(response.on_the_wire(frame[: len(frame) // 2]), singly=False)
        elif place == "inside_chunk":
            wire = response.on_the_wire(frame)
            await self.send(wire[: len(wire) // 2], singly=False)

    async def send(self, data: bytes, singly: bool) -> None:
        """Writes; `singly` in one write (and over TCP one segment) for each byte."""
        pieces = [data[at : at + 1] for at in range(len(data))] if singly else [data]
        for number, piece in enumerate(pieces, 1):
            if self.gone:
                raise asyncio.CancelledError
            self.transport.write(piece)
            # Not for every byte: each of these waits for the turns of all other connections, and a
            # response would take many seconds where a test has many of them.
            if number % 8 == 0 or number == len(pieces):
                await asyncio.sleep(0)
            await self.writable.wait()

    async def strike(self, fault: Orders, place: str) -> None:
        """Commits the ordered fault if this is its place."""
        if fault.get("at") != place:
            return
        match fault["how"]:
            case "stall":
                if "seconds" in fault:
                    await asyncio.sleep(fault["seconds"])
                else:
                    await self.engine.going_on.wait()
                return
            case "exit":
                os._exit(fault.get("code", 1))
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case how:
                self.leave("died")
                self.hang_up(how)
        raise asyncio.CancelledError

    def respond_early(self, request: Request, orders: Orders) -> None:
        """Answers before the body is read, then resets, closes or reads on."""
        early = orders.get("early")
        if early is None:
            return
        self.engine.count({"early": early})
        response = fake_responses.compose(
            self.asked(request, {**orders, "status": early.get("status", 400)}, {}, {})
        )
        self.transport.write(b"".join([response.head, *response.frames, response.end]))
        request.responded_early = True
        if early.get("then", "close") != "read":
            self.finish("answered")
            self.hang_up(early.get("then", "close"))

    def after_response(self, orders: Orders) -> None:
        """Closes the idle connection when that was ordered."""
        chance = orders.get("close_chance", 0)
        if "close" in orders or orders.get("framing") == "close" or orders.get("version") == "1.0":
            self.hang_up("close")
        elif chance and self.engine.random.random() < chance:
            self.engine.counters["closed_by_chance"] += 1
            self.hang_up("close")
        elif "close_idle" in orders:
            self.idle_close = asyncio.get_running_loop().call_later(
                orders["close_idle"], self.hang_up, "close"
            )

    # --- ends ---

    def finish(self, how: str) -> None:
        """Closes the journal's line, once."""
        if self.entry is not None:
            self.note_progress()
            self.entry["ended"] = how
            self.entry["ended_at"] = time.monotonic()
            self.entry = None

    def leave(self, how: str) -> None:
        """The connection is over: what was running on it ends as `how`."""
        self.gone = True
        self.finish(how)
        if self.task is not None:
            self.task.cancel()
            self.task = None

    def hang_up(self, how: str) -> None:
        """Closes. A reset is a TCP RST; on a Unix socket only unread bytes make one."""
        self.gone = True
        if how == "reset":
            handle = self.transport.get_extra_info("socket")
            if handle.family != socket.AF_UNIX:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()


SLOW_ORDERS = frozenset({"delay", "pieces", "cuts", "fault", "extra_delay"})
"""Orders that need a task; all others are carried out in one write, `extra` too.

Bytes that come later could not be told from the response to a next request.
"""


def control_response(engine: Engine, request: Request) -> bytes:
    """The `/fake/` endpoints."""
    document: Any = {}
    match request.target:
        case "/fake/journal":
            document = engine.journal
        case "/fake/state":
            document = engine.state()
        case "/fake/reset":
            engine.reset()
        case "/fake/defaults":
            engine.defaults = parse(bytes(request.body))
        case "/fake/go_on":
            engine.going_on.set()
        case "/fake/keep_journal":
            engine.keep_journal = bool(parse(bytes(request.body)))
        case "/fake/stop":
            engine.stopping.set()
        case _:
            document = {"error": "There is no such control."}
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


async def stop_with_parent(engine: Engine, parent: int) -> None:
    """Ends the engine when the process that started it is gone, however that ended."""
    while os.getppid() == parent:  # noqa: ASYNC110  (the kernel sets no event of ours)
        await asyncio.sleep(1)
    engine.stopping.set()


async def serve(arguments: argparse.Namespace) -> None:
    """Listens until SIGTERM, SIGINT or `/fake/stop`."""
    loop = asyncio.get_running_loop()
    engine = Engine(arguments.name, arguments.seed)
    if arguments.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, engine.stopping.set)
    loop.add_signal_handler(signal.SIGINT, engine.stopping.set)
    if arguments.uds:
        server = await loop.create_unix_server(
            lambda: Connection(engine), arguments.uds, backlog=4096
        )
        address = f"unix:{arguments.uds}"
    else:
        server = await loop.create_server(
            lambda: Connection(engine), "127.0.0.1", arguments.port, backlog=4096
        )
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    engine.defaults = parse(arguments.defaults)
    print(address, flush=True)
    watch = (
        loop.create_task(stop_with_parent(engine, os.getppid())) if arguments.with_parent else None
    )
    await engine.stopping.wait()
    if watch is not None:
        watch.cancel()
    server.close()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="An OpenAI-shaped engine that obeys orders.")
    parser.add_argument("--uds", help="listen on this Unix socket")
    parser.add_argument(
        "--port", type=int, default=0, help="listen on this port of 127.0.0.1; 0: any free one"
    )
    parser.add_argument(
        "--name", default="fake", help="the engine's name in its journal and its model list"
    )
    parser.add_argument("--seed", type=int, default=0, help="for what happens by chance")
    parser.add_argument("--defaults", default="{}", help="orders for all requests, as JSON")
    parser.add_argument(
        "--ignore-sigterm", action="store_true", help="only SIGKILL, SIGINT or /fake/stop ends it"
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="end when the parent process is gone"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
