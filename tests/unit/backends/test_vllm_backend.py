"""vLLM as a value: its command line, its environment, and what it asks of GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from backend_samples import GIB, adapter, config, facts, place

from gpustack_fast.backends import BACKENDS, BackendError, Shape, facts_of, vllm
from gpustack_fast.backends.vllm_memory import human, kv_space
from gpustack_fast.config import ModelConfig
from gpustack_fast.sizing import Load, estimate

VLLM = BACKENDS["vllm"]
ALWAYS = [
    "--enable-request-id-headers",
    "--enable-prompt-tokens-details",
    "--disable-uvicorn-access-log",
    "--shutdown-timeout=10",
]
QWEN = {"huggingface_repo_id": "Qwen/Qwen3-8B"}


def flags(model: ModelConfig, files: Path, **more: Any) -> list[str]:
    """What stands behind the model's files, the socket and the name."""
    return VLLM.command(model, place(files, **more)).arguments[7:]


def test_vllm_is_started_on_its_socket_under_the_public_name(tmp_path: Path) -> None:
    arguments = VLLM.command(config("vllm"), place(tmp_path)).arguments
    assert arguments == [
        "/env/bin/python",
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(tmp_path),
        "--uds=/run/m-abcde.sock",
        "--served-model-name=m",
        *ALWAYS,
    ]


def test_its_key_and_switches_are_in_the_environment_and_no_key_in_the_arguments(
    tmp_path: Path,
) -> None:
    command = VLLM.command(config("vllm"), place(tmp_path))
    assert command.environment == {
        "VLLM_API_KEY": "the-engine-key",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
        "VLLM_CPU_KVCACHE_SPACE": "4",
    }
    assert not any("the-engine-key" in argument for argument in command.arguments)
    assert not command.files and not command.links


def test_gpus_are_named_in_the_order_of_the_bus(tmp_path: Path) -> None:
    where = place(tmp_path, devices=("2", "0"), shape=Shape(tensor=2), share=0.5)
    variables = VLLM.command(config("vllm"), where).environment
    assert variables["CUDA_VISIBLE_DEVICES"] == "2,0"
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "VLLM_CPU_KVCACHE_SPACE" not in variables


@pytest.mark.parametrize(
    ("parameters", "more", "at", "expected"),
    [
        # The share that was claimed is not rounded up, and not told without GPUs.
        ([], {}, {"devices": ("0",), "share": 0.4}, ["--gpu-memory-utilization=0.4"]),
        ([], {}, {"devices": ("0",), "share": 0.12345678}, ["--gpu-memory-utilization=0.123456"]),
        ([], {}, {"share": 0.4}, []),
        (["--gpu_memory_utilization", "0.3"], {}, {"devices": ("0",), "share": 0.3}, []),
        # Sizes, unless the user has said one of them.
        (
            [],
            {},
            {"shape": Shape(tensor=4, pipeline=2)},
            ["--tensor-parallel-size=4", "--pipeline-parallel-size=2"],
        ),
        (["-tp", "4"], {}, {"shape": Shape(tensor=4)}, []),
        (["--data-parallel-size=2"], {}, {"shape": Shape(data=2)}, []),
        # The longest request by GPUStack's rule.
        ([], {}, {"facts": facts()}, ["--max-model-len=8192"]),
        ([], {}, {"facts": facts(context=2048)}, []),
        (["--max-model-len=auto"], {}, {"facts": facts()}, []),
        (["--max-model-len", "-1"], {}, {"facts": facts()}, []),
        ([], {"categories": ["speech_to_text"]}, {"facts": facts()}, []),
        ([], {"categories": ["image"]}, {"facts": facts()}, []),
        # What a category means.
        ([], {"categories": ["embedding"]}, {}, ["--runner=pooling", "--convert=embed"]),
        ([], {"categories": ["reranker"]}, {}, ["--runner=pooling", "--convert=classify"]),
        ([], {"categories": ["llm", "embedding"]}, {}, []),
        (["--runner", "pooling"], {"categories": ["embedding"]}, {}, []),
        # Parsers of families that are known, as far as the version has them.
        (
            [],
            QWEN,
            {"facts": facts(context=4096)},
            ["--enable-auto-tool-choice", "--tool-call-parser=hermes", "--reasoning-parser=qwen3"],
        ),
        ([], QWEN, {"facts": facts(context=4096), "version": "9.9.9"}, []),
        ([], QWEN, {}, []),
        (
            ["--tool-call-parser=qwen3_xml", "--enable-auto-tool-choice"],
            QWEN,
            {"facts": facts(context=4096)},
            ["--reasoning-parser=qwen3"],
        ),
        (
            ["--no-enable-auto-tool-choice", "--reasoning-parser="],
            QWEN,
            {"facts": facts(context=4096)},
            [],
        ),
        (
            [],
            {**QWEN, "categories": ["embedding"]},
            {"facts": facts(context=4096)},
            ["--runner=pooling", "--convert=embed"],
        ),
    ],
)
def test_flags_follow_from_model_and_place_and_the_users_win(
    tmp_path: Path,
    parameters: list[str],
    more: dict[str, Any],
    at: dict[str, Any],
    expected: list[str],
) -> None:
    found = flags(config("vllm", *parameters, **more), tmp_path, **at)
    assert found == [*ALWAYS, *expected, *parameters]


