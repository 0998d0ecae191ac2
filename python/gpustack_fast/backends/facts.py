"""Facts of a kind of engine that the data plane needs, whoever started it."""

from __future__ import annotations

import dataclasses
from typing import Literal

__all__ = ["INFERENCE_PATHS", "Dialect", "EngineFacts", "ReasoningNames"]

Dialect = Literal["openai", "anthropic", "tei"]
"""An API that an engine may speak by itself; the data plane knows the same words.

OpenAI's, Anthropic's Messages, or the rerank API of text-embeddings-inference.
"""

ReasoningNames = Literal["reasoning", "both"]
"""The names of an assistant's thoughts in a chat's message, as the data plane knows them, too.

`reasoning` alone, or `reasoning_content` beside it: most engines read the one or the other and
ignore what they do not know.
"""

INFERENCE_PATHS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
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
"""The only paths that the generic proxy passes on where administrative paths are not known.

They are those that clients may ask for inference. `/v1/responses` is not among them: below it lie
the stored responses of all keys, and only the endpoint of this name knows whose is whose.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """One kind of engine. Times are seconds."""

    dialects: tuple[Dialect, ...]
    """The APIs that it speaks by itself."""
    stream_usage: bool
    """Whether it knows `stream_options.include_usage`."""
    reasoning_names: ReasoningNames = "both"
    """The names under which it takes what an assistant thought."""
    admin_paths: tuple[str, ...]
    """Paths that no key reaches through the generic proxy, nor what lies below them.

    They change the engine, or show other clients' requests or the machine.
    """
    inference_paths_only: bool = False
    """Whether only `INFERENCE_PATHS` pass: it may have administrative paths that are not known."""
    served_name: str | None = None
    """What it calls the model, where it cannot be told the model's own name; None: it can."""
    redacted_names: tuple[str, ...] = ()
    """Its other names for the model in responses and errors, beside the served name.

    No client may see them.
    """
    health_path: str | None = None
    """The path that gets 200 without a key while it can serve; None: none is known."""
    context_path: str | None = "/v1/models"
    """The path that tells how long the model's context is; see `context_length`. None: none does.
    """
    idle_timeout: float = 4.0
    """Time in which an idle connection may be used again, below the engine's own limit.

    That is 5 s for most. A `Keep-Alive` header of the engine overrides it.
    """
    requests_per_connection: int = 0
    """Below the engine's own limit; 0: no limit."""
    closes_after_stream: bool = False
    """Whether it closes a connection behind each chunked response, without having said so."""
    cancel_lag: float
    """Time for which it goes on with a non-streamed request whose connection was closed."""
