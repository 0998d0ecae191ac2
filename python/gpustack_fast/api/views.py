"""Deployments and routes as documents of the management API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpustack_fast.api.documents import InstanceView, ModelView, RouteView, TargetView
from gpustack_fast.config import Config, ModelConfig, RouteConfig
from gpustack_fast.engines.replica import Replica, replicas_by_model
from gpustack_fast.storage.route_numbers import KnownRoute

__all__ = ["has_failed", "model_views", "route_views"]


def model_views(config: Config, replicas: Iterable[Replica]) -> list[ModelView]:
    """The list of `GET /v2/models`, in the order of the configuration."""
    return [model_view(model, found) for model, found in replicas_by_model(config, replicas)]


def model_view(model: ModelConfig, replicas: list[Replica]) -> ModelView:
    """One deployment with its replicas."""
    return ModelView(
        name=model.name,
        backend=model.backend,
        source=model.source,
        categories=list(model.categories),
        generic_proxy=model.generic_proxy,
        replicas=len(model.urls) if model.external else model.replica_bounds[0],
        ready_replicas=sum(replica.published_state == "running" for replica in replicas),
        instances=[instance_view(replica) for replica in replicas],
    )


def route_views(
    config: Config, routes: Mapping[str, KnownRoute], replicas: Iterable[Replica]
) -> list[RouteView]:
    """The list of `GET /v2/model-routes`. Raises KeyError for a public name that `routes` lacks."""
    running = {replica.slot.model for replica in replicas if replica.published_state == "running"}
    return [route_view(route, routes[route.name], running) for route in config.all_routes()]


def route_view(route: RouteConfig, known: KnownRoute, running: set[str]) -> RouteView:
    """One public name. `running`: the models of which an instance runs."""
    targets = [
        TargetView(
            model=target.model,
            weight=target.share,
            fallback_status_codes=list(target.fallback),
            overridden_model_name=target.overridden_model_name,
            state="active" if target.model in running else "unavailable",
        )
        for target in route.targets
    ]
    return RouteView(
        id=known.number,
        name=route.name,
        created=known.created,
        targets=targets,
        ready_targets=sum(
            target.state == "active" and (target.weight > 0 or bool(target.fallback_status_codes))
            for target in targets
        ),
        access_policy=route.access_policy,
        generic_proxy=route.generic_proxy,
        categories=list(route.categories),
        meta=route.meta,
    )


def has_failed(view: ModelView) -> bool:
    """Whether no instance of a model is on its way: each has failed, and is only tried again, or
    waits for GPUs, and says so.
    """
    return bool(view.instances) and all(
        one.state in ("error", "unreachable") or (one.state == "pending" and one.state_message)
        for one in view.instances
    )


def instance_view(replica: Replica) -> InstanceView:
    """One instance; its times are Unix seconds."""
    return InstanceView(
        name=replica.id,
        state=replica.published_state,
        state_message=replica.state_message,
        pid=None if replica.instance is None else replica.instance.pid,
        restart_count=replica.restarts,
        last_restart_time=replica.created if replica.restarts else None,
    )
