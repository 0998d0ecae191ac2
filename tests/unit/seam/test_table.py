"""The deployments and the keys in the data plane's documents."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from msgspec import structs
from small_deployment import CONFIG, KNOWN, REMOTE, REPLICAS, SMOLLM2, replica

from gpustack_fast.config import Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.keys.store import Key
from gpustack_fast.seam.documents import KeyEntry, ModelEntry, Wake
from gpustack_fast.seam.table import key_entry, table
from gpustack_fast.storage.route_numbers import KnownRoute


def test_every_model_is_a_route_of_its_own_name_beside_the_declared_ones() -> None:
    told = table(CONFIG, REPLICAS, KNOWN, {})
    assert [route.name for route in told.routes] == ["smollm2", "remote", "default"]
    assert [(target.model, target.weight) for target in told.routes[2].targets] == [
        ("smollm2", 70),
        ("remote", 100),
    ]
    assert [route.generic_proxy for route in told.routes] == [False, True, False]
    assert [(route.number, route.created) for route in told.routes] == [(1, 10), (2, 20), (3, 30)]


def test_a_table_holds_the_instances_that_have_an_address_with_their_engine_s_facts() -> None:
    models = {model.name: model for model in table(CONFIG, REPLICAS, KNOWN, {}).models}
    (instance,) = models["smollm2"].instances
    assert (instance.id, instance.address, instance.state) == (
        "smollm2-0",
        "unix:/run/0.sock",
        "running",
    )
    assert (instance.idle_timeout, instance.requests_per_connection) == (4, 90)
    assert models["smollm2"].dialects == ["openai", "anthropic"]
    assert models["smollm2"].served_name == "smollm2", (
        "our engines are started under the public name"
    )
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
    entry = table(config, REPLICAS, KNOWN, {}).routes[2]
    assert [(one.weight, one.served_name, one.fallback) for one in entry.targets] == [
        (100, None, []),
        (0, "remote:lora", ["5xx"]),
    ]
    assert (entry.access_policy, entry.allowed_keys, entry.meta) == (
        "allowed_keys",
        ["alice"],
        {"x": 1},
    )


def external(**more: object) -> ModelEntry:
    """The entry of an external model, with one instance."""
    model = ModelConfig(name="m", backend="external", urls=["http://h:1"], **more)  # type: ignore[arg-type]
    known = {"m": KnownRoute(name="m", number=1, created=1)}
    replicas = [replica(model, 0, "running", "http://h:1")]
    return table(Config(models=[model]), replicas, known, {"m": "the-key"}).models[0]


@pytest.mark.parametrize(
    ("engine", "dialects", "stream_usage", "cancel_lag"),
    [
        ("openai", ["openai"], False, 1),
        ("vllm", ["openai", "anthropic"], True, 0.1),
        ("tensorrt_llm", ["openai"], True, 1),
        ("sglang", ["openai", "anthropic"], True, 4),
        ("llama_cpp", ["openai", "anthropic"], True, 10),
        ("tei", ["openai", "tei"], False, 1),
    ],
)
def test_what_is_known_of_somebody_else_s_engine_follows_from_its_name(
    engine: str, dialects: list[str], stream_usage: bool, cancel_lag: float
) -> None:
    entry = external(engine=engine)
    assert (entry.dialects, entry.stream_usage, entry.redacted_names) == (
        dialects,
        stream_usage,
        [],
    )
    (instance,) = entry.instances
    assert (instance.idle_timeout, instance.cancel_lag) == (4, cancel_lag)
    assert external(engine=engine, dialects=["anthropic"]).dialects == ["anthropic"]
    for asked in (True, False):
        assert external(engine=engine, stream_usage=asked).stream_usage is asked


def test_what_a_translated_conversation_becomes_follows_from_model_and_engine() -> None:
    entry = external(engine="openai")
    assert (entry.system_messages, entry.reasoning_names) == ("first", "both")
    assert external(engine="tensorrt_llm").reasoning_names == "reasoning"
    assert external(system_messages="none").system_messages == "none"


def test_the_key_of_somebody_else_s_engine_goes_to_its_instances_alone() -> None:
    assert [instance.api_key for instance in external().instances] == ["the-key"]
    models = table(CONFIG, REPLICAS, KNOWN, {"remote": "the-key"}).models
    assert [[instance.api_key for instance in model.instances] for model in models] == [
        [None],
        ["the-key"],
    ]


def test_an_engine_of_ours_is_asked_with_its_own_key() -> None:
    ours = replica(
        SMOLLM2,
        0,
        "running",
        "unix:/run/0.sock",
        instance=SimpleNamespace(key="made-for-it", pid=7),
    )
    models = table(CONFIG, [ours], KNOWN, {"smollm2": "of-somebody-else"}).models
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
        assert not {"/v1", "/v1/chat/completions", "/tokenize", "/embed", "/rerank"} & set(
            entry.proxy_denied
        )


def test_an_engine_that_nothing_is_known_of_is_reached_by_its_inference_paths_alone() -> None:
    entry = external()
    assert entry.proxy_allowed is not None
    assert "/v1/chat/completions" in entry.proxy_allowed
    assert not {"/v1", "/", "/v1/models", "/metrics", "/v1/responses", "/tokenize"} & set(
        entry.proxy_allowed
    )
    # It may be llama.cpp all the same, which stops generations of others here.
    assert "/v1/chat/completions/control" in entry.proxy_denied


def test_the_file_that_an_engine_has_loaded_is_hidden_from_clients() -> None:
    model = ModelConfig(
        name="m", backend="llama_cpp", source="local_path", local_path="/models/m.gguf"
    )
    known = {"m": KnownRoute(name="m", number=1, created=1)}
    assert table(Config(models=[model]), [], known, {}).models[0].redacted_names == [
        "/models/m.gguf"
    ]


@pytest.mark.parametrize(("name", "served_name"), [("m", "m"), ("org/m", "m")])
def test_an_engine_that_cannot_be_told_a_name_is_asked_by_its_own(
    name: str, served_name: str
) -> None:
    model = ModelConfig(
        name=name, backend="tensorrt_llm", source="local_path", local_path="/models/other"
    )
    known = {name: KnownRoute(name=name, number=1, created=1)}
    (entry,) = table(Config(models=[model]), [], known, {}).models
    assert entry.served_name == served_name
    assert entry.redacted_names == ["/models/other"]


def test_a_model_without_any_instance_is_still_a_route() -> None:
    told = table(CONFIG, [], KNOWN, {})
    assert [model.instances for model in told.models] == [[], []]
    assert len(told.routes) == 3


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
    assert key_entry(key) == KeyEntry(
        id="0123456789abcdef",
        digest="11" * 32,
        name="alice",
        allowed_models=["a"],
        scopes=["inference"],
        expires=2,
    )


def test_requests_wait_for_the_models_that_can_be_woken_as_their_configuration_says() -> None:
    sleepy = structs.replace(SMOLLM2, wake_queue=7, wake_timeout=20)
    config = structs.replace(CONFIG, models=[sleepy, REMOTE])
    models = table(config, [], KNOWN, {}, {"smollm2"}).models
    assert [model.wake for model in models] == [Wake(queue=7, timeout=20), None]
    assert table(config, REPLICAS, KNOWN, {}).models[0].wake is None
