"""An engine as one value: what is known of it, and how this server runs it if it can."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gpustack_fast.backends.facts import Dialect, EngineFacts
from gpustack_fast.errors import GpustackFastError

__all__ = ["Backend", "BackendError", "Command", "Engine", "Model", "Place"]


class Model(Protocol):
    """A model's configuration, as far as engines go by it; see `config.ModelConfig`."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def source(self) -> str | None: ...
    @property
    def python_package(self) -> str | None: ...
    @property
    def local_path(self) -> str | None: ...
    @property
    def replicas(self) -> int: ...
    @property
    def backend_parameters(self) -> Sequence[str]: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def engine(self) -> str: ...
    @property
    def dialects(self) -> Sequence[Dialect] | None: ...


class BackendError(GpustackFastError):
    """This backend cannot run the model as it is configured. The text says what to change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The place of one instance: interpreter, socket and key."""

    python: Path
    """The interpreter of the engine's own environment."""
    socket: Path
    """The Unix socket where it has to listen."""
    key: str
    """The API key that it has to ask for: given by environment, never in the argument list."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command line with its environment."""

    arguments: list[str]
    environment: dict[str, str]
    """On top of the router's own environment."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to have engines."""

    name: str
    sources: tuple[str, ...] = ()
    """Its sources of models in this version, by their names in the configuration."""
    check: Callable[[Model], Iterator[tuple[int, str]]]
    """Checks a model's settings alone: for each of its `backend_parameters` with which no start
    could succeed, its index and what is wrong with it.
    """
    command: Callable[[Model, Place], Command]
    """Raises BackendError when the model's settings do not fit the engine."""
    ready_path: str
    """The path that gets 200 as soon as the engine can serve, and not before."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 15.0
    """Seconds from the first stop signal until the whole session is killed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """A kind of engine: the value `ENGINE` of a file in this package."""

    name: str
    """Its name in the configuration: `engine` of an external model, else `backend`."""
    facts: EngineFacts
    """Those that hold for all of its kind."""
    facts_for: Callable[[Model], EngineFacts] | None = None
    """Those of a model's engines, where they follow from the model's settings."""
    backend: Backend | None = None
    """None: this server cannot run it yet, only somebody else."""
