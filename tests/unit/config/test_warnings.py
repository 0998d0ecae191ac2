"""What a right configuration may say that nobody can mean, and variables that mean nothing."""

from __future__ import annotations

import pytest

from gpustack_fast.config import Config, ModelConfig, RouteConfig, ServerConfig, TargetConfig
from gpustack_fast.config.settings import OTHER_VARIABLES, SETTINGS
from gpustack_fast.config.warnings import missing_variables, unknown_variables, warnings_of


def their(name: str, *urls: str, key: str | None = None) -> ModelConfig:
    return ModelConfig(name=name, backend="external", urls=list(urls), api_key_env=key)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GPUSTACK_FAST_PROT", "GPUSTACK_FAST_PORT"),
        ("GPUSTACK_FAST_LOG_LEVEL", "GPUSTACK_FAST_LOG"),
        ("GPUSTACK_FAST_DATADIR", "GPUSTACK_FAST_DATA_DIR"),
        ("GPUSTACK_FAST_BOOTSTRAP_KEYS", "GPUSTACK_FAST_BOOTSTRAP_KEY"),
        ("GPUSTACK_FAST_TIMEOUT_IDLE", "GPUSTACK_FAST_TIMEOUTS_IDLE"),
    ],
)
@pytest.mark.parametrize("config", [None, Config.default()], ids=["keys", "check and serve"])
def test_a_variable_with_a_slip_is_told_with_the_one_that_was_meant(
    name: str, meant: str, config: Config | None
) -> None:
    [told] = unknown_variables({name: "hush", "PATH": "/bin"}, config)
    assert f"`{name}` is not known, and does nothing. Did you mean `{meant}`?" in told
    assert "hush" not in told


def test_a_variable_like_none_of_ours_may_be_the_key_of_an_engine() -> None:
    environment = {"GPUSTACK_FAST_XYZZY": "hush"}
    [told] = unknown_variables(environment, Config.default())
    assert "`GPUSTACK_FAST_XYZZY` is not known" in told and "Unset it" in told
    named = Config(models=[their("a", "http://h:1", key="GPUSTACK_FAST_XYZZY")])
    assert unknown_variables(environment, named) == []
    assert unknown_variables(environment, None) == [], "the configuration may name it"


def test_no_variable_of_ours_and_none_of_kubernetes_is_told() -> None:
    ours = [*(setting.variable for setting in SETTINGS), *OTHER_VARIABLES]
    kubernetes = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8080_TCP"]
    kubernetes += [f"PORT_8080_TCP_{part}" for part in ("PROTO", "PORT", "ADDR")]
    names = [*ours, *(f"GPUSTACK_FAST_{name}" for name in kubernetes), "GPUSTACK_TOKEN", "gpustack"]
    assert unknown_variables(dict.fromkeys(names, ""), Config.default()) == []


def test_a_variable_that_will_be_needed_is_told_without_what_others_hold() -> None:
    config = Config(models=[their("a", "http://h:1", key="A"), their("b", "http://h:2", key="B")])
    [told] = missing_variables(config, {"B": "hush"})
    assert "`A` with the key of the engines of the model `a` is not set here. Set it" in told


def test_what_nobody_can_mean_is_told() -> None:
    assert warnings_of(Config.default()) == []
    ours = ModelConfig(name="none", backend="llama_cpp", source="local_path", replicas=0)
    taken = RouteConfig(name="taken", targets=[TargetConfig(model="here")])
    config = Config(
        models=[ours, their("taken", "http://h:1"), their("here", "http://127.0.0.1:8080")],
        routes=[taken],
    )
    unused, empty, circle = warnings_of(config)
    assert "No route leads to the model `taken`" in unused and "Add it" in unused
    assert "Nobody can reach the route `none`: its models have `replicas = 0`." in empty
    assert "`http://127.0.0.1:8080` of the model `here` is that of this server itself" in circle


@pytest.mark.parametrize(
    ("host", "port", "url", "here"),
    [
        ("127.0.0.1", 80, "http://localhost:80", True),
        ("0.0.0.0", 80, "http://127.0.0.1:80", True),
        ("::", 80, "http://[::1]:80", True),
        ("10.0.0.1", 80, "http://10.0.0.1:80", True),
        ("10.0.0.1", 80, "http://127.0.0.1:80", False),
        ("127.0.0.1", 80, "http://127.0.0.1:81", False),
        ("127.0.0.1", 80, "unix:/run/x.sock", False),
        ("0.0.0.0", 80, "http://10.0.0.1:80", False),
    ],
)
def test_an_engine_at_the_server_s_own_address_is_a_circle(
    host: str, port: int, url: str, here: bool
) -> None:
    config = Config(server=ServerConfig(host=host, port=port), models=[their("a", url)])
    assert bool(warnings_of(config)) == here
