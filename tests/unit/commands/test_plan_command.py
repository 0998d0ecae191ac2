"""`gpustack-fast plan` as a process, with the real backends and files of models."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from command_line import run, server

from gpustack_fast.control.documents import InstanceStatus, ModelStatus
from gpustack_fast.gpus.documents import Gpu, GpuReport
from nvml.stand_in import StandIn, StandInGpu

GIB = 1 << 30
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
WEIGHTS = 16_381_470_720


def folder(path: Path) -> Path:
    """A model's folder, without its weights."""
    (path / "model").mkdir()
    (path / "model/config.json").write_text(json.dumps(QWEN3_8B))
    index = {"metadata": {"total_size": WEIGHTS}, "weight_map": {"a": "model-1.safetensors"}}
    (path / "model/model.safetensors.index.json").write_text(json.dumps(index))
    return path / "model"


def gpus(count: int, total: int) -> str:
    found = [
        Gpu(
            index=index,
            uuid=f"GPU-{index}",
            name="NVIDIA L4",
            memory_total=total,
            memory_used=0,
            utilization=None,
            temperature=None,
            power=None,
            power_limit=None,
            compute_capability="8.9",
            pci_bus_id=f"00000000:0{index}:00.0",
            numa_node=None,
            nvlinks=[],
            mig=False,
            slices=[],
            processes=None,
        )
        for index in range(count)
    ]
    report = GpuReport(driver_version="580.1", cuda_version="13.0", gpus=found)
    return msgspec.json.encode(report).decode()


def config(path: Path, *more: str) -> str:
    model = '[[models]]\nname = "qwen"\nbackend = "vllm"\n'
    (path / "c.toml").write_text(model + "\n".join(more))
    return str(path / "c.toml")


def plan(path: Path, *arguments: str, status: int) -> str:
    done = run("plan", *arguments, "--data-dir", str(path / "data"))
    assert done.returncode == status, done
    assert not (path / "data").exists()
    return done.stdout + done.stderr


def test_it_plans_a_model_from_its_metadata(tmp_path: Path) -> None:
    file = config(tmp_path, f'source = "local_path"\nlocal_path = "{folder(tmp_path)}"')
    told = plan(tmp_path, file, "--gpus", gpus(1, 80 * GIB), status=0)
    assert "qwen, replica 1 of 1: GPU 0, " in told and ", the share 0." in told
    assert f"  weights       {WEIGHTS / GIB:.1f} GiB  " in told
    told = plan(tmp_path, file, "--gpus", gpus(4, 16 * GIB), status=0)
    assert "  tensor 2 x pipeline 1 x data 1\n" in told
    told = plan(tmp_path, file, "--gpus", gpus(1, 8 * GIB), status=1)
    assert "qwen, replica 1 of 1: no place. No GPU has room for it." in told
    assert "The nearest miss: GPU 0 lacks" in told


def test_it_says_how_to_fetch_what_is_not_here(tmp_path: Path) -> None:
    file = config(tmp_path, 'source = "huggingface"\nhuggingface_repo_id = "Qwen/Qwen3-8B"')
    told = plan(tmp_path, "--config", file, "--gpus", gpus(1, 80 * GIB), status=1)
    place = f"--config={file} --data-dir={tmp_path}/data"
    assert f"`gpustack-fast models pull qwen {place}`, then plan again." in told


def test_what_it_says_to_type_fetches_to_where_it_looks(tmp_path: Path) -> None:
    """With the flags that were typed, and quotes where a shell needs them."""
    folder = tmp_path / "my models"
    folder.mkdir()
    source = 'source = "huggingface"\nhuggingface_repo_id = "org/a"'
    file = config(folder, f'{source}\nhuggingface_filename = "*Q4_K_M*"')
    store = str(folder / "store")
    done = run("plan", file, "--models-dir", store, "--gpus", gpus(1, 80 * GIB))
    assert done.returncode == 1, done
    place = f"--config='{file}' --models-dir='{store}'"
    assert f"`gpustack-fast models pull qwen {place}`, then plan again." in done.stdout


def test_without_a_file_the_embedded_model_needs_no_gpu(tmp_path: Path) -> None:
    told = plan(tmp_path, "--gpus", gpus(1, 80 * GIB), "--json", status=0)
    assert '"smollm2"' in told


def test_beside_its_server_a_plan_leaves_out_what_that_does_not_use_and_names_who_holds_memory(
    nvml: StandIn, tmp_path: Path
) -> None:
    config = tmp_path / "a.toml"
    config.write_text(
        f'[server]\ndata_dir = "{tmp_path / "data"}"\n[[models]]\nname = "m"\n'
        f'backend = "vllm"\nsource = "local_path"\nlocal_path = "{folder(tmp_path)}"\n'
    )
    failed, held = StandInGpu(0), StandInGpu(1, used=135 * GIB)
    nvml.write([failed, held])
    running = {"name": "m-1", "model": "m", "state": "running", "since": 0.0}
    running["devices"] = [held.uuid]
    with server(tmp_path / "data") as fake:
        fake.avoided_gpus = {failed.uuid: "It has reported Xid 79."}
        one = msgspec.convert(running, InstanceStatus)
        fake.models = [
            ModelStatus(name="m", backend="vllm", replicas=1, ready_replicas=1, instances=[one])
        ]
        done = run("plan", str(config), **nvml.environment)
        empty = run("plan", str(config), "--empty", **nvml.environment)
    assert (done.returncode, empty.returncode) == (1, 0), done.stderr + empty.stderr
    assert "It cannot be used: It has reported Xid 79." in done.stdout
    assert "What a server's engines hold counts as in use (m-1): with `--empty`" in done.stdout
    assert "m, replica 1 of 1: GPU 1," in empty.stdout
    alone = run("plan", str(config), **nvml.environment)
    assert "m, replica 1 of 1: GPU 0," in alone.stdout, "without a server nobody knows of it"


def test_the_configuration_is_named_once(tmp_path: Path) -> None:
    told = plan(tmp_path, "a.toml", "--config", "b.toml", status=2)
    assert "error: The configuration is named twice." in told
