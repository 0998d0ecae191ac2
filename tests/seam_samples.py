"""Complete documents of the seam for tests, so that each names only what it is about."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from gpustack_fast.config import ServerConfig
from gpustack_fast.config.schema import ModelTimeoutsConfig
from gpustack_fast.seam.documents import (
    DataPlaneConfig,
    InstanceEntry,
    KeyDelta,
    KeyEntry,
    ModelEntry,
    RouteEntry,
    Settings,
    Table,
    TargetEntry,
)
from gpustack_fast.seam.settings import plane_config

__all__ = [
    "data_plane_config",
    "instance_entry",
    "key_delta",
    "key_entry",
    "model_entry",
    "route_entry",
    "table",
    "target_entry",
]


def data_plane_config(*, spool: Path = Path("/nonexistent"), **settings: Any) -> DataPlaneConfig:
    """`settings`: those of `[server]`, as a file has them. One worker, no management API, and no
    log, which would be the test runner's standard error.
    """
    server = msgspec.convert({"workers": 1, "log_level": "off", **settings}, ServerConfig)
    config = plane_config(server, control_socket=Path("/nonexistent"), spool=spool)
    return msgspec.structs.replace(config, control_socket=None)


def instance_entry(id: str, address: str, **fields: Any) -> InstanceEntry:
    entry: dict[str, Any] = {
        "state": "running",
        "api_key": None,
        "idle_timeout": 4.0,
        "requests_per_connection": 0,
        "closes_after_stream": False,
        "cancel_lag": 0.0,
        "context_length": None,
    }
    return InstanceEntry(id=id, address=address, **{**entry, **fields})


def model_entry(name: str, instances: list[InstanceEntry], **fields: Any) -> ModelEntry:
    entry: dict[str, Any] = {
        "served_name": name,
        "backend": "external",
        "dialects": ["openai"],
        "stream_usage": False,
        "system_messages": "first",
        "reasoning_names": "both",
        "redacted_names": [],
        "response_headers": [],
        "repair": [],
        "proxy_denied": [],
        "proxy_allowed": None,
        "timeouts": ModelTimeoutsConfig(),
        "max_in_flight": 0,
        "wake": None,
    }
    return ModelEntry(name=name, instances=instances, **{**entry, **fields})


def target_entry(model: str = "m", **fields: Any) -> TargetEntry:
    entry: dict[str, Any] = {"weight": 100, "served_name": None, "fallback": []}
    return TargetEntry(model=model, **{**entry, **fields})


def route_entry(name: str, targets: list[TargetEntry], **fields: Any) -> RouteEntry:
    entry: dict[str, Any] = {
        "created": 1,
        "categories": [],
        "generic_proxy": False,
        "number": 0,
        "access_policy": "authed",
        "allowed_keys": [],
        "meta": None,
    }
    return RouteEntry(name=name, targets=targets, **{**entry, **fields})


def table(
    models: list[ModelEntry],
    routes: list[RouteEntry],
    settings: Settings | None = None,
    default_route: str | None = None,
) -> Table:
    return Table(
        models=models, routes=routes, default_route=default_route, metrics=[], settings=settings
    )


def key_entry(id: str, key: str, salt: str, **fields: Any) -> KeyEntry:
    """`salt` is hexadecimal."""
    entry: dict[str, Any] = {"name": "", "allowed_models": None, "scopes": ["*"], "expires": None}
    digest = hashlib.sha256(bytes.fromhex(salt) + key.encode()).hexdigest()
    return KeyEntry(id=id, digest=digest, **{**entry, **fields})


def key_delta(salt: str, **fields: Any) -> KeyDelta:
    delta: dict[str, Any] = {"replace": False, "upsert": [], "remove": []}
    return KeyDelta(salt=salt, **{**delta, **fields})
