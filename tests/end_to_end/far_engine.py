"""An engine for another network namespace: `python far_engine.py HOST PORT`.

It says "ready" when it listens. A chat completion gets one frame and then silence; of a completion
it reads the head and no more, and both are told on standard output.
"""

from __future__ import annotations

import socket
import sys
import threading

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'13\r\ndata: {"first":1}\n\n\r\n'
)


def serve(connection: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(1)
        if not more:
            return
        head += more
    if b"/v1/chat/completions" in head:
        connection.sendall(HEAD)
    print("received", flush=True)
    threading.Event().wait()


def main() -> None:
    host, port = sys.argv[1:]
    with socket.create_server((host, int(port))) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=[connection], daemon=True).start()


if __name__ == "__main__":
    main()
