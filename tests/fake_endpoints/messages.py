"""/v1/messages and /v1/messages/count_tokens, as of vLLM's own Anthropic front."""

from __future__ import annotations

import json
from typing import Any

from fake_endpoints.asked import PROMPT_TOKENS, Asked, Said, events, nonce_of, said
from fake_endpoints.utterance import Utterance, utter

Document = dict[str, Any]

REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
SIGNATURE = "ZmFrZS1zaWduYXR1cmU="


def respond(asked: Asked) -> Said:
    """A stream or a whole message."""
    utterance = utter(asked)
    if asked.stream:
        return events(asked, stream(asked, utterance), named=True)
    message = {
        "id": f"chatcmpl-{nonce_of(asked)}",
        "type": "message",
        "role": "assistant",
        "content": blocks(utterance),
        "model": asked.fields.get("model"),
        **reason(utterance),
        "usage": usage(asked, utterance.tokens),
    }
    return said(message)


def count_tokens(_: Asked) -> Said:
    return said(
        {
            "input_tokens": PROMPT_TOKENS,
            "context_management": {"original_input_tokens": PROMPT_TOKENS},
        }
    )


def reason(utterance: Utterance) -> Document:
    if utterance.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": utterance.stop}
    return {"stop_reason": REASONS[utterance.reason], "stop_sequence": None}


def usage(asked: Asked, output_tokens: int) -> Document:
    """Anthropic's input_tokens leave the cached ones out."""
    cached = asked.orders.get("cached_tokens", 0)
    counts = {"input_tokens": PROMPT_TOKENS - cached, "output_tokens": output_tokens}
    return {**counts, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached}


def blocks(utterance: Utterance) -> list[Document]:
    """The content of a whole message."""
    found: list[Document] = []
    if utterance.reasoning:
        found.append(
            {"type": "thinking", "thinking": "".join(utterance.reasoning), "signature": SIGNATURE}
        )
    if utterance.words or not utterance.calls:
        found.append({"type": "text", "text": "".join(utterance.words)})
    for call in utterance.calls:
        arguments = json.loads("".join(call.arguments) or "{}")
        found.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    return found


def stream(asked: Asked, utterance: Utterance) -> list[Document]:
    """The documents of all events."""
    message: Document = {
        "id": f"chatcmpl-{nonce_of(asked)}",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": asked.fields.get("model"),
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": PROMPT_TOKENS - asked.orders.get("cached_tokens", 0),
            "output_tokens": 0,
        },
    }
    documents: list[Document] = [{"type": "message_start", "message": message}]
    for index, (start, deltas) in enumerate(streamed_blocks(utterance)):
        documents.append({"type": "content_block_start", "content_block": start, "index": index})
        documents += [
            {"type": "content_block_delta", "delta": delta, "index": index} for delta in deltas
        ]
        documents.append({"type": "content_block_stop", "index": index})
    end = {
        "type": "message_delta",
        "delta": reason(utterance),
        "usage": usage(asked, utterance.tokens),
    }
    return [*documents, end, {"type": "message_stop"}]


def streamed_blocks(utterance: Utterance) -> list[tuple[Document, list[Document]]]:
    """Each block: how it starts, and its deltas."""
    found: list[tuple[Document, list[Document]]] = []
    if utterance.reasoning:
        deltas: list[Document] = [
            {"type": "thinking_delta", "thinking": piece} for piece in utterance.reasoning
        ]
        deltas.append({"type": "signature_delta", "signature": SIGNATURE})
        found.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    if utterance.words or not utterance.calls:
        deltas = [{"type": "text_delta", "text": word} for word in utterance.words]
        found.append(({"type": "text", "text": ""}, deltas))
    for call in utterance.calls:
        start = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        found.append(
            (
                start,
                [{"type": "input_json_delta", "partial_json": piece} for piece in call.arguments],
            )
        )
    return found
