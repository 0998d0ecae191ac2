"""The table while a model is edited: no request is led to an engine that it was not made for."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from small_deployment import SMOLLM2, replica

from gpustack_fast.config import AdapterConfig, Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.engines.replica import Replica
from gpustack_fast.seam.documents import Table
from gpustack_fast.seam.rollout import LARGEST_WEIGHT
from gpustack_fast.seam.table import table
from gpustack_fast.storage.route_numbers import KnownRoute

KNOWN = {name: KnownRoute(name=name, number=1, created=1) for name in ("smollm2", "smollm2:a", "r")}
NOW = msgspec.structs.replace(SMOLLM2, backend="vllm", max_in_flight=7)
"""After an edit: another kind of engine."""


def engines(
    model: ModelConfig, *numbers: int, generation: int = 1, state: str = "running"
) -> list[Replica]:
    return [
        replica(model, number, state, f"unix:/{number}", generation=generation)  # type: ignore[arg-type]
        for number in numbers
    ]


def made(config: Config, replicas: list[Replica]) -> Table:
    return table(config, replicas, KNOWN, {})


def shares(told: Table, route: int) -> list[tuple[str, int, str | None]]:
    return [(one.model, one.weight, one.served_name) for one in told.routes[route].targets]


def test_instances_of_another_kind_are_published_apart_and_get_their_share() -> None:
    old, new = engines(SMOLLM2, 0, 1), engines(NOW, 2, generation=2)
    told = made(Config(models=[NOW]), old + new)
    assert [(one.name, one.backend, one.max_in_flight) for one in told.models] == [
        ("smollm2", "vllm", 7),
        ("smollm2@1", "llama_cpp", 7),
    ]
    assert [[one.id for one in model.instances] for model in told.models] == [
        ["smollm2-2"],
        ["smollm2-0", "smollm2-1"],
    ]
    assert shares(told, 0) == [("smollm2", 100, None), ("smollm2@1", 200, None)]


def test_a_new_version_that_does_not_run_yet_gets_nothing() -> None:
    old, new = engines(SMOLLM2, 0), engines(NOW, 1, generation=2, state="starting")
    assert shares(made(Config(models=[NOW]), old + new), 0) == [("smollm2@1", 100, None)]
    assert shares(made(Config(models=[NOW]), new), 0) == [("smollm2", 100, None)]
    assert shares(made(Config(models=[NOW]), []), 0) == [("smollm2", 100, None)]


def test_instances_of_which_the_same_is_known_are_one_model() -> None:
    edited = msgspec.structs.replace(SMOLLM2, backend_parameters=["--ctx-size=512"])
    replicas = engines(SMOLLM2, 0) + engines(edited, 1, generation=2)
    (model,) = made(Config(models=[edited]), replicas).models
    assert [one.id for one in model.instances] == ["smollm2-0", "smollm2-1"]


def test_a_fallback_stays_one_for_both() -> None:
    route = RouteConfig(
        name="r", targets=[TargetConfig(model="smollm2", fallback=["5xx"]), TargetConfig(model="x")]
    )
    other = ModelConfig(name="x", backend="external", urls=["http://x:1"])
    known = {**KNOWN, "x": KnownRoute(name="x", number=2, created=1)}
    replicas = engines(SMOLLM2, 0) + engines(NOW, 1, generation=2)
    told = table(Config(models=[NOW, other], routes=[route]), replicas, known, {})
    targets = next(one for one in told.routes if one.name == "r").targets
    assert [(one.model, one.weight, one.fallback) for one in targets] == [
        ("smollm2", 0, ["5xx"]),
        ("smollm2@1", 0, ["5xx"]),
        ("x", 200, []),
    ]


def test_an_adapter_is_asked_of_engines_that_have_it() -> None:
    adapter = AdapterConfig(lora_name="a", local_path="/a")
    edited = msgspec.structs.replace(SMOLLM2, lora_list=[adapter])
    old, new = engines(SMOLLM2, 0), engines(edited, 1, generation=2)
    told = made(Config(models=[edited]), old + new)
    assert shares(told, 1) == [("smollm2", 100, "a")]
    starting = engines(edited, 1, generation=2, state="starting")
    assert shares(made(Config(models=[edited]), old + starting), 1) == [("smollm2", 100, "a")]


@given(
    st.lists(
        st.tuples(st.integers(0, 1_000_000), st.integers(0, 4096), st.integers(0, 4096)), max_size=4
    )
)
def test_a_target_keeps_its_share_of_the_route(targets: list[tuple[int, int, int]]) -> None:
    """Against each target's own share, in floating point."""
    names = [f"m{number}" for number in range(len(targets))]
    models = [msgspec.structs.replace(NOW, name=name) for name in names]
    numbers = itertools.count()
    replicas = []
    for model, (_, old, new) in zip(models, targets, strict=True):
        before = msgspec.structs.replace(SMOLLM2, name=model.name)
        # A hundredth of them, which is enough to differ.
        replicas += engines(before, *itertools.islice(numbers, old // 100))
        replicas += engines(model, *itertools.islice(numbers, new // 100), generation=2)
    weights = [weight for weight, _, _ in targets]
    route = RouteConfig(
        name="r",
        targets=[
            TargetConfig(model=name, weight=weight)
            for name, weight in zip(names, weights, strict=True)
        ],
    )
    known = {name: KnownRoute(name=name, number=1, created=1) for name in (*names, "r")}
    told = table(Config(models=models, routes=[route] if names else []), replicas, known, {})
    if not names:
        return
    entries = next(one for one in told.routes if one.name == "r").targets
    total, whole = sum(one.weight for one in entries), sum(weights)
    assert total <= LARGEST_WEIGHT + len(entries)
    for name, weight in zip(names, weights, strict=True):
        found = sum(one.weight for one in entries if one.model.partition("@")[0] == name)
        share = found / total if total else 0.0
        assert abs(share - (weight / whole if whole else 0.0)) < 1e-3
