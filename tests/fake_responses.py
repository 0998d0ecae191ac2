"""The orders of the fake engine, and every way to frame its responses well or badly.

Pure functions, values in and bytes out: `fake_endpoints` makes a response's payload, and
`fake_engine.py` moves the bytes.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import zstandard

from fake_endpoints import Asked, say
from fake_endpoints.asked import Orders

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
LAST_CHUNK = b"0\r\n\r\n"
TRAILERS = b"0\r\nx-fake-trailer: 1\r\nauthorization: Bearer from-a-trailer\r\n\r\n"

ORDERS = frozenset(
    {
        # echoed in every frame and response; default: the last user message, or the prompt
        "nonce",
        "max_model_len",  # of its model, in /v1/models; default: it does not tell
        "frames",  # content frames of a stream (default 3)
        "delay",  # seconds before every frame but the first
        "frame_bytes",  # that many bytes of padding in every frame (or in the whole response)
        "line_end",  # of a stream's lines: "\n" (default), "\r\n" or "\r"
        "comments",  # true: a comment line before every frame
        "twice",  # the number of a stream's frame that is sent twice
        "words",  # list of the text's pieces, in place of the nonce
        "reasoning",  # list of the reasoning's pieces
        "reasoning_field",  # chat's name for it: reasoning (default) or reasoning_content
        "calls",  # tool calls: list of {"name": ..., "arguments": "JSON text", "id": ...}
        "interleave",  # true: a fragment of each tool call in turn
        "whole_calls",  # true: each tool call in one fragment
        "reason",  # OpenAI's finish_reason
        "stop",  # the stop string that matched
        "cached_tokens",  # so many of the prompt's tokens came from the cache
        "image_bytes",  # the length of each picture, before base64
        "text",  # what a transcription heard
        "rerank",  # the dialect: vllm (default), llama_cpp, tei
        # list of strings, sent instead of the frames of the model (surrogate escapes: any bytes)
        "raw_frames",
        # list of offsets: chunks and writes of the payload end there, whatever its frames
        "cuts",
        "greeting",  # of a WebSocket: a text frame in the same write as the 101
        "body_text",  # string, sent instead of a whole response
        "status",  # e.g. 500: an error response; with "error" as its message
        "error",
        "content_type",
        "headers",  # list of [name, value] added to the response's head
        "interim",  # list of statuses sent first, e.g. [100, 103]
        "version",  # "1.0": the status line's version
        "framing",  # chunked, length, close; faulty: see `FAULTY_FRAMINGS`
        "trailers",  # true: trailers behind the last chunk
        # "bytes": every byte in a write of its own; "chunks": in a chunk and a write of its own
        "pieces",
        # a compressed response: gzip, deflate or zstd; another word is said of the plain bytes
        "coding",
        "coded_part",  # 0..1: the part of the compressed bytes that is sent
        "extra",  # string sent behind the end of the response, in the same write
        # seconds between the response's end and "extra"; then the counter `extra_sent` rises
        "extra_delay",
        "close",  # "silent": closes after the response; "announced": says so in the head
        "close_chance",  # 0..1: how often a response is followed by a silent close
        "close_idle",  # seconds after which an idle connection is closed
        # {"how": close|reset|stall|exit|kill, "at": PLACE, "after": frames, "seconds": s,
        # "code": n}; a stall without `seconds` lasts until the engine is told to go on
        "fault",
        # {"status": 400, "then": reset|close|read}: a response before the body is read
        # (in the header or the defaults)
        "early",
        "read_rate",  # bytes per second of the upload, 0: none is read (header or defaults)
        # a word: these orders hold only for the first request that brings this word to this engine
        "once",
        "times",  # in the defaults: for so many requests
        "only_on",  # an engine's name: these orders hold on no other
    }
)
"""Every order. Another one gets 400, so that a test with a typing error fails."""

PLACES = (
    "before_head",
    "inside_head",
    "after_head",
    "at_frame",
    "inside_frame",
    "inside_chunk",
    "before_end",
)
"""Places of a fault: `at_frame`, `inside_frame`, `inside_chunk` after `after` frames (default 1).

