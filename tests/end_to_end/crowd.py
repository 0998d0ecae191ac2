"""A crowd of clients that keep connections and send next to nothing: `crowd.py PORT KEY`.

A process of its own, so that it takes no time from the clients under test. It ends when its input
does, and prints how many connections it has opened.
"""

from __future__ import annotations

import socket
import sys
import threading

SIZE = 2000
"""Connections that are kept open."""
FRESH = 300
"""Connections that are opened in one round, at most: it is a crowd that stays, and no flood."""
ROUND = 0.2
"""Seconds between two rounds."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_WINDOW = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x04" + b"\x00\x00\x00\x00"
# HPACK: GET, http, /metrics as a literal, :authority x as a literal.
METRICS = b"\x82\x86\x04\x08/metrics\x01\x01x"
BODY = b'{"model":"smollm2","messages":[{"role":"user","content":"'


def stream(number: int) -> bytes:
    """A HEADERS frame that asks for `/metrics` and ends its stream."""
    length = len(METRICS).to_bytes(3, "big")
    return length + b"\x01\x05" + number.to_bytes(4, "big") + METRICS


def request(head: str, fields: bytes = b"") -> bytes:
    return f"{head} HTTP/1.1\r\nHost: localhost\r\n".encode() + fields


def kinds(key: str) -> list[bytes]:
    """What each kind of client sends before it trickles."""
    has_key = f"Authorization: Bearer {key}\r\n".encode()
    body = b"Content-Length: 100000\r\n\r\n" + BODY
    return [
        b"",
        request("GET /v1/models", b"Authoriz"),
        request("POST /v1/chat/completions", body),
        request("POST /v1/chat/completions", has_key + body),
        request("GET /metrics", b"\r\n") * 300,
        request("GET /v1/models", has_key + b"\r\n") * 1000,
        PREFACE + NO_WINDOW,
        PREFACE + NO_WINDOW + b"".join(stream(number) for number in range(1, 200, 2)),
    ]


def opened(port: int, first: bytes) -> socket.socket | None:
    """A connection on which this was sent; None: it could not be opened."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(ROUND)
    try:
        one.connect(("127.0.0.1", port))
        one.setblocking(False)
        one.send(first)
    except BlockingIOError:
        pass
    except OSError:
        one.close()
        return None
    return one


def trickles(one: socket.socket) -> bool:
    """Sends a byte; False where the server has closed the connection."""
    try:
        one.send(b"x")
    except BlockingIOError:
        return True
    except OSError:
        one.close()
        return False
    return True


def main() -> None:
    port, ending = int(sys.argv[1]), threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ending.set()

    threading.Thread(target=wait, daemon=True).start()
    firsts, count = kinds(sys.argv[2]), 0
    sockets: list[socket.socket | None] = [None] * SIZE
    while not ending.wait(ROUND):
        fresh = 0
        for number, one in enumerate(sockets):
            if ending.is_set():
                break
            if one is not None and trickles(one):
                continue
            fresh += 1
            kept = opened(port, firsts[number % len(firsts)]) if fresh <= FRESH else None
            sockets[number] = kept
            count += kept is not None
    print(count)


if __name__ == "__main__":
    main()
