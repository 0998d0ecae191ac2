"""Our command lines, read by vLLM's own parser: no engine is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend_samples import adapter, config, facts, place

from gpustack_fast.backends import BACKENDS, Shape
from gpustack_fast.config import ModelConfig
from vllm_python import VllmPython

PROGRAM = Path(__file__).with_name("vllm_parse.py")


def parsed(python: VllmPython, lines: list[list[str]]) -> list[dict[str, Any]]:
    """What vLLM's parser makes of each of these words behind `vllm serve`."""
    output = python.run(PROGRAM, json.dumps(lines))
    found: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
    return found


def words(model: ModelConfig, folder: Path, **more: Any) -> list[str]:
    """Our command line from `serve` on, without it."""
    return BACKENDS["vllm"].command(model, place(folder, **more)).arguments[4:]


def test_vllm_reads_our_command_lines_as_they_are_meant(
    tmp_path: Path, vllm_python: VllmPython
) -> None:
    lora = {"one": adapter(tmp_path / "a", 4), "two words": adapter(tmp_path / "b", 24)}
    qwen = config("vllm", huggingface_repo_id="Qwen/Qwen3-8B", name="Qwen/Qwen3-8B")
    gpus: dict[str, Any] = {
        "facts": facts(),
        "devices": ("0", "1", "2", "3"),
        "shape": Shape(tensor=2, pipeline=2),
        "share": 0.41234567,
    }
    odd = tmp_path / "--host 0.0.0.0"
    odd.mkdir()
    lines = [
        words(config("vllm"), tmp_path),
        words(qwen, tmp_path, adapters=lora, **gpus),
        words(config("vllm", categories=["embedding"]), odd),
        words(config("vllm", "--max_model_len", "32k", "-tp", "2"), tmp_path, facts=facts()),
        words(config("vllm", "--no-enable-prompt-tokens-details"), tmp_path),
    ]
    plain, full, embedding, own, less = parsed(vllm_python, lines)
    assert plain["model_tag"] == str(tmp_path)
    assert (plain["uds"], plain["served_model_name"]) == ("/run/m-abcde.sock", ["m"])
    assert plain["enable_prompt_tokens_details"] and plain["enable_request_id_headers"]
    assert plain["disable_uvicorn_access_log"] and plain["shutdown_timeout"] == 10
    assert (full["tensor_parallel_size"], full["pipeline_parallel_size"]) == (2, 2)
    assert full["gpu_memory_utilization"] == 0.412345 and full["max_model_len"] == 8192
    assert full["enable_auto_tool_choice"] and full["tool_call_parser"] == "hermes"
    assert full["reasoning_parser"] == "qwen3"
    assert full["adapters"] == ["one", "two words"]
    assert (full["max_loras"], full["max_lora_rank"]) == (2, 32)
    assert embedding["model_tag"] == str(odd) and embedding["host"] is None
    assert (embedding["runner"], embedding["convert"]) == ("pooling", "embed")
    assert (own["max_model_len"], own["tensor_parallel_size"]) == (32_000, 2)
    assert less["enable_prompt_tokens_details"] is False


def test_what_we_refuse_is_what_vllm_refuses(tmp_path: Path, vllm_python: VllmPython) -> None:
    lines = [
        ["--max-modl-len=1"],
        ["--max-num-seqs"],
        ["--enforce-eager=1"],
        ["--enable-auto-tool-choice"],
        ["--monokernel"],
    ]
    for line in lines:
        model = config("vllm", *line, backend_version="0.32.0")
        assert len(list(BACKENDS["vllm"].check(model))) == 1, line
    assert all("refused" in one for one in parsed(vllm_python, [["/m", *line] for line in lines]))


def test_what_we_let_through_vllm_takes(tmp_path: Path, vllm_python: VllmPython) -> None:
    lines = [
        ["--kv-events-config.publisher", "zmq"],
        ["-O3"],
        ["--data_parallel_size=2", "-ep"],
        ["--lora-modules", "a=/a", "b=/b", "--enable-lora"],
        ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4}'],
        ["--max-model-len", "-1"],
    ]
    for line in lines:
        model = config("vllm", *line, backend_version="0.32.0")
        assert list(BACKENDS["vllm"].check(model)) == [], line
    assert all(
        "refused" not in one for one in parsed(vllm_python, [["/m", *line] for line in lines])
    )


def test_the_recorded_flags_are_those_of_this_vllm(tmp_path: Path, vllm_python: VllmPython) -> None:
    """`engines/vllm/record`, into another folder."""
    root = Path(__file__).parents[2]
    script = tmp_path / "engines" / "vllm" / "record"
    script.parent.mkdir(parents=True)
    script.write_bytes((root / "engines" / "vllm" / "record").read_bytes())
    recorded = tmp_path / "python" / "gpustack_fast" / "backends" / "recorded"
    recorded.mkdir(parents=True)
    vllm_python.run(script)
    (made,) = recorded.iterdir()
    kept = root / "python" / "gpustack_fast" / "backends" / "recorded" / made.name
    assert made.read_text() == kept.read_text()
    (shown,) = script.parent.glob("flags-*.txt")
    assert shown.read_text() == (root / "engines" / "vllm" / shown.name).read_text()
