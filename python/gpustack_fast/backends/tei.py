"""Text Embeddings Inference, as somebody else runs it.

The paths are those of `router/src/http/server.rs` of 1.7.
"""

from __future__ import annotations

from gpustack_fast.backends.base import Engine
from gpustack_fast.backends.facts import EngineFacts

__all__ = ["ENGINE"]

ENGINE = Engine(
    name="tei",
    facts=EngineFacts(
        dialects=("openai", "tei"),
        stream_usage=False,
        health_path="/health",
        context_path="/info",
        admin_paths=("/metrics",),
        cancel_lag=1.0,  # a batch that has begun is computed to its end
    ),
)
