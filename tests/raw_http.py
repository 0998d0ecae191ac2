"""Bytes out and bytes in: an HTTP/1.1 client that hides nothing and forgives nothing.

Libraries repair, retry and reuse; a test that asks what is on the wire must not.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

DEADLINE = 45.0
"""Seconds that something which should happen at once may take on a busy machine. It is reached only
where something is wrong, so it makes no test slower; and the product's own limits, the least of
which is 60 s, do not come before it."""


class BrokenFraming(Exception):
    """The peer ended or contradicted its own framing."""


@dataclass
class Response:
    """One response as it was on the wire."""

    version: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    broken: str | None = None
    """The reason why the body is not whole; None when it ended by its own framing."""
    end_by_close: bool = False

    def header(self, name: str) -> str | None:
        """The one value of a header; None when it is not there. Two of them fail the test."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body's document."""
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The data of each event of a stream; fails for bytes that are no whole frame."""
        return events(self.body)


def events(body: bytes) -> list[str]:
    """The data of each event without comments; fails for an unfinished frame at the end."""
    text = body.decode().replace("\r\n", "\n").replace("\r", "\n")
    assert text == "" or text.endswith("\n\n"), f"The stream ends inside a frame: {text[-200:]!r}"
    found = []
    for frame in text.split("\n\n"):
        data = [
            line[5:].removeprefix(" ") for line in frame.split("\n") if line.startswith("data:")
        ]
        if data:
            found.append("\n".join(data))
    return found


class Client:
    """One connection to `http://HOST:PORT` or `unix:PATH`."""

    def __init__(self, address: str, timeout: float = DEADLINE) -> None:
        self.timeout = timeout
        self.buffer = b""
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.removeprefix("http://").rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        self.socket.sendall(data)

    def close(self) -> None:
        """Closes politely."""
        self.socket.close()

    def reset(self) -> None:
        """Closes with a TCP RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def more(self) -> bytes:
        """The bytes of one read; empty at the end, as for a reset. Raises TimeoutError."""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionError:
            return b""
        self.buffer += data
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`. Raises BrokenFraming when the peer closes before."""
        while mark not in self.buffer:
            if not self.more():
                raise BrokenFraming(
                    f"closed while waiting for {mark!r}; there was {self.buffer[-200:]!r}"
                )
        end = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:end], self.buffer[end:]
        return data

    def read_exactly(self, length: int) -> bytes:
        """That many bytes. Raises BrokenFraming when the peer closes before."""
        while len(self.buffer) < length:
            if not self.more():
                raise BrokenFraming(f"closed with {length - len(self.buffer)} bytes missing")
        data, self.buffer = self.buffer[:length], self.buffer[length:]
        return data

    def read_to_the_end(self) -> bytes:
        """Everything until the peer closes."""
        while self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def is_closed(self) -> bool:
        """True when the peer closes within the deadline without another byte."""
        try:
            return self.buffer == b"" and self.more() == b""
        except TimeoutError:
            return False

    def read_head(self) -> Response:
        """The next head; interim responses are not skipped."""
        lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = (lines[0] + " ").split(" ", 2)
        headers = []
        for line in lines[1:-2]:
            name, colon, value = line.partition(":")
            assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name), (
                f"A malformed header line: {line!r}"
            )
            assert colon, f"A header line without a colon: {line!r}"
            headers.append((name, value.strip(" \t")))
        return Response(version, int(status), headers)

    def read_response(self, method: str = "POST") -> Response:
        """The next response with its body. A body that breaks off is in `broken`, not raised."""
        response = self.read_head()
        if method == "HEAD" or response.status in (204, 304) or response.status < 200:
            return response
        try:
            self.read_body(response)
        except BrokenFraming as error:
            response.broken = str(error)
        return response

    def read_body(self, response: Response) -> None:
        """Reads a body by the rules of RFC 9112 section 6."""
        length = response.header("content-length")
        codings = response.header("transfer-encoding")
        assert not (length and codings), "The answer has both Content-Length and Transfer-Encoding."
        if codings is not None:
            assert codings == "chunked", codings
            while chunk := self.read_chunk():
                response.chunks.append(chunk)
                response.body += chunk
        elif length is not None:
            assert length.isdecimal(), length
            try:
                response.body = self.read_exactly(int(length))
            except BrokenFraming:
                response.body, self.buffer = self.buffer, b""
                raise
        else:
            response.end_by_close = True
            response.body = self.read_to_the_end()

    def read_chunk(self) -> bytes:
        """One chunk; empty for the last. Anything but plain hexadecimal digits and CRLF fails."""
        line = self.read_until(b"\r\n")[:-2]
        assert re.fullmatch(rb"[0-9a-fA-F]{1,16}", line), f"A chunk size of {line!r}"
        size = int(line, 16)
        data = self.read_exactly(size)
        assert self.read_exactly(2) == b"\r\n", (
            "A chunk without its CRLF, or trailers behind the last one"
        )
        return data

    def request(self, method: str, target: str, body: Any = None, **options: Any) -> Response:
        """Sends a request made by `build` and reads its response."""
        self.send(build(method, target, body, **options))
        return self.read_response(method)


def build(
    method: str,
    target: str,
    body: Any = None,
    *,
    key: str | None = None,
    headers: list[tuple[str, str]] | None = None,
    chunk: int | None = None,
) -> bytes:
    """A request's bytes. `body`: bytes, or a document for JSON; `chunk`: the size of its chunks."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in headers or []]
    payload = b""
    if body is not None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        if not any(name.lower() == "content-type" for name, _ in headers or []):
            lines.append("Content-Type: application/json")
        lines.append("Transfer-Encoding: chunked" if chunk else f"Content-Length: {len(payload)}")
    if chunk and body is not None:
        pieces = [payload[at : at + chunk] for at in range(0, len(payload), chunk)]
        payload = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


def chat(model: str = "m", text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


TRIES = 60
"""Often enough for what happens by chance: where one of two engines is chosen, the other one is
never chosen once in 10^18 runs of a test, and one of three engines once in 10^10 runs."""


def sooner_or_later(attempt: Any, what: str) -> Any:
    """Attempts it until it gives something true, and returns that; for what chance decides."""
    for _ in range(TRIES):
        result = attempt()
        if result:
            return result
    raise AssertionError(f"This did not happen in {TRIES} attempts: {what}")


def eventually(condition: Any, what: str, deadline: float = DEADLINE) -> Any:
    """Waits until `condition()` is true and returns it; after the deadline fails with `what`."""
    end = time.monotonic() + deadline
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, f"This did not happen within {deadline} seconds: {what}"
        time.sleep(0.01)
