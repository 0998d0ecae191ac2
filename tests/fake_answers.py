"""What the fake engine says: the shapes of real vLLM answers, and every way to frame them well or badly.

Pure functions, values in and bytes out; `fake_engine.py` moves the bytes.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import Any

Orders = dict[str, Any]

CREATED = 1_795_360_598
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}
LAST_CHUNK = b"0\r\n\r\n"
TRAILERS = b"0\r\nx-fake-trailer: 1\r\nauthorization: Bearer from-a-trailer\r\n\r\n"

ORDERS = frozenset(
    {
        "nonce",  # echoed in every frame and answer; default: the text of the last user message, or the prompt
        "frames",  # content frames of a stream (default 3)
        "delay",  # seconds before every frame but the first
        "frame_bytes",  # that many bytes of padding in every frame (or in the whole answer)
        "line_end",  # of a stream's lines: "\n" (default), "\r\n" or "\r"
        "comments",  # true: a comment line before every frame
        "raw_frames",  # list of strings, sent instead of the frames of the model
        "body_text",  # string, sent instead of a whole answer
        "status",  # e.g. 500: an error answer; with "error" as its message
        "error",
        "content_type",
        "headers",  # list of [name, value] added to the answer's head
        "interim",  # list of statuses sent first, e.g. [100, 103]
        "version",  # "1.0": the status line's version
        "framing",  # chunked, length, close; faulty: see `FAULTY_FRAMINGS`
        "trailers",  # true: trailers behind the last chunk
        "pieces",  # "bytes": every byte in a write of its own; "chunks": in a chunk and a write of its own
        "gzip",  # true: a compressed answer
        "extra",  # string sent behind the end of the answer, in the same write
        "extra_delay",  # seconds between the answer's end and "extra"; then the counter `extra_sent` rises
        "close",  # "silent": closes after the answer; "announced": says so in the head
        "close_chance",  # 0..1: how often an answer is followed by a silent close
        "close_idle",  # seconds after which an idle connection is closed
        "fault",  # {"how": close|reset|stall|exit|kill, "at": PLACE, "after": frames, "seconds": s, "code": n}
        "early",  # {"status": 400, "then": reset|close|read}: an answer before the body is read (header or defaults)
        "read_rate",  # bytes per second of the upload, 0: none is read (header or defaults)
        "once",  # a word: these orders hold only for the first request that brings this word to this engine
        "times",  # in the defaults: for so many requests
        "only_on",  # an engine's name: these orders hold on no other
    }
)
"""Every order there is; another one is answered 400, so that a test with a typing error fails."""

PLACES = ("before_head", "inside_head", "after_head", "at_frame", "inside_frame", "inside_chunk", "before_end")
"""Where a fault may strike: `at_frame`, `inside_frame` and `inside_chunk` after `after` frames (default 1).