def test_the_users_flags_replace_those_that_are_always_there(tmp_path: Path) -> None:
    words = ["--shutdown_timeout", "60", "--no-enable-prompt-tokens-details"]
    found = flags(config("vllm", *words), tmp_path)
    assert found == [
        "--enable-request-id-headers",
        "--disable-uvicorn-access-log",
        *words,
    ]


def test_adapters_are_named_with_the_room_that_the_largest_needs(tmp_path: Path) -> None:
    small, large = adapter(tmp_path / "a", 4), adapter(tmp_path / "b", 24)
    found = flags(config("vllm"), tmp_path, adapters={"one": small, "t wo": large})
    assert found[len(ALWAYS) :] == [
        "--enable-lora",
        "--max-loras=2",
        "--max-lora-rank=32",
        "--lora-modules",
        json.dumps({"name": "one", "path": str(small)}),
        json.dumps({"name": "t wo", "path": str(large)}),
    ]


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[" * 100_000])
def test_an_adapter_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(BackendError, match="Check the adapter in lora_list"):
        flags(config("vllm"), tmp_path, adapters={"one": tmp_path})


def test_an_adapter_s_folder_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").symlink_to("/dev/zero")
    with pytest.raises(BackendError, match="cannot be read: it is a device, and no file"):
        flags(config("vllm"), tmp_path, adapters={"one": tmp_path})


@pytest.mark.parametrize(
    ("content", "rank"),
    [({"r": 600}, 512), ({"r": 8, "rank_pattern": {"q_proj": 40, "k_proj": "x"}}, 64)],
)
def test_an_adapter_gets_the_room_of_its_highest_rank_as_far_as_vllm_goes(
    tmp_path: Path, content: dict[str, Any], rank: int
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    found = flags(config("vllm"), tmp_path, adapters={"one": tmp_path})
    assert f"--max-lora-rank={rank}" in found


def test_it_has_time_for_its_own_end_before_it_is_killed() -> None:
    (drain,) = [one for one in ALWAYS if one.startswith("--shutdown-timeout=")]
    # Its watchdog looks every 5 s.
    assert VLLM.stop_grace > float(drain.partition("=")[2]) + 5


@pytest.mark.parametrize("content", [b"[]", b'{"r": "x"}', b"1"])
def test_an_adapter_that_does_not_tell_its_rank_gets_room_for_a_usual_one(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "adapter_config.json").write_bytes(content)
    assert "--max-lora-rank=16" in flags(config("vllm"), tmp_path, adapters={"one": tmp_path})


@pytest.mark.parametrize("name", ["a:b", "Qwen/Qwen3-8B", "x-1.5"])
def test_a_name_or_a_folder_is_one_word_whatever_is_in_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "--host 0.0.0.0;$(reboot)"
    folder.mkdir()
    arguments = VLLM.command(config("vllm", name=name), place(folder)).arguments
    assert arguments[4] == str(folder) and arguments[4].startswith("/")
    assert f"--served-model-name={name}" in arguments


def test_a_gguf_model_is_loaded_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    where = place(tmp_path, facts=facts(format="gguf", context=0))
    assert VLLM.command(config("vllm"), where).arguments[4] == str(tmp_path / "m.gguf")


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="are not there, or this user may not read them"):
        VLLM.command(config("vllm"), place(tmp_path / "none"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["--port=1"], "--port is not to be set: the server itself decides where it listens."),
        (["--served_model_name", "x"], "name a route under [[routes]]"),
        (["--api-key=k"], "the server gives it a key of its own"),
        (["--device-ids", "0"], "Write gpu_selector instead"),
        (["--headless"], "an instance runs on one machine"),
        (["-pcp", "2"], "-pcp is not to be set: the GPUs of an instance are counted by tensor"),
        (["--nnodes=2"], "an instance runs on one machine"),
        (["-dpr", "1"], "an instance runs on one machine"),
        (["--config", "f.yaml"], "Write its flags into backend_parameters"),
        (["--tensor-par=2"], "Did you mean --tensor-parallel-size?"),
        (["--bogus"], "is not known to vLLM 0.32.0 or 0.33.0. Remove it, or correct it."),
        (["--hots=x"], "is not known to vLLM 0.32.0 or 0.33.0. Remove it, or correct it."),
        (["--max-modl-len=1"], "Did you mean --max-model-len?"),
        (
            ["--max-model-len=lots"],
            "What --max-model-len has is no number above 0 that vLLM reads.",
        ),
        (["--max_model_len", "1.5K"], "Write one such as 32768, 32k (thousands) or 32K"),
        (["--max-model-len=0"], "is no number above 0 that vLLM reads"),
        (["--compilation-config", "{bad json"], "What --compilation-config has is no JSON"),
        (["--max-num-batched-tokens=auto"], "is no number above 0 that vLLM reads"),
        (["--kv-cache-memory-bytes=" + "9" * 400], "is no number above 0 that vLLM reads"),
        (["--enable-auto-tool-choice"], "needs a --tool-call-parser beside it"),
        (["--swap-space", "4"], "The flag --swap-space is not known to vLLM 0.32.0 or 0.33.0."),
    ],
)
def test_flags_that_could_not_work_are_rejected(parameters: list[str], message: str) -> None:
    ((_, problem),) = list(VLLM.check(config("vllm", *parameters)))
    assert problem.startswith("The model m has wrong backend_parameters.") and message in problem


