"""TensorRT-LLM, SGLang, vLLM-Omni and custom programs as values. The first three were never run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from backend_samples import GIB, adapter, config, facts, place
from hypothesis import given as examples
from hypothesis import strategies as st

from gpustack_fast.backends import (
    BACKENDS,
    ENGINES,
    BackendError,
    Shape,
    facts_of,
    ready_path_of,
    tensorrt_llm,
)
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.engine_log import cause_of
from gpustack_fast.sizing import UNKNOWN, Load, estimate

TRT = BACKENDS["tensorrt_llm"]
SGLANG = BACKENDS["sglang"]
OMNI = BACKENDS["vllm_omni"]
CUSTOM = BACKENDS["custom"]
SERVED_BY_PORT = [TRT, SGLANG, OMNI, CUSTOM]

# TensorRT-LLM, against the table of its options (unverified: its own parser needs a GPU).


def test_tensorrt_llm_sees_its_files_under_the_models_name(tmp_path: Path) -> None:
    model = config("tensorrt_llm", name="Qwen/Qwen3-8B")
    command = TRT.command(model, place(tmp_path))
    own = Path("/run/m-abcde.d")
    assert command.arguments == [
        "/env/bin/python",
        "-m",
        "tensorrt_llm.commands.serve",
        "serve",
        "/run/m-abcde.d/Qwen3-8B",
        "--host=127.0.0.1",
        "--port=40001",
        "--config=/run/m-abcde.d/settings.yaml",
    ]
    assert command.links == {own / "Qwen3-8B": tmp_path}
    assert facts_of(model).served_name == "Qwen3-8B"
    assert facts_of(config("tensorrt_llm")).served_name == "m"


def test_tensorrt_llm_is_told_how_many_tokens_its_cache_may_hold(tmp_path: Path) -> None:
    where = place(tmp_path, facts=facts(), devices=("1", "3"), shape=Shape(tensor=2))
    command = TRT.command(config("tensorrt_llm"), where)
    (text,) = command.files.values()
    assert json.loads(text) == {
        "kv_cache_config": {"max_tokens": 8 * 8192, "free_gpu_memory_fraction": 0.9}
    }
    assert "--tensor_parallel_size=2" in command.arguments
    assert "--max_seq_len=8192" in command.arguments
    assert command.environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert command.environment["TRTLLM_RESPONSES_API_DISABLE_STORE"] == "1"
    # What is bounded is what was reckoned.
    assert TRT.demands is not None
    demand = TRT.demands(config("tensorrt_llm"), facts(), 2)[1]
    assert demand.least == estimate(facts(), Load(tensor=2, context=8192, sequences=8)).total


@pytest.mark.parametrize(
    ("parameters", "share", "own_settings"),
    [
        (["--max_batch_size=4"], None, True),
        (["--free_gpu_memory_fraction", "0.5"], 0.5, False),
        (["--kv_cache_free_gpu_memory_fraction=0.5"], 0.5, False),
        (["--extra-llm-api-options=/f.yaml"], 0.9, False),
    ],
)
def test_who_bounds_the_cache_himself_gets_a_share(
    tmp_path: Path, parameters: list[str], share: float | None, own_settings: bool
) -> None:
    model = config("tensorrt_llm", *parameters)
    assert TRT.demands is not None
    assert TRT.demands(model, facts(), 1)[0].share == share
    assert bool(TRT.command(model, place(tmp_path)).files) is own_settings


def test_every_option_that_tensorrt_llm_is_given_is_in_the_table(tmp_path: Path) -> None:
    where = place(tmp_path, facts=facts(), shape=Shape(tensor=2, pipeline=2))
    arguments = TRT.command(config("tensorrt_llm"), where).arguments
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert given <= set(tensorrt_llm.OPTIONS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["--port=1"], "--port is not to be set"),
        (["--tp_sise=2"], "Did you mean --tp_size?"),
        (["--max-batch-sise=2"], "Did you mean --max_batch_size?"),
        (["--trust_remote_code=1"], "takes no value"),
        (["--server_role=context"], "an instance serves by itself here"),
    ],
)
def test_options_that_trtllm_serve_would_refuse_are_rejected(
    parameters: list[str], message: str
) -> None:
    ((_, problem),) = list(TRT.check(config("tensorrt_llm", *parameters)))
    assert message in problem
    other = config("tensorrt_llm", "--new_option=1", backend_version="1.4.0")
    assert list(TRT.check(other)) == []
    assert TRT.doubts is not None
    (doubt,) = TRT.doubts(other)
    assert "Compare them with what `trtllm-serve serve --help` of its environment lists." in doubt


def test_tensorrt_llm_s_sizes_may_be_the_users() -> None:
    assert TRT.demands is not None
    (demand,) = TRT.demands(config("tensorrt_llm", "--tp_size=2", "--pp-size", "2"), facts(), 8)
    assert demand.shape == Shape(tensor=2, pipeline=2)


def test_options_reach_trtllm_serve_with_its_own_signs(tmp_path: Path) -> None:
    """It knows them with underscores alone, and people write both."""
    words = ["--tp-size", "2", "--max-batch-size=4", "--log_level=a-b_c", "--chat-template", "a-b"]
    arguments = TRT.command(config("tensorrt_llm", *words), place(tmp_path)).arguments
    assert arguments[-6:] == [
        "--tp_size",
        "2",
        "--max_batch_size=4",
        "--log_level=a-b_c",
        "--chat_template",
        "a-b",
    ]


# SGLang and vLLM-Omni.


def test_sglang_listens_on_loopback_and_gets_no_key(tmp_path: Path) -> None:
    small = adapter(tmp_path / "lora")
    where = place(
        tmp_path,
        facts=facts(),
        devices=("0", "1"),
        shape=Shape(tensor=2),
        share=0.5,
        adapters={"small": small},
    )
    command = SGLANG.command(config("sglang", "--log-level=warning"), where)
    assert command.arguments == [
        "/env/bin/python",
        "-m",
        "sglang.launch_server",
        f"--model-path={tmp_path}",
        "--host=127.0.0.1",
        "--port=40001",
        "--served-model-name=m",
        "--enable-metrics",
        "--enable-cache-report",
        "--tp-size=2",
        "--context-length=8192",
        "--mem-fraction-static=0.4500",
        "--lora-paths",
        f"small={small}",
        "--max-loras-per-batch=2",
        "--log-level=warning",
    ]
    assert "the-engine-key" not in str(command)


def test_sglang_s_flags_of_the_user_win(tmp_path: Path) -> None:
    words = ["--tp=4", "--mem-fraction-static", "0.8", "--context-length=1024", "--enable-metrics"]
    spelt = ["--tp=4", "--mem_fraction_static", "0.8", "--context_length=1024", "--enable-metrics"]
    where = place(tmp_path, facts=facts(), devices=("0",), shape=Shape(tensor=4), share=0.9)
    arguments = SGLANG.command(config("sglang", *words), where).arguments
    assert arguments[7:] == ["--enable-cache-report", *words]
    assert SGLANG.command(config("sglang", *spelt), where).arguments == arguments
    assert SGLANG.demands is not None
    (demand,) = SGLANG.demands(config("sglang", *words), facts(), 8)
    assert demand.shape == Shape(tensor=4)
    assert demand.share == pytest.approx(0.8 / 0.9)
    # Copies for attention share the GPUs of the tensors.
    attention = config("sglang", "--tp=4", "--dp=4", "--enable-dp-attention")
    assert [one.shape.gpus for one in SGLANG.demands(attention, facts(), 8)] == [4]
    ((_, problem),) = list(SGLANG.check(config("sglang", "--api-key", "k")))
    assert "requests would not carry that key" in problem


def test_vllm_omni_is_vllm_with_a_port(tmp_path: Path) -> None:
    model = config("vllm_omni", "--omni", python="/opt/omni/bin/python")
    arguments = OMNI.command(model, place(tmp_path, version="")).arguments
    assert arguments[3:9] == [
        "serve",
        str(tmp_path),
        "--omni",
        "--host=127.0.0.1",
        "--port=40001",
        "--served-model-name=m",
    ]
    assert arguments.count("--omni") == 1 and "--shutdown-timeout=10" in arguments
    ((_, problem),) = list(OMNI.check(config("vllm_omni", "--port=1")))
    assert "--port is not to be set" in problem
    assert OMNI.demands is not None and OMNI.demands(model, facts(), 2)[0].tells_share


@pytest.mark.parametrize("backend", SERVED_BY_PORT, ids=lambda one: one.name)
def test_without_a_port_nothing_is_started(backend: Any, tmp_path: Path) -> None:
    model = config(backend.name, run_command=f"{sys.executable} {{{{port}}}}")
    assert backend.over_tcp
    with pytest.raises(BackendError, match="has no port to listen at"):
        backend.command(model, place(tmp_path, port=None))


@pytest.mark.parametrize("name", ["vllm", "tensorrt_llm", "sglang", "vllm_omni", "custom"])
def test_a_slice_of_a_gpu_is_given_to_those_alone_that_are_known_to_take_it(
    name: str, tmp_path: Path
) -> None:
    backend = BACKENDS[name]
    model = config(name, run_command=f"{sys.executable} {{{{port}}}}")
    where = place(tmp_path, devices=("MIG-1d4c",))
    if backend.takes_slices:
        assert backend.command(model, where).environment["CUDA_VISIBLE_DEVICES"] == "MIG-1d4c"
    else:
        with pytest.raises(BackendError, match="Choose whole GPUs with gpu_selector"):
            backend.command(model, where)


# Custom programs.


def custom(run_command: str | None, *parameters: str, **more: Any) -> ModelConfig:
    return config("custom", *parameters, run_command=run_command, **more)


def test_a_custom_program_gets_gpustack_s_placeholders(tmp_path: Path) -> None:
    model = custom(
        f"{sys.executable} serve {{{{model_path}}}} --name={{{{model_name}}}} "
        "--on {{worker_ip}}:{{ port }} --gpus {{gpu_count}} --ids {{gpu_ids}} {{MODE}}",
        "--more",
        env={"MODE": "fast one"},
    )
    command = CUSTOM.command(model, place(tmp_path, devices=("0", "3")))
    assert command.arguments == [
        sys.executable,
        "serve",
        str(tmp_path),
        "--name=m",
        "--on",
        "127.0.0.1:40001",
        "--gpus",
        "2",
        "--ids",
        "0,3",
        "fast one",
        "--more",
    ]
    assert command.environment == {
        "ENGINE_API_KEY": "the-engine-key",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "0,3",
    }


def test_no_value_becomes_a_word_or_a_placeholder_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "a b; {{port}} 'c' $(d)"
    folder.mkdir()
    model = custom(
        f"{sys.executable} {{{{model_path}}}} '{{{{X}}}}' {{{{port}}}}", env={"X": "{{port}}"}
    )
    arguments = CUSTOM.command(model, place(folder)).arguments
    assert arguments[1:] == [str(folder), "{{port}}", "40001"]


def test_a_custom_program_that_does_not_ask_for_files_needs_none(tmp_path: Path) -> None:
    absent = place(tmp_path / "absent")
    model = custom(f"{sys.executable} --model_path=/of/its/own {{{{port}}}}")
    assert CUSTOM.command(model, absent).arguments[1] == "--model_path=/of/its/own"
    with pytest.raises(BackendError, match="are not there"):
        CUSTOM.command(custom("x {{port}} {{ model_path }}"), absent)


def test_a_custom_program_is_found_in_the_environment_that_is_named(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "my-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    model = custom("my-server {{port}}", python=str(program.with_name("python")))
    command = CUSTOM.command(model, place(tmp_path))
    assert command.arguments[0] == str(program)
    assert command.environment["PATH"].startswith(f"{program.parent}:")
    with pytest.raises(BackendError, match="The program my-server of the model m is not there"):
        CUSTOM.command(custom("my-server {{port}}"), place(tmp_path))
    assert shutil.which("my-server") is None


PIECES = st.sampled_from(
    ["x", " ", "{{port}}", "{{", "}}", "{{ model_name }}", "{{X}}", "'", '"', "\\", "#", "é", "\n"]
)


@examples(st.lists(PIECES, max_size=8).map("".join))
def test_any_command_line_is_told_or_run_with_as_many_words_as_it_has(text: str) -> None:
    model = custom(f"{sys.executable} {text}", env={"X": "a b 'c"})
    assert CUSTOM.check_fields is not None
    if list(CUSTOM.check_fields(model)):
        return
    words = shlex.split(text.replace("{{ model_name }}", "{{model_name}}"))
    arguments = CUSTOM.command(model, place(Path("/"))).arguments[1:]
    assert len(arguments) == len(words)
    for word, argument in zip(words, arguments, strict=True):
        filled = word.replace("{{port}}", "40001").replace("{{model_name}}", "m")
        assert argument == filled.replace("{{X}}", "a b 'c")


@pytest.mark.parametrize(
    ("run_command", "message"),
    [
        (None, "has no run_command. Write the command line"),
        ("serve 'x {{port}}", "has a quote that does not end"),
        ("  ", "is empty"),
        ("serve {{prot}}", "names {{prot}}, which is not known. Write one of {{model_path}}"),
        ("serve --port 80", "does not say where to listen. Add {{port}}"),
        ("serve {{port}} a\0b", "holds a zero byte"),
    ],
)
def test_a_command_line_that_cannot_be_right_is_told(run_command: str | None, message: str) -> None:
    assert CUSTOM.check_fields is not None
    ((field, problem),) = list(CUSTOM.check_fields(custom(run_command)))
    assert field == "run_command" and message in problem


@pytest.mark.parametrize("path", ["up", "/a b", "/\r\nX-Other: 1", "/é"])
def test_a_variable_that_names_no_health_path_is_told(path: str) -> None:
    model = custom("x {{port}}", env={"GPUSTACK_MODEL_HEALTH_CHECK_PATH": path})
    assert CUSTOM.check_fields is not None
    ((field, problem),) = list(CUSTOM.check_fields(model))
    assert field == "env" and "is no path. Write one that begins with `/`" in problem


def test_of_a_custom_program_only_inference_paths_are_reached() -> None:
    found = facts_of(custom("x {{port}}"))
    assert found.inference_paths_only
    assert set(found.admin_paths) == set(ENGINES["openai"].facts.admin_paths)


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({}, "/health"),
        ({"health_path": "/v1/models"}, "/v1/models"),
        ({"env": {"GPUSTACK_MODEL_HEALTH_CHECK_PATH": "/up"}}, "/up"),
        ({"env": {"GPUSTACK_MODEL_HEALTH_CHECK_PATH": ""}}, "/health"),
    ],
)
def test_a_custom_program_is_ready_when_its_path_says_so(more: dict[str, Any], path: str) -> None:
    assert ready_path_of(custom("x {{port}}", **more)) == path
    assert ready_path_of(config("vllm")) == "/health"


@pytest.mark.parametrize(
    ("run_command", "more", "gpus"),
    [
        ("x {{port}}", {}, [1]),
        ("x {{port}} {{gpu_count}}", {}, [1, 2, 4]),
        ("x {{port}} {{ gpu_count }}", {}, [1, 2, 4]),
        ("x {{port}} --gpu_count=1", {}, [1]),
        ("x {{port}}", {"gpu_selector": {"gpus_per_replica": 2}}, [2]),
    ],
)
def test_a_custom_program_gets_several_gpus_where_it_is_told_how_many(
    run_command: str, more: dict[str, Any], gpus: list[int]
) -> None:
    assert CUSTOM.demands is not None
    model = custom(run_command, **more)
    assert [one.shape.gpus for one in CUSTOM.demands(model, facts(), 4)] == gpus
    claimed = custom(run_command, env={"GPUSTACK_MODEL_VRAM_CLAIM": str(8 * GIB)}, **more)
    assert {one.least * one.shape.gpus for one in CUSTOM.demands(claimed, facts(), 4)} == {8 * GIB}


@pytest.mark.parametrize("gpus", [1, 3])
def test_files_that_nobody_can_read_are_placed_by_the_users_word_alone(gpus: int) -> None:
    assert CUSTOM.demands is not None
    chosen = {"gpu_selector": {"gpus_per_replica": gpus}}
    with pytest.raises(BackendError, match="GPUSTACK_MODEL_VRAM_CLAIM"):
        CUSTOM.demands(custom("x {{port}}", **chosen), UNKNOWN, 4)
    word = {"GPUSTACK_MODEL_VRAM_CLAIM": str(3 * GIB)}
    (demand,) = CUSTOM.demands(custom("x {{port}}", env=word, **chosen), UNKNOWN, 4)
    assert demand.shape.gpus == gpus and demand.least == 3 * GIB // gpus


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (
            "OSError: /m does not appear to have a file named pytorch_model.bin, model.safetensors",
            "A file is missing",
        ),
        (
            "ValueError: User-specified max_model_len (99999) is greater than the derived "
            "max_model_len (max_position_embeddings=2048)",
            "The model cannot look back",
        ),
        (
            "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'",
            "Its processes talk through /dev/shm",
        ),
        (
            "RuntimeError: unable to allocate shared memory(shm) for file </torch_1>",
            "Its processes talk through /dev/shm",
        ),
        (
            "torch.distributed.DistBackendError: NCCL error in: x.cpp:94, unhandled cuda error",
            "Its GPUs cannot talk to each other",
        ),
    ],
)
def test_the_causes_that_vllm_names_are_told(tmp_path: Path, line: str, meaning: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"Traceback (most recent call last):\n{line}\n")
    assert cause_of(log, BACKENDS["vllm"].causes).startswith(meaning)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_what_a_log_tells_is_told_in_sentences_with_the_next_step(backend: Any) -> None:
    for sign in backend.stages:
        assert sign.text and not sign.meaning.endswith(".")
    for sign in backend.causes:
        assert sign.text.strip() == sign.text
        assert re.fullmatch(r"[A-Z].*\.", sign.meaning) and ". " in sign.meaning, sign
        assert "started again" not in sign.meaning, "restart_on_error may forbid it"
    assert 5 <= backend.stop_grace <= 60
