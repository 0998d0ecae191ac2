"""A data plane under a tool, with one client and one engine that one thread plays, in lock-step.

The thread goes on only when the data plane's worker sleeps: so every byte arrives in the same order
each time, each frame is one read and one write, and what is counted can be repeated.
"""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from plane_documents import KEY, ROUTE, SERVED_NAME, configuration, keys, table

__all__ = ["LockStepError", "Plane", "plane_under"]

PATIENCE = 60.0
"""Seconds until a step that does not come ends the run."""


class LockStepError(Exception):
    """The data plane does not do its part. The text says what was seen."""


# -- what client and engine say ------------------------------------------------


def padded(document: str, size: int) -> bytes:
    """`document` with text in place of its `@`, if it has one, so that it is `size` bytes long."""
    missing = max(0, size - len(document) + 1)
    text = "lorem ipsum dolor sit amet " * (missing // 27 + 1)
    return document.replace("@", text[:missing]).encode()


def request(stream: bool) -> bytes:
    """A chat request of 1 KB, with the headers that the openai SDK sends."""
    end = ',"stream":true}' if stream else ',"max_tokens":128}'
    body = padded(f'{{"model":"{ROUTE}","messages":[{{"role":"user","content":"@"}}]{end}', 1024)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept-Encoding: gzip, "
        "deflate\r\n"
        "Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        "User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Async: "
        "false\r\n"
        f"Authorization: Bearer {KEY}\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: "
        "600\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


COMPLETION = padded(
    '{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1700000000,'
    f'"model":"{SERVED_NAME}","choices":[{{"index":0,"message":{{"role":"assistant","content":"@","refusal":null,'
    '"tool_calls":[]},"logprobs":null,"finish_reason":"stop","stop_reason":null}],'
    '"usage":{"prompt_tokens":128,"total_tokens":256,"completion_tokens":128}}',
    1024,
)
ROUTES_NAME = f'"model":"{ROUTE}"'.encode()
ENGINE_HEAD = "HTTP/1.1 200 OK\r\ndate: Sun, 29 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
WHOLE = (
    ENGINE_HEAD + f"content-length: {len(COMPLETION)}\r\ncontent-type: application/json\r\n\r\n"
).encode()
STREAMED = (
    ENGINE_HEAD
    + "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(document: str, size: int) -> bytes:
    """One frame of a stream as one chunk, `size` bytes of it the frame."""
    start = (
        'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk",'
        '"created":1700000000,'
        f'"model":"{SERVED_NAME}",'
    )
    return chunk(padded(start + document + "}\n\n", size))


TOKEN = frame(
    '"choices":[{"index":0,"delta":{"content":"@"},"logprobs":null,"finish_reason":null}]', 256
)
USAGE = frame(
    '"choices":[],"usage":{"prompt_tokens":128,"total_tokens":256,"completion_tokens":128}', 0
)
DONE = chunk(b"data: [DONE]\n\n") + chunk(b"")


# -- the steps ------------------------------------------------------------------


class Line:
    """One end of a connection, and what came over it and was not looked at yet."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.waiting = b""

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def until(self, mark: bytes) -> bytes:
        """The bytes up to and with `mark`."""
        while mark not in self.waiting:
            self.more()
        end = self.waiting.index(mark) + len(mark)
        found, self.waiting = self.waiting[:end], self.waiting[end:]
        return found

    def exactly(self, size: int) -> bytes:
        while len(self.waiting) < size:
            self.more()
        found, self.waiting = self.waiting[:size], self.waiting[size:]
        return found

    def more(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise LockStepError(f"The data plane closed a connection after {self.waiting!r}.")
        self.waiting += data

    def message(self) -> tuple[bytes, bytes]:
        """A head and a body whose length it says."""
        head = self.until(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
        if length is None:
            raise LockStepError(f"A message has no Content-Length: {head!r}.")
        return head, self.exactly(int(length[1]))


class Plane:
    """A running data plane under a tool, its one client and its one engine."""

    def __init__(self, process: subprocess.Popen[bytes], listener: socket.socket) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self.commands: IO[bytes] = process.stdin
        self.responses: IO[bytes] = process.stdout
        host, _, port = json.loads(self.line())["addresses"][0].rpartition(":")
        self.worker = self.find_worker()
        self.client = Line(socket.create_connection((host, int(port)), PATIENCE))
        self.client.send(request(stream=False))
        self.engine = Line(listener.accept()[0])
        self.respond_whole()

    def line(self) -> bytes:
        """The next line that the plane prints. It prints one at a time, so none is buffered."""
        ready, _, _ = select.select([self.responses], [], [], PATIENCE)
        line = self.responses.readline() if ready else b""
        if not line:
            raise LockStepError(
                "The data plane or its tool has ended or hangs; what it said stands above."
            )
        return line

    def find_worker(self) -> int:
        """The worker's thread. Under strace the plane is a child of the started process."""
        family = [self.process.pid, *children(self.process.pid)]
        for task in (task for pid in family for task in Path(f"/proc/{pid}/task").iterdir()):
            # The writer of the log has such a name too, with a word behind it.
            if re.fullmatch(r"gpustack-fast-\d+", (task / "comm").read_text().strip()):
                return int(task.name)
        raise LockStepError("The data plane has no thread whose name is gpustack-fast-NUMBER.")

    def settle(self) -> None:
        """Waits until the worker sleeps: it has done all that it can do with what it got."""
        stat = Path(f"/proc/{self.worker}/stat")
        deadline = time.monotonic() + PATIENCE
        while b") S " not in stat.read_bytes():
            if time.monotonic() > deadline:
                raise LockStepError("The data plane's worker does not come to rest.")
            time.sleep(0.00002)

    def respond_whole(self) -> None:
        """The rest of a request that the client has sent, up to its end."""
        _, body = self.engine.message()
        check(
            SERVED_NAME.encode() in body, "The engine did not get its own name for the model", body
        )
        self.settle()
        self.engine.send(WHOLE + COMPLETION)
        head, body = self.client.message()
        timed = b"\r\nserver-timing:" in head.lower()
        check(head.startswith(b"HTTP/1.1 200 ") and timed, "Not the head that was due", head)
        check(ROUTES_NAME in body, "The client did not get the route's name", body)
        self.settle()

    def request(self) -> None:
        self.client.send(request(stream=False))
        self.respond_whole()

    def stream(self, frames: int) -> None:
        """A stream whose engine waits for the client's getting each frame."""
        self.client.send(request(stream=True))
        _, body = self.engine.message()
        check(
            b'"include_usage":true' in body.replace(b" ", b""),
            "The engine was not asked for the usage",
            body,
        )
        self.settle()
        self.engine.send(STREAMED)
        for number in range(frames):
            self.engine.send(TOKEN)
            if number == 0:
                head = self.client.until(b"\r\n\r\n")
                check(head.startswith(b"HTTP/1.1 200 "), "Not the head that was due", head)
            got = self.client.until(b"}\n\n\r\n")
            check(
                got.count(b"data: ") == 1 and ROUTES_NAME in got, "Not the frame that was due", got
            )
            self.settle()
        self.engine.send(USAGE)
        self.settle()
        self.engine.send(DONE)
        rest = self.client.until(b"0\r\n\r\n")
        check(b"usage" not in rest, "The client got a usage frame that it did not ask for", rest)
        self.settle()

    def allocations(self) -> int:
        """Those of all threads but the main one since the start. Polls the records, too."""
        self.commands.write(b"\n")
        self.commands.flush()
        return int(self.line())


def check(holds: bool, sentence: str, seen: bytes) -> None:
    """Checks that the path that is counted is the one that is meant."""
    if not holds:
        raise LockStepError(f"{sentence}: {seen!r}.")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def plane_under(program: list[str]) -> Iterator[Plane]:
    """A data plane started by `program`, a tool and its arguments, whose file is then written."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        documents = [
            configuration(),
            keys(),
            table(f"http://127.0.0.1:{listener.getsockname()[1]}"),
        ]
        argv = [*program, *(json.dumps(document) for document in documents)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            plane = Plane(process, listener)
            yield plane
            plane.client.connection.close()
            plane.engine.connection.close()
            plane.commands.close()
            if process.wait(PATIENCE) != 0:
                raise LockStepError(f"The data plane or its tool ended with {process.returncode}.")
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LockStepError(f"The data plane left out a step: {error}.") from error
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends what an error has left. The child of a tool that is ended ends with its input."""
    if process.poll() is None:
        assert process.stdin is not None
        process.stdin.close()
        process.terminate()
        process.wait(PATIENCE)