def test_a_flag_is_checked_against_the_version_that_is_named(tmp_path: Path) -> None:
    new = config("vllm", "--monokernel")
    assert list(VLLM.check(new)) == []
    old = config("vllm", "--monokernel", backend_version="0.32.0")
    ((_, problem),) = list(VLLM.check(old))
    assert "--monokernel is not known to vLLM 0.32.0" in problem
    with pytest.raises(BackendError, match=r"not known to vLLM 0\.32\.0"):
        VLLM.command(new, place(tmp_path))


@pytest.mark.parametrize(
    ("more", "doubtful"),
    [
        ({"backend_version": "0.31.0"}, True),
        ({"python": "/opt/vllm/bin/python"}, True),
        ({"backend_version": "0.33.0", "python": "/opt/vllm/bin/python"}, False),
        ({}, False),
    ],
)
def test_a_version_that_was_not_recorded_is_a_doubt_and_no_mistake(
    more: dict[str, Any], doubtful: bool
) -> None:
    model = config("vllm", "--max-model-len=1", **more)
    assert VLLM.doubts is not None
    assert list(VLLM.check(model)) == []
    told = list(VLLM.doubts(model))
    assert len(told) == doubtful
    assert all("only those of 0.32.0, 0.33.0" in one for one in told)
    ((_, problem),) = list(VLLM.check(config("vllm", "--uds=x", **more)))
    assert "--uds is not to be set" in problem