A whole response is one frame: with `after` 0, `inside_frame` is a body that breaks off in its
middle.
"""

FAULTY_FRAMINGS = (
    "length_and_chunked",
    "two_lengths",
    "signed_length",
    "overflowing_length",
    "long_chunk_size",
    "bare_lf_in_chunk_line",
)


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@dataclass(slots=True)
class Response:
    """One response, ready to be sent piece by piece."""

    head: bytes
    frames: list[bytes]
    """Payload; concatenated it is the body."""
    framing: str
    end: bytes
    """The end of the body on the wire."""

    def on_the_wire(self, frame: bytes) -> bytes:
        """One frame as its framing writes it."""
        if self.framing == "chunked" or self.framing == "length_and_chunked":
            return b"%x\r\n%s\r\n" % (len(frame), frame)
        if self.framing == "byte_chunks":
            return b"".join(b"1\r\n%c\r\n" % byte for byte in frame)
        if self.framing == "long_chunk_size":
            # 17 digits whose low 64 bits are the true size: a reader that lets it wrap believes it.
            return b"1%016x\r\n%s\r\n" % (len(frame), frame)
        if self.framing == "bare_lf_in_chunk_line":
            return b"%x\n%s\r\n" % (len(frame), frame)
        return frame


def compose(asked: Asked) -> Response:
    """The response to a request, as its orders want it."""
    orders = asked.orders
    said = say(asked)
    frames = said.frames
    if "twice" in orders and asked.stream:
        frames = frames[: orders["twice"] + 1] + frames[orders["twice"] :]
    streamed = said.content_type.startswith("text/event-stream") or len(frames) > 1
    headers = [["content-type", orders.get("content_type", said.content_type)]]
    if "coding" in orders:
        encode = CODINGS.get(orders["coding"])
        whole = b"".join(frames)
        coded = whole if encode is None else encode(whole)
        frames = [coded[: int(len(coded) * orders.get("coded_part", 1))]]
        headers.append(["content-encoding", orders["coding"]])
    if "cuts" in orders:
        frames = cut(b"".join(frames), orders["cuts"])
    framing = orders.get("framing", "chunked" if streamed else "length")
    if orders.get("pieces") == "chunks":
        framing = "byte_chunks"
    length = sum(map(len, frames))
    headers += framing_headers(framing, length)
    if orders.get("close") == "announced":
        headers.append(["connection", "close"])
    headers += orders.get("headers", [])
    status = orders.get("status", 200)
    return Response(
        head(status if status != 200 else said.status, orders, headers),
        frames,
        framing,
        end_of(framing, orders),
    )


def cut(payload: bytes, offsets: list[int]) -> list[bytes]:
    """The payload in pieces that end at these offsets; empty ones are left out."""
    edges = [0, *sorted(offsets), len(payload)]
    return [payload[start:end] for start, end in itertools.pairwise(edges) if payload[start:end]]


def head(status: int, orders: Orders, headers: list[list[str]]) -> bytes:
    """The status line and the headers, behind whatever interim responses are wanted."""
    lines = []
    for interim in orders.get("interim", []):
        link = "link: </style.css>; rel=preload\r\n" if interim == 103 else ""
        lines.append(f"HTTP/1.1 {interim} Interim\r\n{link}\r\n")
    lines.append(
        f"HTTP/{orders.get('version', '1.1')} {status} {REASONS.get(status, 'Status')}\r\n"
    )
    lines.append("server: fake\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in headers]
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def framing_headers(framing: str, length: int) -> list[list[str]]:
    """The headers that say where the body ends, or that contradict each other about it."""
    chunked = ["transfer-encoding", "chunked"]
    match framing:
        case "length":
            return [["content-length", str(length)]]
        case "close":
            return []
        case "length_and_chunked":
            return [["content-length", str(length)], chunked]
        case "two_lengths":
            return [["content-length", str(length)], ["content-length", str(length + 1)]]
        case "signed_length":
            return [["content-length", f"+{length}"]]
        case "overflowing_length":
            return [["content-length", str(2**64 + length)]]
        case "chunked" | "byte_chunks" | "long_chunk_size" | "bare_lf_in_chunk_line":
            return [chunked]
        case _:
            raise ValueError(f"There is no framing {framing!r}.")


def end_of(framing: str, orders: Orders) -> bytes:
    """The bytes behind the last frame."""
    if framing in (
        "chunked",
        "byte_chunks",
        "length_and_chunked",
        "long_chunk_size",
        "bare_lf_in_chunk_line",
    ):
        return TRAILERS if orders.get("trailers") else LAST_CHUNK
    return b""
