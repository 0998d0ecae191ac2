"""The record of an instance: drafted by the server, completed by the process, read by the next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from gpustack_fast.backends import Shape
from gpustack_fast.config import AdapterConfig, GpuSelectorConfig, ModelConfig
from gpustack_fast.engines import processes
from gpustack_fast.engines.instance import STUB
from gpustack_fast.engines.processes import boot_id
from gpustack_fast.engines.records import Record, read_records, read_serving, renew, write_draft
from gpustack_fast.placement import Claim, Placement

DRAFT = Record(
    pid=0,
    start_time=0,
    boot_id="",
    socket="/run/e.sock",
    log="/logs/e.log",
    model="Qwen/Qwen3",
    number=2,
    generation=7,
    digest="ab" * 32,
    backend="vllm",
    version="0.32.0",
    key="a-secret",
    port=None,
    ready_path="/health",
    created=1.5,
    devices=("0", "1"),
    placement=Placement(
        model="Qwen/Qwen3",
        number=2,
        shape=Shape(tensor=2),
        claims=[Claim(uuid="GPU-a", bytes=1), Claim(uuid="GPU-b", bytes=2)],
        share=0.5,
    ),
    remark="Ünusual.",
)


def become(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the stub as the server does, with `true` in the engine's place."""
    record = folder / "e.json"
    command = [sys.executable, "-I", "-S", str(STUB), str(record), *(arguments or ["/bin/true"])]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_process_fills_in_who_it_is_and_all_else_stays_as_it_was_drafted(
    tmp_path: Path,
) -> None:
    write_draft(tmp_path / "e.json.new", DRAFT)
    size = (tmp_path / "e.json.new").stat().st_size
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", str(STUB), str(tmp_path / "e.json"), "/bin/cat"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    while not (tmp_path / "e.json").exists():
        assert child.poll() is None
    ((path, record),) = read_records(tmp_path)
    assert isinstance(record, Record) and path == tmp_path / "e.json"
    found = processes.process(child.pid)
    assert found is not None and record.is_leader(found) and record.is_of_this_boot()
    assert record == replace(DRAFT, pid=child.pid, start_time=found.start_time, boot_id=boot_id())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == size, "it needs no more room on the disk than it was given"
    child.communicate()


def test_a_draft_that_has_gone_runs_no_engine(tmp_path: Path) -> None:
    assert become(tmp_path).returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_in_the_place_of_a_record_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "e.json")
    assert read_records(tmp_path) == []


def test_that_an_engine_has_run_is_noted_once_and_keeps_all_else(tmp_path: Path) -> None:
    write_draft(tmp_path / "e.json.new", DRAFT)
    assert become(tmp_path).returncode == 0
    ((path, before),) = read_records(tmp_path)
    # What another write has left there, which came to no end.
    (tmp_path / "e.json.new").write_bytes(b"x" * 10_000)
    (tmp_path / "e.json.new").chmod(0o600)
    with path.open("rb") as open_file:
        renew(path, has_run=True)
        assert b'"has_run":false' in open_file.read(), "it is replaced as a whole"
    ((_, after),) = read_records(tmp_path)
    assert isinstance(before, Record) and after == replace(before, has_run=True)
    assert path.stat().st_mode & 0o777 == 0o600
    inode = path.stat().st_ino
    renew(path, has_run=True)
    assert path.stat().st_ino == inode
    assert [one.name for one in tmp_path.iterdir()] == ["e.json"]


def test_a_look_at_the_engines_that_serve_leaves_all_files_as_they_are(tmp_path: Path) -> None:
    write_draft(tmp_path / "e.json.new", DRAFT)
    assert become(tmp_path).returncode == 0
    write_draft(tmp_path / "next.json.new", DRAFT)
    (tmp_path / "torn.json").write_text("{")
    assert read_serving(tmp_path) == [], "it has not served yet"
    renew(tmp_path / "e.json", has_run=True)
    ((path, _),) = read_serving(tmp_path)
    assert path == tmp_path / "e.json"
    renew(tmp_path / "e.json", asleep=True)
    assert read_serving(tmp_path) == []
    names = {one.name for one in tmp_path.iterdir()}
    assert names == {"e.json", "next.json.new", "torn.json"}


def test_a_path_that_is_no_utf_8_is_no_obstacle_to_a_start(tmp_path: Path) -> None:
    write_draft(tmp_path / "e.json.new", replace(DRAFT, log=os.fsdecode(b"/logs/\xff.log")))
    assert become(tmp_path).returncode == 0


def test_a_record_of_an_older_version_has_the_process_alone(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(
        '{"pid": 1, "start_time": 2, "boot_id": "x", "socket": "/s", "log": "/l"}'
    )
    ((_, found),) = read_records(tmp_path)
    assert not isinstance(found, Record)
    assert (found.pid, found.start_time, found.log) == (1, 2, "/l")


@pytest.mark.parametrize("wrong", ['{"placement": 3}', '{"devices": "0"}'])
def test_a_field_of_another_type_makes_it_one_of_an_older_version(
    tmp_path: Path, wrong: str
) -> None:
    old = '{"pid": 1, "start_time": 2, "boot_id": "x", "socket": "/s", "log": "/l", '
    (tmp_path / "e.json").write_text(old + wrong.removeprefix("{"))
    ((_, found),) = read_records(tmp_path)
    assert not isinstance(found, Record)


def test_the_configuration_comes_back_as_it_was(tmp_path: Path) -> None:
    model = ModelConfig(
        name="m",
        backend="vllm",
        source="huggingface",
        huggingface_repo_id="a/b",
        backend_parameters=["--x=1"],
        env={"A": "ü"},
        gpu_selector=GpuSelectorConfig(gpu_ids=["0"]),
        lora_list=[AdapterConfig(lora_name="l", lora_repo_name="a/l")],
    )
    write_draft(tmp_path / "e.json.new", replace(DRAFT, config=msgspec.to_builtins(model)))
    assert become(tmp_path).returncode == 0
    ((_, found),) = read_records(tmp_path)
    assert isinstance(found, Record)
    assert found.model_config() == model


@pytest.mark.parametrize("config", [{}, {"name": "m", "backend": "vllm", "of_tomorrow": 1}])
def test_a_configuration_of_another_version_is_none(config: dict[str, object]) -> None:
    assert replace(DRAFT, config=config).model_config() is None
