"""`gpustack-fast gpus`, with a stand-in for the driver and a server that has instances."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from command_line import ENVIRONMENT, run, server

from gpustack_fast.control.documents import InstanceStatus, ModelStatus
from gpustack_fast.gpus import GpuReport
from nvml.stand_in import DRIVER_NOT_LOADED, GIB, StandIn, StandInGpu, StandInSlice, joined


def instance(name: str, **known: object) -> InstanceStatus:
    fields = {"name": name, "model": "m", "state": "running", "since": 0.0, **known}
    return msgspec.convert(fields, InstanceStatus)


def model(*instances: InstanceStatus) -> ModelStatus:
    return ModelStatus(
        name="m", backend="vllm", replicas=1, ready_replicas=1, instances=list(instances)
    )


def gpus(nvml: StandIn, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("gpus", "--data-dir", str(folder / "data"), *more, **nvml.environment)


def test_a_person_sees_a_line_for_each_gpu_and_slice_and_its_problem(
    nvml: StandIn, tmp_path: Path
) -> None:
    slices = [StandInSlice(0, total=16 * GIB)]
    machine = [
        StandInGpu(0, used=35 * GIB, utilization=80, temperature=61, power=312_000),
        StandInGpu(1, mig=1, slices=slices, utilization=None, power=None),
        StandInGpu(2, lost=True),
    ]
    nvml.write(machine)
    done = gpus(nvml, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "NVIDIA driver 580.95.05, CUDA up to 13.0"
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines[2:7]]
    assert cells[0][:2] == ["GPU", "NAME"] and cells[0][-2:] == ["INSTANCES", "UUID"]
    assert cells[1] == [
        *("0", "NVIDIA H200", "35.0 of 140.0", "80 %", "61 C", "312 of 700 W", "0", "-"),
        machine[0].uuid,
    ]
    assert cells[2][3:6] == ["-", "30 C", "-"], "what is not known is no zero"
    assert cells[3] == ["slice", "NVIDIA H200 MIG 1g.18gb", "0.0 of 16.0", "-", slices[0].uuid]
    assert cells[4][0] == "2 !"
    assert lines[8].startswith("GPU 2: It has fallen off the bus")


def test_a_program_gets_the_document_that_a_plan_can_be_made_from(
    nvml: StandIn, tmp_path: Path
) -> None:
    nvml.write(joined(8))
    done = gpus(nvml, tmp_path, "--json")
    report = msgspec.json.decode(done.stdout, type=GpuReport)
    assert done.returncode == 0 and len(report.gpus) == 8 and len(report.gpus[0].nvlinks) == 7


def test_without_a_driver_a_sentence_says_so_and_nothing_has_failed(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    done = run("gpus", "--data-dir", str(tmp_path), LD_LIBRARY_PATH=str(tmp_path))
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert done.stdout.startswith("There is no NVIDIA driver here")
    done = run("gpus", "--json", "--data-dir", str(tmp_path), LD_LIBRARY_PATH=str(tmp_path))
    assert msgspec.json.decode(done.stdout, type=GpuReport).gpus == []


@pytest.mark.parametrize("code", [DRIVER_NOT_LOADED, 4, 18])
def test_a_driver_that_does_not_start_is_no_failure_of_the_command(
    nvml: StandIn, tmp_path: Path, code: int
) -> None:
    nvml.write([], init=code)
    done = gpus(nvml, tmp_path)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1) and "driver" in done.stdout


def test_instances_are_named_by_what_they_were_given(nvml: StandIn, tmp_path: Path) -> None:
    slices = [StandInSlice(0), StandInSlice(1)]
    machine = [StandInGpu(0), StandInGpu(1), StandInGpu(2, mig=1, slices=slices)]
    nvml.write(machine)
    with server(tmp_path / "data") as fake:
        fake.models = [
            model(
                instance("a-1", devices=[machine[0].uuid, machine[1].uuid]),
                instance("b-1", devices=[machine[1].uuid]),
                instance("c-1", devices=[slices[1].uuid]),
            )
        ]
        shown = gpus(nvml, tmp_path, "--json").stdout
        page = gpus(nvml, tmp_path).stdout
    found = msgspec.json.decode(shown, type=GpuReport).gpus
    assert [gpu.instances for gpu in found] == [["a-1"], ["a-1", "b-1"], ["c-1"]]
    assert [one.instances for one in found[2].slices] == [[], ["c-1"]]
    assert "a-1, b-1" in page


def test_what_a_server_has_put_out_of_use_is_shown_though_the_driver_calls_it_well(
    nvml: StandIn, tmp_path: Path
) -> None:
    slices = [StandInSlice(0), StandInSlice(1)]
    machine = [StandInGpu(0), StandInGpu(1), StandInGpu(2, mig=1, slices=slices)]
    nvml.write(machine)
    with server(tmp_path / "data") as fake:
        fake.avoided_gpus = {machine[0].uuid: "It fell.", slices[1].uuid: "It broke."}
        shown = gpus(nvml, tmp_path, "--json").stdout
        page = gpus(nvml, tmp_path).stdout.splitlines()
    found = msgspec.json.decode(shown, type=GpuReport).gpus
    assert [gpu.problem for gpu in found] == ["It fell.", "", ""]
    assert [one.problem for one in found[2].slices] == ["", "It broke."]
    assert [line.split("  ")[0].strip() for line in page[3:6]] == ["0 !", "1", "2"]
    assert [line.split()[:2] == ["slice", "!"] for line in page[6:8]] == [False, True]
    assert page[9:] == ["GPU 0: It fell.", f"GPU 2, slice {slices[1].uuid}: It broke."]


def test_a_process_belongs_to_the_instance_whose_session_it_is_in(
    nvml: StandIn, tmp_path: Path
) -> None:
    machine = joined(2)
    nvml.write(machine)
    script = "sleep 600 & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True
    ) as engine:
        try:
            assert engine.stdout is not None
            nvml.book(machine[0].uuid, GIB, pid=int(engine.stdout.readline()))
            nvml.book(machine[1].uuid, GIB, pid=os.getpid())
            with server(tmp_path / "data") as fake:
                fake.models = [model(instance("a-1", pid=engine.pid))]
                shown = gpus(nvml, tmp_path, "--json").stdout
        finally:
            os.killpg(engine.pid, signal.SIGKILL)
    found = msgspec.json.decode(shown, type=GpuReport).gpus
    assert [gpu.instances for gpu in found] == [["a-1"], []], "the other process is nobody's"


def test_a_server_that_cannot_be_asked_hides_no_gpu(nvml: StandIn, tmp_path: Path) -> None:
    nvml.write(joined(1))
    with server(tmp_path / "data") as fake:
        fake.directory.control_socket.chmod(0)
        done = gpus(nvml, tmp_path)
    assert done.returncode == 0 and "NVIDIA H200" in done.stdout
    if os.geteuid() != 0:  # root may connect all the same
        assert "warning: What the server does with the GPUs is not shown." in done.stderr


def test_a_watch_shows_what_changes_until_ctrl_c(nvml: StandIn, tmp_path: Path) -> None:
    nvml.write([StandInGpu(0, temperature=40)])
    with subprocess.Popen(
        [sys.executable, "-m", "gpustack_fast", "gpus", "--watch", "--data-dir", str(tmp_path)],
        env={**ENVIRONMENT, **nvml.environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        try:
            for line in watching.stdout:
                if "40 C" in line:
                    nvml.write([StandInGpu(0, temperature=55)])
                if "55 C" in line:
                    break
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait() == -signal.SIGINT, "which a shell shows as 130"
