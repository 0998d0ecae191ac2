"""Rules of how a model of ours is run, and the routes of its adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpustack_fast.config import Config, ModelConfig, ServerConfig
from gpustack_fast.config.deployment_fields import REFUSED
from gpustack_fast.config.files import check_files
from gpustack_fast.config.reading.file import read_config_file, read_draft
from gpustack_fast.config.reading.toml_lines import Places
from gpustack_fast.config.rules import check
from gpustack_fast.config.warnings import warnings_of
from gpustack_fast.errors import ConfigError

GPUSTACK_FIELDS = [
    "name",
    "description",
    "meta",
    "categories",
    "cluster_id",
    "owner_principal_id",
    "access_policy",
    "source",
    "huggingface_repo_id",
    "huggingface_filename",
    "model_scope_model_id",
    "model_scope_file_path",
    "local_path",
    "replicas",
    "ready_replicas",
    "scaling_schedule",
    "placement_strategy",
    "cpu_offloading",
    "distributed_inference_across_workers",
    "worker_selector",
    "gpu_selector",
    "gpu_type_selector",
    "distributable",
    "backend",
    "backend_version",
    "backend_parameters",
    "image_name",
    "run_command",
    "env",
    "restart_on_error",
    "extended_kv_cache",
    "speculative_config",
    "lora_list",
    "generic_proxy",
    "enable_model_route",
]
ROOT = Path(__file__).parents[3]
PART_OF = '[[models]]\nname = "m"\nbackend = "vllm"\nsource = "local_path"\nlocal_path = "/m"\n'


def vllm(**more: Any) -> dict[str, Any]:
    return {
        "name": "m",
        "backend": "vllm",
        "source": "huggingface",
        "huggingface_repo_id": "org/model",
        **more,
    }


def broken(*models: dict[str, Any], routes: list[dict[str, Any]] | None = None) -> list[str]:
    config = msgspec.convert({"models": list(models), "routes": routes or []}, Config)
    return [f"{'.'.join(map(str, rule.path))}: {rule.message}" for rule in check(config)]


def test_everything_that_can_be_said_of_a_model_of_ours_is_right_together() -> None:
    assert (
        broken(
            vllm(
                huggingface_repo_id="org/model@main",
                huggingface_filename="sub/*.safetensors",
                backend_version="0.32.0",
                python="/opt/vllm/bin/python",
                placement_strategy="binpack",
                gpu_selector={
                    "gpu_ids": ["0", "GPU-5e1d-aa", "MIG-5e1d-aa", "worker-1:cuda:3"],
                    "gpus_per_replica": 2,
                },
                lora_list=[
                    {"lora_name": "a", "local_path": "/lora/a"},
                    {"lora_name": "b-1.5", "lora_repo_name": "org/lora"},
                    {"lora_name": "c", "source": "model_scope", "lora_repo_name": "org/lora"},
                ],
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            vllm(backend_version="latest; rm"),
            "models.0.backend_version: `latest; rm` is no version",
        ),
        (vllm(backend_version="--index-url=x"), "is no version"),
        *(
            (
                vllm(backend_parameters=[flag]),
                f"models.0.backend_parameters: The model m has {told}",
            )
            for flag, told in (
                ("--tensor-parallel-size=0", "--tensor-parallel-size 0 in"),
                ("-tp=two", "--tensor-parallel-size two in"),
                ("--gpu-memory-utilization=nan", "--gpu-memory-utilization nan in"),
                ("--gpu-memory-utilization=1.5", "--gpu-memory-utilization 1.5 in"),
                ("--max-num-seqs=0", "--max-num-seqs 0 in"),
            )
        ),
        (
            vllm(env={"GPUSTACK_MODEL_VRAM_CLAIM": "10GiB"}),
            "models.0.env.GPUSTACK_MODEL_VRAM_CLAIM: The variable GPUSTACK_MODEL_VRAM_CLAIM of the "
            "model m must be a number of bytes.",
        ),
        (
            vllm(backend_parameters=["-tp=4"], gpu_selector={"gpus_per_replica": 2}),
            "models.0.backend_parameters: The model m asks for 2 GPUs by gpus_per_replica",
        ),
        (vllm(python="python"), "models.0.python: `python` is no absolute path."),
        (vllm(python="/a\0b"), "is no absolute path"),
        (vllm(run_command="x"), 'Write `backend = "custom"`, or remove it'),
        (vllm(health_path="/x"), "it is known for this engine"),
        (vllm(huggingface_repo_id="../etc"), "is no repository. Write it as `owner/name`"),
        (vllm(huggingface_repo_id="a/b/c"), "is no repository"),
        (vllm(huggingface_repo_id="a/..b"), "is no repository"),
        (vllm(huggingface_filename="../x"), "is no file of a repository"),
        (vllm(huggingface_filename="/x"), "is no file of a repository"),
        (vllm(model_scope_file_path="x"), 'belongs to `source = "model_scope"`'),
        (vllm(gpu_selector={"gpu_ids": ["gpu one"]}), "gpu_ids.0: `gpu one` is no GPU."),
        (vllm(gpu_selector={"gpu_ids": ["cuda:3"]}), "gpu_ids.0: `cuda:3` is no GPU."),
        (vllm(gpu_selector={"gpu_ids": ["0", "0"]}), "stands twice in `gpu_ids`"),
        (
            vllm(gpu_selector={"gpu_ids": ["0"], "gpus_per_replica": 2}),
            "is to have 2 GPUs, but `gpu_ids` names only 1",
        ),
        (
            vllm(backend="llama_cpp", gpu_selector={"gpu_ids": ["0"]}),
            "the backend `llama_cpp` runs without GPUs here",
        ),
        (vllm(env={"CUDA_VISIBLE_DEVICES": "0"}), "Write `gpu_selector` to choose GPUs."),
        (vllm(env={"VLLM_API_KEY": "x"}), "decides the variable `VLLM_API_KEY`"),
        (vllm(backend="sglang"), "The model `m` has no `python`"),
        (vllm(backend="custom"), "has no run_command"),
        (vllm(backend="custom", run_command="x"), "models.0.run_command: The run_command of the"),
        (
            vllm(backend="custom", run_command="x {{port}}", health_path=""),
            "models.0.health_path: The model m has an empty health_path",
        ),
        (vllm(backend="custom", run_command="x {{port}}", health_path="x"), "`x` is no path."),
        (
            vllm(backend="llama_cpp", lora_list=[{"lora_name": "a", "local_path": "/a"}]),
            "serves no adapters. Use `vllm` or `sglang`",
        ),
    ],
)
def test_what_cannot_be_run_is_told_with_its_place(model: dict[str, Any], message: str) -> None:
    (problem,) = broken(model)
    assert message in problem


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ([{"lora_name": "a"}], "does not say where it comes from"),
        ([{"lora_name": "a b", "local_path": "/a"}], "which cannot be a name"),
        ([{"lora_name": "", "local_path": "/a"}], "which cannot be a name"),
        ([{"lora_name": "a" * 200, "local_path": "/a"}], "which cannot be a name"),
        ([{"lora_name": "m", "local_path": "/a"}], "is called as its model"),
        ([{"lora_name": "a", "local_path": "/a"}] * 2, "Two adapters of the model `m` are called"),
        ([{"lora_name": "a", "local_path": ""}], "is no path of a folder"),
        ([{"lora_name": "a", "lora_repo_name": "../x"}], "is no repository"),
        (
            [{"lora_name": "a", "local_path": "/a", "lora_repo_name": "o/l"}],
            "has `lora_repo_name` and `local_path`, each of which says where it comes from.",
        ),
        (
            [{"lora_name": "a", "source": "huggingface", "local_path": "/a"}],
            'has `local_path`, which does not belong to `source = "huggingface"`. Write `lora_repo',
        ),
    ],
)
def test_an_adapter_that_cannot_be_served_is_told(
    adapters: list[dict[str, Any]], message: str
) -> None:
    problems = broken(vllm(lora_list=adapters))
    assert len(problems) == 1 and message in problems[0], problems


def test_an_adapter_s_route_cannot_take_the_name_of_another_model() -> None:
    base = vllm(lora_list=[{"lora_name": "a", "local_path": "/a"}])
    (problem,) = broken(base, vllm(name="m:a"))
    assert "The route `m:a` of an adapter has the name of another model" in problem


def adapted(**more: Any) -> dict[str, Any]:
    return vllm(lora_list=[{"lora_name": "a", "local_path": "/a"}], **more)


def routes_of(model: dict[str, Any], *declared: dict[str, Any]) -> dict[str, Any]:
    config = msgspec.convert({"models": [model], "routes": list(declared)}, Config)
    return {route.name: route for route in config.all_routes()}


def test_an_adapter_is_a_route_beside_its_model() -> None:
    routes = routes_of(
        adapted(categories=["llm"], access_policy="allowed_keys", allowed_keys=["k"])
    )
    assert list(routes) == ["m", "m:a"]
    route = routes["m:a"]
    (target,) = route.targets
    assert (target.model, target.overridden_model_name, target.share) == ("m", "a", 100)
    assert (route.categories, route.access_policy, route.allowed_keys) == (
        ["llm"],
        "allowed_keys",
        ["k"],
    )


def test_an_adapter_is_no_way_around_the_route_that_replaces_its_model() -> None:
    declared = {
        "name": "m",
        "targets": [{"model": "m"}],
        "access_policy": "allowed_keys",
        "allowed_keys": ["k"],
    }
    route = routes_of(adapted(categories=["llm"]), declared)["m:a"]
    assert (route.access_policy, route.allowed_keys) == ("allowed_keys", ["k"])
    assert route.categories == ["llm"]


def test_a_declared_route_replaces_that_of_an_adapter() -> None:
    declared = {"name": "m:a", "targets": [{"model": "m"}], "access_policy": "public"}
    routes = routes_of(adapted(), declared)
    assert list(routes) == ["m", "m:a"] and routes["m:a"].access_policy == "public"


def test_an_adapter_s_source_follows_from_what_is_written() -> None:
    def source(**fields: str) -> str | None:
        model = vllm(lora_list=[{"lora_name": "a", **fields}])
        return msgspec.convert(model, ModelConfig).lora_list[0].source

    assert source(local_path="/a") == "local_path"
    assert source(lora_repo_name="o/l") == "huggingface"
    assert source(model_scope_model_id="o/l") == "model_scope"
    assert source(source="model_scope", lora_repo_name="o/l") == "model_scope"


# GPUStack's own deployments.


@pytest.mark.parametrize("name", GPUSTACK_FIELDS)
def test_each_field_of_a_gpustack_deployment_works_or_is_refused_with_the_reason(
    tmp_path: Path, name: str
) -> None:
    known = name in ModelConfig.__struct_fields__
    assert known != (name in REFUSED)
    if not known:
        file = tmp_path / "c.toml"
        file.write_text(f'[[models]]\nname = "m"\nbackend = "vllm"\n{name} = true\n')
        told = [error.message for error in read_draft(file).errors()]
        assert f"`{name}` of GPUStack's deployments is not here: {REFUSED[name]}." in told
        assert "There is no key" not in " ".join(told)


def test_the_documents_have_a_row_for_each_field_of_a_gpustack_deployment() -> None:
    text = (ROOT / "docs" / "engines.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for name in GPUSTACK_FIELDS:
        assert any(f"`{name}`" in row.split("|")[1] for row in rows), name


@pytest.mark.parametrize("name", ["0", "worker-1:cuda:3", "GPU-5e1d-aa", "MIG-5e1d-aa"])
def test_a_gpu_is_named_as_gpustack_does_or_by_number_or_uuid(name: str) -> None:
    assert broken(vllm(gpu_selector={"gpu_ids": [name]})) == []


def test_the_configurations_of_the_documents_are_right(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "engines.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        file = tmp_path / "c.toml"
        if not block.startswith("[["):  # a part of a model
            block = PART_OF + block
        file.write_text(block)
        assert read_config_file(file).models


# Files.


def test_relative_paths_of_adapters_are_taken_from_the_file_s_folder(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[[models]]\nname = "m"\nbackend = "vllm"\nsource = "local_path"\nlocal_path = "model"\n'
        'lora_list = [{ lora_name = "a", local_path = "lora" }]\n'
    )
    (model,) = read_config_file(file).models
    assert model.local_path == str(tmp_path / "model")
    assert model.lora_list[0].local_path == str(tmp_path / "lora")


def complaint(folder: Path, **fields: Any) -> str:
    model = msgspec.convert({"name": "m", "backend": "vllm", **fields}, ModelConfig)
    config = Config(models=[model], server=ServerConfig(data_dir=folder / "data"))
    try:
        check_files(config, Places(), lambda _: None)
    except ConfigError as error:
        return error.message
    return ""


def test_files_that_a_model_names_are_looked_at(tmp_path: Path) -> None:
    folder = {"source": "local_path", "local_path": str(tmp_path)}
    assert "has no config.json and no GGUF file" in complaint(tmp_path, **folder)
    missing = str(tmp_path / "none")
    assert "is not there" in complaint(tmp_path, source="local_path", local_path=missing)
    assert "The interpreter" in complaint(tmp_path, python=missing)
    plain = tmp_path / "python"
    plain.touch(0o644)
    lora = [{"lora_name": "a", "local_path": str(tmp_path)}]
    assert "has no adapter_config.json" in complaint(tmp_path, lora_list=lora)
    (tmp_path / "adapter_config.json").touch()
    assert complaint(tmp_path, lora_list=lora) == ""


def test_an_engine_version_that_was_not_recorded_is_a_warning() -> None:
    model = vllm(backend_version="0.31.0", backend_parameters=["--max-model-len=1"])
    config = msgspec.convert({"models": [model]}, Config)
    (warning,) = warnings_of(config)
    assert "could not be checked: the flags of vLLM 0.31.0 are not known here" in warning
    assert "Compare them with what `vllm serve --help=all` of that version lists." in warning
