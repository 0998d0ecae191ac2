"""What the supervisor must know of an engine, as one value per engine."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path

from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.config import ModelConfig
from gpustack_fast.errors import GpustackFastError

__all__ = ["Backend", "BackendError", "Command", "Place"]


class BackendError(GpustackFastError):
    """This backend cannot run the model as it is configured. The text says what to change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where one instance runs."""

    python: Path
    """The interpreter of the engine's own environment."""
    socket: Path
    """The Unix socket where it has to listen."""
    key: str
    """The API key that it has to ask for: given by environment, never in the argument list."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What to run."""

    arguments: list[str]
    environment: dict[str, str]
    """On top of the router's own environment."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to have engines."""

    name: str
    check: Callable[[ModelConfig], None]
    """Looks at the model's settings alone. Raises BackendError when no start could ever succeed
    with them.
    """
    command: Callable[[ModelConfig, Place], Command]
    """Raises BackendError when the model's settings do not fit the engine."""
    facts: Callable[[ModelConfig], EngineFacts]
    """What the data plane must know of the model's engines."""
    ready_path: str
    """Answers 200 as soon as the engine can serve, and not before."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 15.0
    """Seconds from the first stop signal until the whole session is killed."""
