"""Embeddings, rerank, score and moderations."""

from __future__ import annotations

import base64
import struct
from typing import Any

from fake_endpoints.asked import CREATED, PROMPT_TOKENS, Asked, Said, nonce_of, said

Document = dict[str, Any]

USAGE = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}


def embeddings(asked: Asked) -> Said:
    """Floats, or base64 of little-endian float32, as asked."""
    given = asked.fields.get("input", "")
    texts = (
        given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    )
    data = []
    for index, text in enumerate(texts):
        vector = [len(str(text)) / 8, -0.5, 0.25 * index]
        if asked.fields.get("encoding_format") == "base64":
            written: Any = base64.b64encode(struct.pack("<3f", *vector)).decode()
        else:
            written = vector
        data.append({"index": index, "object": "embedding", "embedding": written})
    head = {
        "id": "embd-0",
        "object": "list",
        "created": CREATED,
        "model": asked.fields.get("model"),
    }
    return said(
        {
            **head,
            "data": data,
            "usage": {**USAGE, "completion_tokens": 0, "prompt_tokens_details": None},
        }
    )


def score_of(text: str) -> float:
    """The more x the better; negative ones are met too, since some engines send logits."""
    return text.count("x") - 0.5


def rerank(asked: Asked) -> Said:
    """Rerank in the dialect of the order `rerank`: vllm (default), llama_cpp; tei for `texts`."""
    if "texts" in asked.fields:
        return rerank_like_tei(asked)
    if asked.orders.get("rerank") == "tei":
        # Its axum front words a body without `texts` so.
        return Said(
            [b"Failed to deserialize the JSON body into the target type: missing field `texts`"],
            "text/plain",
            422,
        )
    texts = [
        one if isinstance(one, str) else one.get("text", "")
        for one in asked.fields.get("documents", [])
    ]
    results: list[Document] = []
    for index, text in enumerate(texts):
        document = (
            {"document": {"text": text, "multi_modal": None}}
            if asked.orders.get("rerank") != "llama_cpp"
            else {}
        )
        results.append({"index": index, **document, "relevance_score": score_of(text)})
    results.sort(key=lambda result: -result["relevance_score"])
    results = results[: asked.fields.get("top_n") or len(results)]
    model = asked.fields.get("model")
    if asked.orders.get("rerank") == "llama_cpp":
        return said({"model": model, "object": "list", "usage": USAGE, "results": results})
    return said(
        {"id": f"score-{nonce_of(asked)}", "model": model, "usage": USAGE, "results": results}
    )


def rerank_like_tei(asked: Asked) -> Said:
    """A bare array; the text only with `return_text`; no model, no usage, no top_n."""
    with_text = asked.fields.get("return_text") is True
    found: list[Document] = []
    for index, text in enumerate(asked.fields["texts"]):
        found.append(
            {"index": index, **({"text": text} if with_text else {}), "score": score_of(text)}
        )
    return said(sorted(found, key=lambda one: -one["score"]))


def score(asked: Asked) -> Said:
    """vLLM's /score; older clients say text_2 for documents."""
    texts = asked.fields.get("documents", asked.fields.get("text_2", []))
    texts = [texts] if isinstance(texts, str) else texts
    data = [
        {"index": index, "object": "score", "score": score_of(text)}
        for index, text in enumerate(texts)
    ]
    head = {
        "id": "score-0",
        "object": "list",
        "created": CREATED,
        "model": asked.fields.get("model"),
    }
    return said({**head, "data": data, "usage": {**USAGE, "completion_tokens": 0}})


def moderations(asked: Asked) -> Said:
    given = asked.fields.get("input", "")
    results = []
    for text in given if isinstance(given, list) else [given]:
        flagged = "x" in str(text)
        results.append(
            {
                "flagged": flagged,
                "categories": {"violence": flagged},
                "category_scores": {"violence": 0.5},
            }
        )
    return said({"id": "modr-0", "model": asked.fields.get("model"), "results": results})
