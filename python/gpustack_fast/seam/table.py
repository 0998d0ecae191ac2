"""What is told about the deployments: the data plane's table, the metrics, and what the management API shows."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

from gpustack_fast.api.documents import InstanceView, ModelView, RouteView, TargetView
from gpustack_fast.backends import BACKENDS, INFERENCE_PATHS, EngineFacts
from gpustack_fast.config import Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.engines.replica import Replica
from gpustack_fast.keys.store import Key
from gpustack_fast.seam.documents import InstanceEntry, KeyEntry, ModelEntry, RouteEntry, Table, TargetEntry
from gpustack_fast.storage.route_numbers import KnownRoute

__all__ = ["has_failed", "key_entry", "metrics", "model_views", "route_views", "table"]


def table(
    config: Config, replicas: Iterable[Replica], routes: Mapping[str, KnownRoute], engine_keys: Mapping[str, str]
) -> Table:
    """The whole routing table for the replicas of now.

    `routes`: what is known of every route's name; `engine_keys`: the keys of somebody else's engines, by model.
    """
    models = [
        model_entry(model, found, engine_keys.get(model.name)) for model, found in replicas_by_model(config, replicas)
    ]
    entries = [route_entry(route, routes[route.name]) for route in config.all_routes()]
    return Table(models=models, routes=entries, metrics=metrics(replicas))


def route_entry(route: RouteConfig, known: KnownRoute) -> RouteEntry:
    return RouteEntry(
        name=route.name,
        created=known.created,
        targets=[target_entry(target) for target in route.targets],
        categories=list(route.categories),
        generic_proxy=route.generic_proxy,
        number=known.number,
        access_policy=route.access_policy,
        allowed_keys=route.allowed_keys,
        meta=route.meta,
    )


def target_entry(target: TargetConfig) -> TargetEntry:
    return TargetEntry(
        model=target.model,
        weight=target.share,
        served_name=target.overridden_model_name,
        fallback=list(target.fallback),
    )


def key_entry(key: Key) -> KeyEntry:
    """One key, as the data plane checks it."""
    return KeyEntry(
        id=key.access_key,
        digest=key.digest,
        name=key.name,
        allowed_models=key.allowed_models,
        scopes=list(key.scopes),
        expires=key.expires,
    )


def replicas_by_model(config: Config, replicas: Iterable[Replica]) -> list[tuple[ModelConfig, list[Replica]]]:
    """Every model with its replicas, in the order of the configuration."""
    found: dict[str, list[Replica]] = collections.defaultdict(list)
    for replica in replicas:
        found[replica.slot.model].append(replica)
    return [(model, found[model.name]) for model in config.models]


def model_entry(model: ModelConfig, replicas: list[Replica], engine_key: str | None) -> ModelEntry:
    """One model with those of its instances that have an address already."""
    facts = BACKENDS[model.backend].facts(model)
    return ModelEntry(
        name=model.name,
        served_name=model.engine_name,
        backend=model.backend,
        dialects=list(facts.dialects),
        stream_usage=facts.stream_usage,
        hidden_names=list(facts.hidden_names),
        proxy_denied=list(facts.admin_paths),
        proxy_allowed=list(INFERENCE_PATHS) if facts.inference_paths_only else None,
        instances=[instance_entry(replica, facts, engine_key) for replica in replicas if replica.address],
    )


def instance_entry(replica: Replica, facts: EngineFacts, engine_key: str | None) -> InstanceEntry:
    return InstanceEntry(
        id=replica.id,
        address=replica.address,
        state=replica.state,
        api_key=engine_key if replica.instance is None else replica.instance.key,
        idle_timeout=facts.idle_timeout,
        requests_per_connection=facts.requests_per_connection,
        cancel_lag=facts.cancel_lag,
    )


def metrics(replicas: Iterable[Replica]) -> str:
    """The control plane's families, as Prometheus text."""
    states = [
        "# HELP gpustack_fast_instance_state The state that each instance is in, by GPUStack's names.",
        "# TYPE gpustack_fast_instance_state gauge",
    ]
    restarts = [
        "# HELP gpustack_fast_instance_restarts_total Engines started in place of one that ended, by replica.",
        "# TYPE gpustack_fast_instance_restarts_total counter",
    ]
    for replica in replicas:
        model = label(replica.slot.model)
        labels = f'model="{model}",instance="{label(replica.id)}",state="{replica.state}"'
        states.append(f"gpustack_fast_instance_state{{{labels}}} 1")
        labels = f'model="{model}",replica="{replica.slot.number}"'
        restarts.append(f"gpustack_fast_instance_restarts_total{{{labels}}} {replica.restarts}")
    return "\n".join([*states, *restarts, ""])


def label(text: str) -> str:
    """A label's value, escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def model_views(config: Config, replicas: Iterable[Replica]) -> list[ModelView]:
    """What `GET /v2/models` shows."""
    return [model_view(model, found) for model, found in replicas_by_model(config, replicas)]


def model_view(model: ModelConfig, replicas: list[Replica]) -> ModelView:
    return ModelView(
        name=model.name,
        backend=model.backend,
        source=model.source,
        categories=list(model.categories),
        generic_proxy=model.generic_proxy,
        replicas=len(model.urls) if model.external else model.replicas,
        ready_replicas=sum(replica.state == "running" for replica in replicas),
        instances=[instance_view(replica) for replica in replicas],
    )


def route_views(config: Config, routes: Mapping[str, KnownRoute], replicas: Iterable[Replica]) -> list[RouteView]:
    """What `GET /v2/model-routes` shows."""
    running = {replica.slot.model for replica in replicas if replica.state == "running"}
    return [route_view(route, routes[route.name], running) for route in config.all_routes()]


def route_view(route: RouteConfig, known: KnownRoute, running: set[str]) -> RouteView:
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
            target.state == "active" and (target.weight > 0 or bool(target.fallback_status_codes)) for target in targets
        ),
        access_policy=route.access_policy,
        generic_proxy=route.generic_proxy,
        categories=list(route.categories),
        meta=route.meta,
    )


def has_failed(view: ModelView) -> bool:
    """Whether no instance of a model is on its way: each has failed, and is only tried again."""
    return bool(view.instances) and all(one.state in ("error", "unreachable") for one in view.instances)


def instance_view(replica: Replica) -> InstanceView:
    return InstanceView(
        name=replica.id,
        state=replica.state,
        state_message=replica.state_message,
        pid=None if replica.instance is None else replica.instance.pid,
        restart_count=replica.restarts,
        last_restart_time=replica.created if replica.restarts else None,
    )
