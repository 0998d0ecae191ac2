"""Errors, small endpoints, administrative paths, and the echo of all other paths."""

from __future__ import annotations

import hashlib
from typing import Any

from fake_endpoints.asked import CREATED, PROMPT_TOKENS, Asked, Said, nonce_of, said

ADMINISTRATIVE = (
    "/collective_rpc",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/reset_prefix_cache",
    "/server_info",
    "/pause",
    "/resume",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
)
"""Some of vLLM's paths that change the engine; it counts in its memory how often they were called.
"""

ANTHROPIC_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    500: "internal_error",
    503: "Service Unavailable",
}
"""vLLM 0.32's words in place of Anthropic's vocabulary."""


def error(asked: Asked) -> Said:
    """An error as vLLM words it, with the nonce in it."""
    orders = asked.orders
    status = orders["status"]
    if "body_text" in orders:
        return said(str(orders["body_text"]), status)
    message = f"{orders.get('error', 'The fake engine was told to fail.')} {nonce_of(asked)}"
    if asked.path.startswith("/v1/messages"):
        type_ = ANTHROPIC_TYPES.get(status, "FakeError")
        return said({"type": "error", "error": {"type": type_, "message": message}}, status)
    return said(
        {"error": {"message": message, "type": "FakeError", "param": None, "code": status}}, status
    )


def models(asked: Asked) -> Said:
    entry = {"id": asked.engine, "object": "model", "created": CREATED, "owned_by": "fake"}
    if "max_model_len" in asked.orders:
        entry["max_model_len"] = asked.orders["max_model_len"]
    return said({"object": "list", "data": [entry]})


def tokenize(asked: Asked) -> Said:
    """vLLM's response; those of llama.cpp and TEI differ."""
    tokens = list(range(PROMPT_TOKENS))
    return said(
        {"count": PROMPT_TOKENS, "max_model_len": 1024, "tokens": tokens, "token_strs": None}
    )


def administrative(asked: Asked) -> Said:
    asked.memory["administrative"] = asked.memory.get("administrative", 0) + 1
    return said({"status": "done"})


def echo(asked: Asked) -> Said:
    """Tells what arrived, for the generic proxy."""
    document: dict[str, Any] = {
        "method": asked.method,
        "target": asked.target,
        "headers": asked.headers,
        "length": len(asked.body),
        "sha256": hashlib.sha256(asked.body).hexdigest(),
    }
    return said(document)
