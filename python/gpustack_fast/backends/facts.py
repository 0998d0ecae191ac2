"""What the data plane must know of a kind of engine, whoever started it."""

from __future__ import annotations

import dataclasses

__all__ = ["INFERENCE_PATHS", "EngineFacts"]

INFERENCE_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/score",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/messages",
    "/v1/realtime",
)
"""What the generic proxy passes on to an engine whose administrative paths are not known.

`/v1/responses` is not among them: below it lie the stored responses of all keys, and only the
endpoint of this name knows whose is whose.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """One kind of engine. Times are milliseconds."""

    dialects: tuple[str, ...]
    """What it speaks by itself: openai, anthropic, tei."""
    stream_usage: bool
    """Whether it knows `stream_options.include_usage`."""
    admin_paths: tuple[str, ...]
    """What no key reaches through the generic proxy, nor what lies below it: paths that change the
    engine, or that tell of other clients' requests or of the machine."""
    inference_paths_only: bool = False
    """Whether only `INFERENCE_PATHS` pass: for an engine that may have other administrative paths
    than those above.
    """
    hidden_names: tuple[str, ...] = ()
    """What else it calls the model in answers and errors, beside the served name."""
    idle_timeout: int = 4_000
    """How long an idle connection may be used again; below the engine's own limit, which is 5 s for
    most. A `Keep-Alive` header of the engine overrides it."""
    requests_per_connection: int = 0
    """Below the engine's own limit; 0: no limit."""
    cancel_lag: int
    """How long it goes on with a non-streamed request whose connection was closed."""
