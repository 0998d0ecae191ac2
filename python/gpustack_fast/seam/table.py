"""The data plane's table of the deployments, and its keys."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence

from gpustack_fast.backends import INFERENCE_PATHS, EngineFacts
from gpustack_fast.config import Config, ModelConfig, RouteConfig
from gpustack_fast.engines.replica import Replica, replicas_by_model
from gpustack_fast.keys.store import Key
from gpustack_fast.seam.documents import (
    InstanceEntry,
    KeyEntry,
    ModelEntry,
    RouteEntry,
    Table,
    Wake,
)
from gpustack_fast.seam.metrics import metrics
from gpustack_fast.seam.rollout import Part, divided, parts_of
from gpustack_fast.storage.route_numbers import KnownRoute

__all__ = ["key_entry", "table"]


def table(
    config: Config,
    replicas: Collection[Replica],
    routes: Mapping[str, KnownRoute],
    engine_keys: Mapping[str, str],
    waits: Container[str] = (),
) -> Table:
    """The whole routing table for the replicas of now.

    `routes` must know every public name of `config`: else KeyError. `engine_keys`: the keys of
    somebody else's engines, by model. `waits`: the models for which requests wait, while nothing
    of them runs.
    """
    parts = {
        model.name: parts_of(model, found) for model, found in replicas_by_model(config, replicas)
    }
    models = [
        model_entry(model, part, engine_keys.get(model.name), waits=model.name in waits)
        for model in config.models
        for part in parts[model.name]
    ]
    entries = [route_entry(route, routes[route.name], parts) for route in config.all_routes()]
    return Table(
        models=models,
        routes=entries,
        default_route=config.server.default_route,
        metrics=metrics(replicas),
        settings=None,
    )


def route_entry(
    route: RouteConfig, known: KnownRoute, parts: Mapping[str, Sequence[Part]]
) -> RouteEntry:
    """One public name, with the number and the time (Unix seconds) that are known of it. `parts`:
    of the models that it leads to.
    """
    return RouteEntry(
        name=route.name,
        created=known.created,
        targets=divided(route.targets, parts),
        categories=list(route.categories),
        generic_proxy=route.generic_proxy,
        number=known.number,
        access_policy=route.access_policy,
        allowed_keys=route.allowed_keys,
        meta=route.meta,
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


def model_entry(
    model: ModelConfig, part: Part, engine_key: str | None, *, waits: bool = False
) -> ModelEntry:
    """One part of a model with those of its instances that have an address already. `model`: as it
    is configured now, which says what holds for all of them.

    `engine_key`: for the instances of somebody else's; None where they ask for none. `waits`:
    whether requests wait while nothing runs.
    """
    facts = part.facts
    return ModelEntry(
        name=part.name,
        served_name=facts.served_name or part.model.engine_name,
        backend=part.model.backend,
        dialects=list(facts.dialects),
        stream_usage=facts.stream_usage,
        system_messages=model.system_messages,
        reasoning_names=facts.reasoning_names,
        redacted_names=list(facts.redacted_names),
        response_headers=model.response_headers,
        repair=model.repair,
        proxy_denied=list(facts.admin_paths),
        proxy_allowed=list(INFERENCE_PATHS) if facts.inference_paths_only else None,
        timeouts=model.timeouts,
        max_in_flight=model.max_in_flight,
        wake=Wake(queue=model.wake_queue, timeout=model.wake_timeout) if waits else None,
        instances=[
            instance_entry(replica, facts, engine_key)
            for replica in part.replicas
            if replica.address
        ],
    )


def instance_entry(replica: Replica, facts: EngineFacts, engine_key: str | None) -> InstanceEntry:
    """One instance. Our own engine brings its key; `engine_key` is of somebody else's."""
    return InstanceEntry(
        id=replica.id,
        address=replica.address,
        state=replica.published_state,
        api_key=engine_key if replica.instance is None else replica.instance.key,
        idle_timeout=facts.idle_timeout,
        requests_per_connection=facts.requests_per_connection,
        closes_after_stream=facts.closes_after_stream,
        cancel_lag=facts.cancel_lag,
        context_length=replica.context_length,
    )
