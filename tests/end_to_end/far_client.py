"""A client for another network namespace: `python far_client.py HOST PORT` with a request on
standard input.

It opens a connection on which it asks for nothing and one for the request, says "streaming" at the
response's first frame, and keeps both open.
"""

from __future__ import annotations

import socket
import sys
import threading


def main() -> None:
    address = (sys.argv[1], int(sys.argv[2]))
    request = sys.stdin.buffer.read()
    with socket.create_connection(address), socket.create_connection(address) as stream:
        stream.sendall(request)
        received = b""
        while b"data:" not in received:
            received += stream.recv(1 << 16)
        print("streaming", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
