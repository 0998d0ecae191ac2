"""An engine as one value: what is known of it, and how this server runs it if it can."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.backends.facts import Dialect, EngineFacts
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.sizing.documents import ModelFacts

__all__ = [
    "Adapter",
    "Backend",
    "BackendError",
    "Call",
    "Command",
    "Engine",
    "GpuSelector",
    "Model",
    "Place",
    "Progress",
    "Sign",
    "Sleep",
    "WarmUp",
]


class Adapter(Protocol):
    """An adapter (LoRA) of a model; see `config.AdapterConfig`."""

    @property
    def lora_name(self) -> str: ...


class GpuSelector(Protocol):
    """The GPUs that a model may have; see `config.GpuSelectorConfig`."""

    @property
    def gpus_per_replica(self) -> int | None: ...


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
    def huggingface_repo_id(self) -> str | None: ...
    @property
    def huggingface_filename(self) -> str | None: ...
    @property
    def model_scope_model_id(self) -> str | None: ...
    @property
    def model_scope_file_path(self) -> str | None: ...
    @property
    def lora_list(self) -> Sequence[Adapter]: ...
    @property
    def categories(self) -> Sequence[str]: ...
    @property
    def backend_version(self) -> str | None: ...
    @property
    def python(self) -> str | None: ...
    @property
    def run_command(self) -> str | None: ...
    @property
    def health_path(self) -> str | None: ...
    @property
    def gpu_selector(self) -> GpuSelector | None: ...
    @property
    def most_replicas(self) -> int: ...
    @property
    def sleep_level(self) -> int: ...
    @property
    def backend_parameters(self) -> Sequence[str]: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def engine(self) -> str: ...
    @property
    def dialects(self) -> Sequence[Dialect] | None: ...
    @property
    def stream_usage(self) -> bool | None: ...


class BackendError(GpustackFastError):
    """This backend cannot run the model as it is configured. The text says what to change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The place of one instance: interpreter, address, key, files and devices."""

    python: Path
    """The interpreter of the engine's own environment."""
    version: str
    """Of the engine in that environment; empty: unknown."""
    socket: Path
    """The Unix socket where it has to listen, if its backend can."""
    port: int | None
    """The TCP port on loopback where it has to listen; None: at the socket."""
    key: str
    """The API key that it has to ask for: given by environment, never in the argument list."""
    files: Path | None
    """The folder or file of the model; None: the backend finds it by the model's own fields."""
    adapters: Mapping[str, Path]
    """The folder of each adapter (LoRA), by its name."""
    devices: tuple[str, ...]
    """GPUs as CUDA_VISIBLE_DEVICES takes them, in the order of the PCI bus, or slices by their full
    UUID. Empty: none were given.
    """
    shape: Shape
    """How the model is divided over them."""
    share: float | None
    """The part of each GPU's memory that was claimed, for engines that are told; else None."""
    facts: ModelFacts | None = None
    """What the model's files say; None: nothing is known."""

    @property
    def folder(self) -> Path:
        """Where `Command.files` and `Command.links` of this instance belong, and nothing else."""
        return self.socket.with_suffix(".d")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command line with its environment."""

    arguments: list[str]
    environment: dict[str, str]
    """On top of the router's own environment."""
    files: Mapping[Path, str] = dataclasses.field(default_factory=dict)
    """Files that it reads, with their text. They are written before the start, into the place's
    own folder, which goes with the instance.
    """
    links: Mapping[Path, Path] = dataclasses.field(default_factory=dict)
    """Symbolic links that it follows, with where they lead; as `files`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmUp:
    """One request before an engine counts as running, so that no client pays for what is made at
    the first one. Its response must have a status below 300.
    """

    path: str
    body: Mapping[str, object]
    """JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """A request to an engine's administrative path."""

    path: str
    body: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sleep:
    """How an engine gives its GPUs' memory back without an end of its process, and wakes up."""

    fall_asleep: Callable[[int], Sequence[Call]]
    """The calls for a level, one after the other. Each must get a status below 300."""
    wake_up: Callable[[int], Sequence[Call]]
    """The calls that take it back, and leave one awake that is."""
    variables: tuple[str, ...] = ()
    """Environment variables that the server decides for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign:
    """A text in an engine's log, and what it tells a person."""

    text: str
    """Part of a line, as the engine writes it."""
    meaning: str
    """Of a stage: a clause such as `the weights are loaded`. Of a cause: sentences, with the next
    step.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """The names of an engine's metrics that show whether it works on its requests."""

    path: str
    running: str
    """The gauge of requests that it works on."""
    tokens: tuple[str, ...]
    """Counters, of which at least one moves while it does."""
    on_processors: bool = False
    """Whether a step may take minutes of the processors' time, before any counter moves."""


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
    check_fields: Callable[[Model], Iterator[tuple[str, str]]] | None = None
    """The same for the model's other fields: the name of each that is wrong, and what is."""
    doubts: Callable[[Model], Iterator[str]] | None = None
    """Sentences about what could not be checked."""
    variables: tuple[str, ...] = ()
    """Environment variables that the server decides: no model's `env` may, and what they are in the
    server's own environment is not passed on.
    """
    command: Callable[[Model, Place], Command]
    """Raises BackendError when the model's settings do not fit the engine."""
    demands: Callable[[Model, ModelFacts, int], list[Demand]] | None = None
    """The ways in which a model could run on at most so many GPUs, the preferred one first; None:
    it runs without. Raises BackendError when the settings contradict each other or the model.
    """
    takes_slices: bool = False
    """Whether it is known to run on a slice of a GPU (MIG), by its UUID."""
    any_files: bool = False
    """Whether it may run models whose files nobody here can read; `demands` then gets
    `sizing.UNKNOWN`.
    """
    takes_adapters: bool = False
    """Whether it serves adapters (LoRA) beside a model."""
    ready_path: str
    """The path that gets 200 as soon as the engine can serve, and not before."""
    ready_path_for: Callable[[Model], str] | None = None
    """That of a model's engines, where it follows from the model's settings."""
    key_path: str | None = "/v1/models"
    """A path that gets 2xx with the engine's key alone, where it has one, and is no work; None: no
    such path is known.
    """
    environment: Literal["ours", "users", "none"] = "ours"
    """Who makes the environment: the server, unless a model names one (`python`); the user, so that
    a model has to name it; or nobody, since it needs none.
    """
    warm_up: Callable[[Model], WarmUp | None] | None = None
    """None, or with None as its result: the model needs none."""
    over_tcp: bool = False
    """Whether it listens at a TCP port of loopback, since it knows no Unix socket."""
    stages: tuple[Sign, ...] = ()
    """What it writes on its way to readiness, in this order."""
    causes: tuple[Sign, ...] = ()
    """What it writes when it fails for a cause that is known."""
    progress: Progress | None = None
    sleep: Sleep | None = None
    """None: it sleeps only by an end of its process."""
    leaves_session: bool = False
    """Whether it starts processes outside of its session, which have to be looked for."""
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