def test_of_a_version_that_was_not_recorded_the_beginnings_of_flags_are_understood_too() -> None:
    """As argparse does; where all flags are known, a beginning is told as a mistake."""
    model = config("vllm", "--hos", "0.0.0.0", "--api-k=x", backend_version="0.31.0")
    host, key = (problem for _, problem in VLLM.check(model))
    assert "--hos is not to be set" in host and "--api-k is not to be set" in key
    sized = config("vllm", "--gpu-memory-util=0.5", "--tensor-par=2", backend_version="0.31.0")
    assert VLLM.demands is not None and list(VLLM.check(sized)) == []
    (demand,) = VLLM.demands(sized, facts(), 8)
    assert (demand.share, demand.shape) == (0.5, Shape(tensor=2))
    ((_, problem),) = list(VLLM.check(config("vllm", "--gpu-memory-util=0.5")))
    assert "Did you mean --gpu-memory-utilization?" in problem
    # What more than one begins with is the engine's to refuse.
    assert list(VLLM.check(config("vllm", "--data-parallel=2", backend_version="0.31.0"))) == []


def test_lora_modules_stand_in_one_place_alone() -> None:
    adapters = [{"lora_name": "a", "local_path": "/a"}]
    model = config("vllm", "--lora-modules", "b=/b", lora_list=adapters)
    ((_, problem),) = list(VLLM.check(model))
    assert "Move the adapters into lora_list" in problem
    assert list(VLLM.check(config("vllm", "--lora-modules", "b=/b"))) == []


# What it asks of GPUs.


def shapes(model: ModelConfig, count: int, **more: Any) -> list[tuple[int, int, int]]:
    """Each shape once, in the order of the demands."""
    assert VLLM.demands is not None
    found = [one.shape for one in VLLM.demands(model, facts(**more), count)]
    return list(dict.fromkeys((one.tensor, one.pipeline, one.data) for one in found))


@pytest.mark.parametrize(
    ("parameters", "count", "more", "expected"),
    [
        ([], 8, {}, [(1, 1, 1), (2, 1, 1), (4, 1, 1), (8, 1, 1)]),
        ([], 3, {}, [(1, 1, 1), (2, 1, 1)]),
        ([], 0, {}, [(1, 1, 1)]),
        ([], 8, {"heads": 28}, [(1, 1, 1), (2, 1, 1), (4, 1, 1), (4, 2, 1)]),
        ([], 4, {"heads": 9, "kv_heads": 9}, [(1, 1, 1), (1, 2, 1), (1, 4, 1)]),
        # Of keys and values each GPU has as many, or each head is on as many.
        ([], 8, {"heads": 24, "kv_heads": 3}, [(1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 8, 1)]),
        ([], 2, {"heads": 128, "kv_heads": 1}, [(1, 1, 1), (2, 1, 1)]),
        (["-tp", "2", "-pp=2"], 1, {}, [(2, 2, 1)]),
        (["--data-parallel-size=4"], 8, {}, [(1, 1, 4)]),
    ],
)
def test_the_fewest_gpus_come_first_and_heads_are_divided_evenly(
    parameters: list[str], count: int, more: dict[str, Any], expected: list[tuple[int, int, int]]
) -> None:
    assert shapes(config("vllm", *parameters), count, **more) == expected


