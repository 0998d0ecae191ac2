"""The fake engine's payloads: one file per family of endpoints, values in, bytes out.

The shapes are those that real engines sent (vLLM 0.32, llama.cpp's server,
text-embeddings-inference), not those that their documents promise.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from fake_endpoints import chat, media, messages, other, pooling, responses
from fake_endpoints.asked import Asked, Said, said

__all__ = ["Asked", "Said", "say"]

ENDPOINTS: dict[str, Callable[[Asked], Said]] = {
    "/health": lambda _: said(""),
    "/v1/models": other.models,
    "/v1/chat/completions": chat.respond,
    "/v1/completions": chat.respond,
    "/v1/responses": responses.create,
    "/v1/responses/input_tokens": responses.input_tokens,
    "/v1/responses/compact": responses.compact,
    "/v1/messages": messages.respond,
    "/v1/messages/count_tokens": messages.count_tokens,
    "/v1/embeddings": pooling.embeddings,
    "/v1/rerank": pooling.rerank,
    "/v2/rerank": pooling.rerank,
    "/rerank": pooling.rerank,
    "/v1/score": pooling.score,
    "/score": pooling.score,
    "/v1/moderations": pooling.moderations,
    "/tokenize": other.tokenize,
    "/v1/images/generations": media.images,
    "/v1/images/edits": media.images,
    "/v1/images/variations": media.images,
    "/v1/audio/speech": media.speech,
    "/v1/audio/transcriptions": media.transcription,
    "/v1/audio/translations": media.transcription,
}


def say(asked: Asked) -> Said:
    """The payload of an endpoint, or the echo of any other path.

    As real engines do, it decodes the path before it looks.
    """
    orders = asked.orders
    path = unquote(asked.path)
    if orders.get("status", 200) != 200:
        return other.error(asked)
    if "raw_frames" in orders and asked.stream:
        frames = [str(frame).encode("utf-8", "surrogateescape") for frame in orders["raw_frames"]]
        return Said(frames, "text/event-stream; charset=utf-8")
    if "body_text" in orders and not asked.stream:
        return said(str(orders["body_text"]))
    if path.startswith("/v1/responses/") and path not in ENDPOINTS:
        return responses.about_one(asked, path)
    if path in other.ADMINISTRATIVE:
        return other.administrative(asked)
    return ENDPOINTS.get(path, other.echo)(asked)
