"""Reads the requests that reach the fake engine."""

from __future__ import annotations

import json
from typing import Any


class Request:
    """A request that is being read."""

    def __init__(self, method: str, target: str, headers: list[tuple[str, str]]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.fields = {name.lower(): value for name, value in headers}
        self.chunked = "chunked" in self.fields.get("transfer-encoding", "").lower()
        self.missing = 0 if self.chunked else int(self.fields.get("content-length", "0"))
        self.body = bytearray()
        self.in_trailers = False
        self.responded_early = False
        self.is_last = False
        """Whether the connection ends with its response, as with HTTP/1.0."""

    def read(self, buffer: bytearray) -> bool:
        """Moves what belongs to the body out of `buffer`; True when it is whole."""
        if self.chunked:
            return self.read_chunks(buffer)
        piece = buffer[: self.missing]
        del buffer[: len(piece)]
        self.body += piece
        self.missing -= len(piece)
        return self.missing == 0

    def read_chunks(self, buffer: bytearray) -> bool:
        """The end of a chunked body. `missing` counts the CRLF behind a chunk's data, too."""
        while True:
            if self.missing > 2:
                piece = buffer[: self.missing - 2]
                del buffer[: len(piece)]
                self.body += piece
                self.missing -= len(piece)
            if self.missing > 2 or len(buffer) < self.missing:
                return False
            del buffer[: self.missing]
            self.missing = 0
            end = buffer.find(b"\r\n")
            if end < 0:
                return False
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self.in_trailers:
                if not line:
                    return True
                continue
            size = int(line.split(b";")[0], 16)
            self.in_trailers = size == 0
            self.missing = size + 2 if size else 0


def parse(text: str | bytes, default: Any = None) -> Any:
    """JSON, or `default` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return default