def test_the_number_of_gpus_may_be_the_users() -> None:
    assert shapes(config("vllm", gpu_selector={"gpus_per_replica": 4}), 8) == [(4, 1, 1)]
    assert shapes(config("vllm", gpu_selector={"gpus_per_replica": 3}), 8) == [(1, 3, 1)]


def test_heads_of_keys_and_values_are_divided_evenly_too() -> None:
    assert VLLM.demands is not None
    seven = {"heads": 28, "kv_heads": 4}  # as Qwen2.5-7B has them
    model = config("vllm", gpu_selector={"gpus_per_replica": 7})
    assert shapes(model, 8, **seven) == [(1, 7, 1)]
    with pytest.raises(BackendError, match=r"has 28 attention heads .* such as 4\."):
        VLLM.demands(config("vllm", "-tp=7"), facts(**seven), 8)
    assert shapes(config("vllm", "-tp=28"), 8, **seven) == [(28, 1, 1)]


def test_a_model_whose_files_tell_of_no_heads_is_not_divided() -> None:
    assert VLLM.demands is not None
    model = config("vllm", gpu_selector={"gpus_per_replica": 2})
    with pytest.raises(BackendError, match="do not tell how many attention heads"):
        VLLM.demands(model, facts(heads=0, kv_heads=0, layers=0), 8)


def test_a_demand_is_what_the_estimate_says_with_room_for_fewer_requests_each_time() -> None:
    assert VLLM.demands is not None
    found = VLLM.demands(config("vllm"), facts(), 1)
    expected = [
        estimate(facts(), Load(context=8192, sequences=sequences)) for sequences in (8, 2, 1)
    ]
    assert [one.estimate for one in found] == expected
    assert [one.least for one in found] == [one.total for one in expected]
    assert all(one.share is None and one.tells_share for one in found)
    # Of that, what its process has before it looks at the GPU is no part of its share.
    mib = 2**20
    assert {one.beside for one in found} == {512 * mib}
    (two,) = VLLM.demands(config("vllm", "-tp=2", "--max-num-seqs=1"), facts(), 2)
    assert two.beside == 1024 * mib


@pytest.mark.parametrize(
    ("parameters", "load"),
    [
        (["--max-model-len=32K"], {"context": 32_768}),
        (["--max-model-len", "16k"], {"context": 16_000}),
        (["--max-num-seqs=2"], {"sequences": 2}),
        (["--kv-cache-dtype=fp8"], {"kv_dtype_bytes": 1.0}),
        (["--kv-cache-dtype=nvfp4"], {"kv_dtype_bytes": 0.5}),
        (["--kv-cache-dtype", "bfloat16"], {"kv_dtype_bytes": 2.0}),
        (["--max-num-seqs=1000"], {"sequences": 256}),
        (["--enforce-eager"], {"graphs": False}),
        (["--max-num-batched-tokens", "2048"], {"batched_tokens": 2048}),
        # The embeddings of input and output stay as they are.
        (["--quantization=fp8"], {"weight_bytes": 8 * 10**9 + 2 * 151_936 * 4096}),
        (["--dtype", "float32"], {"weight_bytes": 32 * 10**9, "dtype_bytes": 4.0}),
        (["--dtype", "half"], {}),
    ],
)
def test_flags_that_change_the_memory_are_reckoned_with(
    parameters: list[str], load: dict[str, Any]
) -> None:
    assert VLLM.demands is not None
    first = VLLM.demands(config("vllm", *parameters), facts(), 1)[0]
    assert first.estimate == estimate(facts(), Load(**{"context": 8192, "sequences": 8, **load}))


def test_weights_that_are_quantised_are_loaded_as_they_are() -> None:
    assert VLLM.demands is not None
    small = facts(quantization="awq")
    found = VLLM.demands(config("vllm", "--dtype=float32", "--quantization=fp8"), small, 1)[0]
    assert found.estimate == estimate(small, Load(context=8192, sequences=8, dtype_bytes=4.0))


