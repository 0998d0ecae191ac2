"""The input and output of every endpoint, and the small words that all of them use."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Orders = dict[str, Any]

CREATED = 1_795_360_598
PROMPT_TOKENS = 24


@dataclass(slots=True)
class Asked:
    """One whole request."""

    method: str
    target: str
    orders: Orders
    fields: dict[str, Any] = field(default_factory=dict)
    """Of a JSON object, or the text fields of a form."""
    files: dict[str, int] = field(default_factory=dict)
    """A form's files: their fields' names and lengths; repeated ones are added up."""
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    engine: str = "fake"
    memory: dict[str, Any] = field(default_factory=dict)
    """The engine's memory from one request to the next."""

    @property
    def path(self) -> str:
        """The target without its query, as it was sent."""
        return self.target.partition("?")[0]

    @property
    def stream(self) -> bool:
        """Whether an event stream is wanted; a form says so in text."""
        return self.fields.get("stream") in (True, "true")


@dataclass(slots=True)
class Said:
    """An endpoint's payload, in the pieces in which it is made."""

    frames: list[bytes]
    content_type: str = "application/json"
    status: int = 200


def encode(document: Any) -> bytes:
    """JSON without spaces, as vLLM writes it."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def said(document: Any, status: int = 200) -> Said:
    """A whole JSON response; a string goes out as it is."""
    return Said(
        [document.encode() if isinstance(document, str) else encode(document)], status=status
    )


def events(asked: Asked, documents: list[Any], *, named: bool, done: bool = False) -> Said:
    """An event stream. `named`: with names, of each document's `type`; `done`: ends with `[DONE]`.

    Obeys the orders `line_end` and `comments`.
    """
    end = str(asked.orders.get("line_end", "\n")).encode()
    frames = []
    for document in documents:
        name = b"event: %s%s" % (document["type"].encode(), end) if named else b""
        frames.append(name + b"data: " + encode(document) + end + end)
    if done:
        frames.append(b"data: [DONE]" + end + end)
    if asked.orders.get("comments"):
        frames = [b": comment %d" % number + end + frame for number, frame in enumerate(frames)]
    return Said(frames, "text/event-stream; charset=utf-8")


def nonce_of(asked: Asked) -> str:
    """The text that this request wants to hear: the order, the last message, or the prompt."""
    if "nonce" in asked.orders:
        return str(asked.orders["nonce"])
    messages = asked.fields.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return str(messages[-1].get("content", ""))
    for name in ("prompt", "input", "query"):
        if name in asked.fields:
            return str(asked.fields[name])
    return ""


def usage(asked: Asked, completion_tokens: int) -> dict[str, Any]:
    """Token counts in OpenAI's words: 24 of the prompt; with the order `cached_tokens` those."""
    counts: dict[str, Any] = {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + completion_tokens,
        "completion_tokens": completion_tokens,
    }
    if "cached_tokens" in asked.orders:
        counts["prompt_tokens_details"] = {"cached_tokens": asked.orders["cached_tokens"]}
    return counts
