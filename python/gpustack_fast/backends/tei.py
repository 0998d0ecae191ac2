"""Text Embeddings Inference, as somebody else runs it. The paths are those of
`router/src/http/server.rs` of 1.7.
"""

from __future__ import annotations

from gpustack_fast.backends.facts import EngineFacts

__all__ = ["TEI"]

TEI = EngineFacts(
    dialects=("openai", "tei"),
    stream_usage=False,
    admin_paths=("/metrics",),
    cancel_lag=1_000,  # a batch that has begun is computed to its end
)