def test_weights_that_stay_in_main_memory_take_nothing_of_a_gpu() -> None:
    """Of each GPU, as vLLM counts them, and never the embeddings."""
    demands = VLLM.demands
    assert demands is not None

    def weights(*parameters: str, gpus: int = 1) -> int:
        (*_, last) = demands(config("vllm", *parameters), facts(), gpus)
        assert last.estimate is not None and last.least == last.estimate.total
        return last.estimate.parts[0].bytes

    assert weights("--cpu-offload-gb=10") == 6 * GIB
    assert weights("--cpu-offload-gb", "2.5", "-tp=2", gpus=2) == 5.5 * GIB
    assert weights("--cpu-offload-gb=50") == 2 * 151_936 * 4096 * 2
    # How many these are is not known.
    assert weights("--cpu-offload-gb=10", "--cpu-offload-params", "experts") == 16 * GIB
    for wrong in ("x", "-1", "nan"):
        with pytest.raises(BackendError, match="Write a number of GiB for each GPU"):
            weights(f"--cpu-offload-gb={wrong}")


def test_of_32_bits_vllm_makes_16() -> None:
    assert VLLM.demands is not None
    wide = facts(dtype_bytes=4.0, weight_bytes=32 * 10**9)
    first = VLLM.demands(config("vllm"), wide, 1)[0]
    expected = Load(context=8192, sequences=8, dtype_bytes=2.0, weight_bytes=16 * 10**9)
    assert first.estimate == estimate(wide, expected)
    kept = VLLM.demands(config("vllm", "--dtype=float32"), wide, 1)[0]
    assert kept.estimate == estimate(wide, Load(context=8192, sequences=8))


def test_the_users_word_about_memory_wins() -> None:
    assert VLLM.demands is not None
    (share,) = VLLM.demands(config("vllm", "--gpu-memory-utilization=0.5"), facts(), 1)
    assert share.share == 0.5
    claim = config("vllm", "-tp=2", env={"GPUSTACK_MODEL_VRAM_CLAIM": str(20 * GIB)})
    (claimed,) = VLLM.demands(claim, facts(), 2)
    assert (claimed.least, claimed.estimate) == (10 * GIB, None)
    (cache,) = VLLM.demands(config("vllm", f"--kv-cache-memory-bytes={3 * GIB}"), facts(), 1)
    assert cache.estimate is not None
    assert {part.name: part.bytes for part in cache.estimate.parts}["kv_cache"] == 3 * GIB
    assert cache.least == cache.estimate.total


@pytest.mark.parametrize(
    ("parameters", "more", "message"),
    [
        (
            ["-tp=3"],
            {},
            r"has 32 attention heads \(8 of keys and values\), which cannot be divided over 3 GPUs",
        ),
        (["-tp=x"], {}, "is no number of 1 or more"),
        (["-pp=64"], {}, "has 36 layers, which cannot be divided into 64 parts"),
        (["-tp=2"], {"gpu_selector": {"gpus_per_replica": 4}}, "asks for 4 GPUs"),
        ([], {"gpu_selector": {"gpus_per_replica": 37}}, "cannot be divided over 37 GPUs"),
        (["--gpu-memory-utilization=90"], {}, "above 0 and up to 1"),
        (["--gpu-memory-utilization=nan"], {}, "above 0 and up to 1"),
        (["--kv-cache-memory-bytes=lots"], {}, "is no number of bytes"),
        ([], {"env": {"GPUSTACK_MODEL_VRAM_CLAIM": "20G"}}, "must be a number of bytes"),
    ],
)
def test_settings_that_contradict_the_model_are_told(
    parameters: list[str], more: dict[str, Any], message: str
) -> None:
    assert VLLM.demands is not None
    with pytest.raises(BackendError, match=message):
        VLLM.demands(config("vllm", *parameters, **more), facts(), 8)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8192", 8192),
        (" 32k ", 32_000),
        ("32K", 32_768),
        ("1.5m", 1_500_000),
        ("auto", None),
        ("1.5K", None),
        ("1.5", None),
        ("9" * 400, None),
        ("9" * 400 + "k", None),
    ],
)
def test_numbers_are_read_as_vllm_reads_them(text: str, number: int | None) -> None:
    assert human(text) == number


