"""What is told about the deployments: the data plane's table, the metrics, and what the management API shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpustack_fast.api.documents import InstanceView, ModelView
from gpustack_fast.config import Config, ModelConfig, ServerConfig
from gpustack_fast.dataplane import (
    ConnectionLimits,
    DataPlaneConfig,
    InstanceEntry,
    Limits,
    ModelEntry,
    RouteEntry,
    Table,
    TargetEntry,
    Timeouts,
)
from gpustack_fast.supervisor import Replica

__all__ = ["has_failed", "metrics", "model_views", "plane_config", "table"]


def plane_config(server: ServerConfig, control_socket: str) -> DataPlaneConfig:
    """The data plane's settings: its times are milliseconds."""

    def milliseconds(seconds: float) -> int:
        return max(1, round(seconds * 1000)) if seconds else 0

    times, limits = server.timeouts, server.limits
    return DataPlaneConfig(
        workers=server.worker_count(),
        control_socket=control_socket,
        timeouts=Timeouts(
            head=milliseconds(times.head),
            body=milliseconds(times.body),
            connect=milliseconds(times.connect),
            first_frame=milliseconds(times.first_frame),
            idle=milliseconds(times.idle),
        ),
        limits=Limits(body=limits.max_body_bytes, replay=limits.replay_bytes, nesting=limits.max_nesting),
        connections=ConnectionLimits(idle_per_instance=limits.idle_connections),
        record_queue=limits.record_queue,
    )


def table(config: Config, replicas: Sequence[Replica], created: int) -> Table:
    """The whole routing table for the replicas of now. `created`: the routes' Unix time."""
    routes = [
        RouteEntry(
            name=route.name,
            created=created,
            targets=[TargetEntry(model=target.model, weight=target.weight) for target in route.targets],
            categories=list(route.categories),
            generic_proxy=route.generic_proxy,
        )
        for route in config.all_routes()
    ]
    models = [model_entry(model, replicas_of(model, replicas)) for model in config.models]
    return Table(models=models, routes=routes, metrics=metrics(replicas))


def replicas_of(model: ModelConfig, replicas: Iterable[Replica]) -> list[Replica]:
    return [replica for replica in replicas if replica.slot.model == model.name]


def model_entry(model: ModelConfig, replicas: list[Replica]) -> ModelEntry:
    """One model with those of its instances that have an address already."""
    dialects = (
        model.dialects if model.external else [dialect for one in replicas[:1] for dialect in one.backend.dialects]
    )
    return ModelEntry(
        name=model.name,
        served_name=model.engine_name,
        backend=model.backend,
        dialects=list(dialects) or ["openai"],
        instances=[instance_entry(replica) for replica in replicas if replica.address],
    )


def instance_entry(replica: Replica) -> InstanceEntry:
    backend = replica.backend
    return InstanceEntry(
        id=replica.id,
        address=replica.address,
        state=replica.state,
        api_key=None if replica.instance is None else replica.instance.key,
        idle_timeout=backend.idle_timeout,
        requests_per_connection=backend.requests_per_connection,
        cancel_lag=backend.cancel_lag,
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


def model_views(config: Config, replicas: Sequence[Replica]) -> list[ModelView]:
    """What `GET /v2/models` shows."""
    return [model_view(model, replicas_of(model, replicas)) for model in config.models]


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
