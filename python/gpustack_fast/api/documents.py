"""Documents of the management API in GPUStack's shapes (its `schemas/` and `api/exceptions.py`)."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import Struct

__all__ = [
    "InstanceView",
    "ModelView",
    "Page",
    "Pagination",
    "Problem",
    "RouteView",
    "TargetView",
    "VersionView",
]

T = TypeVar("T")


class InstanceView(Struct, frozen=True, kw_only=True):
    """One engine process, or one address of somebody else's engine.

    Its fields are those of GPUStack's model instances.
    """

    name: str
    state: str
    """GPUStack's names: pending … running, error, unreachable; draining, drained are ours."""
    state_message: str = ""
    pid: int | None = None
    restart_count: int = 0
    last_restart_time: float | None = None
    """Unix seconds."""


class ModelView(Struct, frozen=True, kw_only=True):
    """One deployment. Its `env` and `backend_parameters` are left out: they may hold secrets."""

    name: str
    backend: str
    source: str | None = None
    """None for somebody else's engine."""
    categories: list[str] = []
    generic_proxy: bool = False
    replicas: int
    """Wanted."""
    ready_replicas: int
    """Running."""
    instances: list[InstanceView] = []


class TargetView(Struct, frozen=True, kw_only=True):
    """A model that a route leads to. Fields and states as GPUStack's route targets have them."""

    model: str
    weight: int
    fallback_status_codes: list[str] = []
    overridden_model_name: str | None = None
    state: str
    """active: an instance of its model runs; unavailable."""


class RouteView(Struct, frozen=True, kw_only=True):
    """One public name. Fields as GPUStack's model routes have them."""

    id: int
    """Its number for ever, as in `/model/proxy/ID/...`."""
    name: str
    created: int
    """Unix seconds: when the name was first seen here."""
    targets: list[TargetView]
    ready_targets: int
    """Targets that are active and get requests: with none, the route is not in `GET /v1/models`."""
    access_policy: str
    generic_proxy: bool
    categories: list[str] = []
    meta: dict[str, Any] | None = None


class Pagination(Struct, frozen=True, kw_only=True, rename="camel"):
    """The place of a page in a list: page 1 is the first; -1 holds all, and is then shown as -1."""

    page: int
    per_page: int
    total: int
    total_page: int


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list."""

    items: list[T]
    pagination: Pagination


class VersionView(Struct, frozen=True, kw_only=True):
    """`GET /version`."""

    version: str
    git_commit: str = ""
    """Empty: a wheel does not know it. The field is there because GPUStack's clients read it."""


class Problem(Struct, frozen=True, kw_only=True):
    """Every error of this API."""

    code: int
    """The HTTP status."""
    reason: str
    """One word: Unauthorized, NotFound …"""
    message: str
    """Whole sentences."""