def test_the_cache_of_a_cpu_has_room_for_what_a_gpu_s_would() -> None:
    assert kv_space(None, {}) == 4
    assert kv_space(facts(), {}) == 9
    assert kv_space(facts(), {"--max-model-len": "128"}) == 1
    assert kv_space(facts(kv_bytes_per_token=1e9), {}) == 64, "a machine has other uses for it"


@pytest.mark.parametrize(
    "parameters",
    [["--enable-force-include-usage"], ["--seed 1 --enable-force-include-usage"]],
)
def test_usage_that_an_engine_sends_unasked_is_not_asked_for(parameters: list[str]) -> None:
    assert not facts_of(config("vllm", backend_parameters=parameters)).stream_usage
    plain = ["--no-enable-force-include-usage"]
    assert facts_of(config("vllm", backend_parameters=plain)).stream_usage


def test_idle_connections_are_kept_as_long_as_ours_keeps_them() -> None:
    assert facts_of(config("vllm")).idle_timeout == 600
    short = config("vllm", env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "10"})
    assert facts_of(short).idle_timeout == 8.5
    theirs = ModelConfig(name="m", backend="external", engine="vllm", urls=["http://h:1"])
    assert facts_of(theirs).idle_timeout == vllm.FACTS.idle_timeout


@pytest.mark.parametrize(
    ("categories", "path"),
    [
        (["llm"], "/v1/completions"),
        (["embedding"], "/v1/embeddings"),
        (["reranker"], "/v1/rerank"),
        (["image"], None),
        (["speech_to_text"], None),
        ([], None),
    ],
)
def test_the_first_request_is_one_that_the_kind_of_model_takes(
    categories: list[str], path: str | None
) -> None:
    assert VLLM.warm_up is not None
    found = VLLM.warm_up(config("vllm", categories=categories))
    assert (found.path if found else None) == path
    assert found is None or found.body["model"] == "m"


@pytest.mark.parametrize("level", [1, 2])
def test_one_that_may_sleep_has_sleep_mode_on_a_gpu_and_its_calls_behind_inference_paths_alone(
    tmp_path: Path, level: int
) -> None:
    model = config("vllm", sleep_level=level, sleep_after="30m")
    on_gpu = VLLM.command(model, place(tmp_path, devices=("0",), share=0.5))
    assert "--enable-sleep-mode" in on_gpu.arguments
    assert on_gpu.environment["VLLM_SERVER_DEV_MODE"] == "1"
    # The build for CPUs refuses the flag, and has the calls without it.
    on_cpu = VLLM.command(model, place(tmp_path))
    assert "--enable-sleep-mode" not in on_cpu.arguments
    assert on_cpu.environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert any(one.startswith("--uds=") for one in on_cpu.arguments), "nobody else reaches it"
    found = facts_of(model)
    assert found.inference_paths_only
    assert {"/sleep", "/wake_up", "/collective_rpc"} <= set(found.admin_paths)
    assert not facts_of(config("vllm")).inference_paths_only


def test_level_2_loads_the_weights_before_the_cache_takes_the_rest() -> None:
    assert VLLM.sleep is not None
    assert [one.path for one in VLLM.sleep.fall_asleep(2)] == ["/sleep?level=2&mode=wait"]
    assert [one.path for one in VLLM.sleep.wake_up(1)] == ["/wake_up"]
    weights, load, cache = VLLM.sleep.wake_up(2)
    assert (weights.path, cache.path) == ("/wake_up?tags=weights", "/wake_up?tags=kv_cache")
    assert (load.path, load.body) == ("/collective_rpc", {"method": "reload_weights"})
