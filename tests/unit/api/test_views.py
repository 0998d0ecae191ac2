"""Deployments and routes as the management API shows them."""

from __future__ import annotations

import msgspec
import pytest
from small_deployment import CONFIG, KNOWN, REMOTE, REPLICAS, SMOLLM2

from gpustack_fast.api.documents import InstanceView, ModelView
from gpustack_fast.api.views import has_failed, model_views, route_views
from gpustack_fast.config import Config, RouteConfig, TargetConfig


def test_the_management_api_shows_states_and_no_secrets() -> None:
    views = model_views(CONFIG, REPLICAS)
    assert [(view.replicas, view.ready_replicas) for view in views] == [(2, 1), (1, 1)]
    second = views[0].instances[1]
    assert (second.state, second.state_message, second.restart_count) == (
        "initializing",
        "Soon.",
        3,
    )
    assert second.last_restart_time == 1000.0
    assert b"hush" not in msgspec.json.encode(views)


def test_the_management_api_shows_each_route_with_its_number_and_what_is_ready() -> None:
    config = Config(
        models=[SMOLLM2, REMOTE],
        routes=[
            RouteConfig(
                name="default",
                targets=[
                    TargetConfig(model="smollm2", fallback=["5xx"]),
                    TargetConfig(model="remote"),
                    TargetConfig(model="remote", overridden_model_name="lora", weight=0),
                ],
            )
        ],
    )
    views = route_views(config, KNOWN, REPLICAS[1:])
    assert [(view.id, view.name, view.created, view.ready_targets) for view in views] == [
        (1, "smollm2", 10, 0),
        (2, "remote", 20, 1),
        (3, "default", 30, 1),
    ]
    assert [(one.state, one.weight) for one in views[2].targets] == [
        ("unavailable", 0),
        ("active", 100),
        ("active", 0),
    ]


@pytest.mark.parametrize(
    ("states", "failed"),
    [
        ([], False),
        (["error"], True),
        (["error", "starting"], False),
        (["unreachable", "error"], True),
        (["error", "pending: No GPU has room for it."], True),
        (["error", "pending"], False),
    ],
)
def test_a_model_has_failed_when_none_of_its_instances_is_on_its_way(
    states: list[str], failed: bool
) -> None:
    shown = (state.partition(": ") for state in states)
    instances = [InstanceView(name="i", state=one[0], state_message=one[2]) for one in shown]
    view = ModelView(
        name="m", backend="external", replicas=2, ready_replicas=0, instances=instances
    )
    assert has_failed(view) is failed