A whole answer is one frame: with `after` 0, `inside_frame` is a body that breaks off in its middle."""

FAULTY_FRAMINGS = (
    "length_and_chunked",
    "two_lengths",
    "signed_length",
    "overflowing_length",
    "long_chunk_size",
    "bare_lf_in_chunk_line",
)


@dataclass(slots=True)
class Answer:
    """One answer, ready to be sent piece by piece."""

    head: bytes
    frames: list[bytes]
    """Payload; concatenated it is the body."""
    framing: str
    end: bytes
    """What ends the body on the wire."""

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


def compose(target: str, body: Any, orders: Orders) -> Answer:
    """The answer to a request, as the orders want it."""
    fields = body if isinstance(body, dict) else {}
    if orders.get("status", 200) != 200:
        frames, content_type = [error_body(fields, orders)], "application/json"
    elif fields.get("stream") is True:
        frames, content_type = stream_frames(target, fields, orders), "text/event-stream; charset=utf-8"
    else:
        frames, content_type = [whole_body(target, fields, orders)], "application/json"
    streamed = content_type.startswith("text/event-stream")
    headers = [["content-type", orders.get("content_type", content_type)]]
    if orders.get("gzip"):
        frames = [gzip.compress(b"".join(frames))]
        headers.append(["content-encoding", "gzip"])
    framing = orders.get("framing", "chunked" if streamed else "length")
    if orders.get("pieces") == "chunks":
        framing = "byte_chunks"
    length = sum(map(len, frames))
    headers += framing_headers(framing, length)
    if orders.get("close") == "announced":
        headers.append(["connection", "close"])
    headers += orders.get("headers", [])
    return Answer(head(orders, headers), frames, framing, end_of(framing, orders))


def head(orders: Orders, headers: list[list[str]]) -> bytes:
    """The status line and the headers, behind whatever interim answers are wanted."""
    status = orders.get("status", 200)
    lines = []
    for interim in orders.get("interim", []):
        link = "link: </style.css>; rel=preload\r\n" if interim == 103 else ""
        lines.append(f"HTTP/1.1 {interim} Interim\r\n{link}\r\n")
    lines.append(f"HTTP/{orders.get('version', '1.1')} {status} {REASONS.get(status, 'Status')}\r\n")
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
    """What follows the last frame."""
    if framing in ("chunked", "byte_chunks", "length_and_chunked", "long_chunk_size", "bare_lf_in_chunk_line"):
        return TRAILERS if orders.get("trailers") else LAST_CHUNK
    return b""


def nonce_of(fields: dict[str, Any], orders: Orders) -> str:
    """What this request wants to hear again."""
    if "nonce" in orders:
        return str(orders["nonce"])
    messages = fields.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return str(messages[-1].get("content", ""))
    return str(fields.get("prompt", ""))


def error_body(fields: dict[str, Any], orders: Orders) -> bytes:
    """An error as vLLM words it, with the nonce in it."""
    if "body_text" in orders:
        return str(orders["body_text"]).encode()
    message = f"{orders.get('error', 'The fake engine was told to fail.')} {nonce_of(fields, orders)}"
    error = {"message": message, "type": "FakeError", "param": None, "code": orders.get("status")}
    return encode({"error": error})


def whole_body(target: str, fields: dict[str, Any], orders: Orders) -> bytes:
    """A chat completion or a text completion, as vLLM sends it."""
    if "body_text" in orders:
        return str(orders["body_text"]).encode()
    nonce = nonce_of(fields, orders)
    text = nonce + "x" * orders.get("frame_bytes", 0)
    chat = "chat" in target
    choice: dict[str, Any] = {"index": 0}
    if chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
    else:
        choice["text"] = text
    choice |= {"logprobs": None, "finish_reason": "stop", "stop_reason": None}
    return encode(
        {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{nonce}",
            "object": "chat.completion" if chat else "text_completion",
            "created": CREATED,
            "model": fields.get("model"),
            "choices": [choice],
            "usage": usage(1),
            "kv_transfer_params": None,
        }
    )


def stream_frames(target: str, fields: dict[str, Any], orders: Orders) -> list[bytes]:
    """The frames of a stream, each with its blank line; the last one is `[DONE]`."""
    end = str(orders.get("line_end", "\n")).encode()
    if "raw_frames" in orders:
        return [str(frame).encode() for frame in orders["raw_frames"]]
    documents = stream_documents(target, fields, orders)
    frames = [b"data: " + encode(document) + end + end for document in documents]
    frames.append(b"data: [DONE]" + end + end)
    if orders.get("comments"):
        frames = [b": comment %d" % number + end + frame for number, frame in enumerate(frames)]
    return frames


def stream_documents(target: str, fields: dict[str, Any], orders: Orders) -> list[dict[str, Any]]:
    """The JSON documents of a stream: the role, the text, the reason, and the usage if it was asked for."""
    nonce = nonce_of(fields, orders)
    chat = "chat" in target
    common = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{nonce}",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": CREATED,
        "model": fields.get("model"),
    }
    text = nonce + "x" * orders.get("frame_bytes", 0)
    documents: list[dict[str, Any]] = []
    if chat:
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        documents.append({**common, "choices": [first], "prompt_token_ids": None})
    count = orders.get("frames", 3)
    for number in range(count):
        content = {"delta": {"content": text}} if chat else {"text": text}
        reason = "stop" if number == count - 1 else None
        documents.append({**common, "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": reason}]})
    options = fields.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        documents.append({**common, "choices": [], "usage": usage(count)})
    return documents


def usage(completion_tokens: int) -> dict[str, Any]:
    """Token counts; the prompt always has 24."""
    return {"prompt_tokens": 24, "total_tokens": 24 + completion_tokens, "completion_tokens": completion_tokens}


def encode(document: Any) -> bytes:
    """JSON without spaces, as vLLM writes it."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
