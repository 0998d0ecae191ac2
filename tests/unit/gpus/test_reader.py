"""GPUs as the real pynvml reads them from a stand-in for the driver's library."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpustack_fast.gpus import GpuProcess, Reader, driver
from nvml.asking import asking, read
from nvml.stand_in import (
    DRIVER_NOT_LOADED,
    GIB,
    LIB_RM_VERSION_MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    UNKNOWN,
    StandIn,
    StandInGpu,
    StandInSlice,
    build,
    joined,
)
from raw_http import eventually


def test_every_field_of_a_gpu_is_read(nvml: StandIn) -> None:
    nvml.write(
        [
            StandInGpu(
                0,
                reserved=GIB,
                used=2 * GIB,
                utilization=35,
                temperature=61,
                power=312_500,
                numa=1,
            )
        ]
    )
    report = read(nvml)
    (gpu,) = report.gpus
    assert (report.driver_version, report.cuda_version) == ("580.95.05", "13.0")
    assert report.problem == "" and gpu.problem == ""
    assert gpu.uuid == "GPU-00000000-1111-2222-3333-444444444444"
    assert (gpu.index, gpu.name, gpu.pci_bus_id) == (0, "NVIDIA H200", "00000000:01:00.0")
    assert gpu.memory_total == 139 * GIB, "what the driver keeps for itself is nobody's to use"
    assert gpu.memory_used == 2 * GIB
    assert (gpu.utilization, gpu.temperature, gpu.power, gpu.power_limit) == (35, 61, 312.5, 700.0)
    assert (gpu.compute_capability, gpu.numa_node) == ("9.0", 1)
    assert (gpu.nvlinks, gpu.mig, gpu.slices, gpu.processes) == ([], False, [], [])


def test_a_version_of_cuda_has_its_minor_number(nvml: StandIn) -> None:
    nvml.write(joined(1), cuda=12040)
    assert read(nvml).cuda_version == "12.4"


def test_the_nearest_node_may_be_a_late_one_or_the_gpu_itself(nvml: StandIn) -> None:
    nvml.write([StandInGpu(0, numa=70), StandInGpu(1, numa=None, own_numa=3)])
    assert [gpu.numa_node for gpu in read(nvml).gpus] == [70, 3]


@pytest.mark.parametrize("count", [1, 4, 8])
def test_all_gpus_and_their_links_are_found(nvml: StandIn, count: int) -> None:
    nvml.write(joined(count))
    gpus = read(nvml).gpus
    assert [gpu.index for gpu in gpus] == list(range(count))
    everyone = {gpu.uuid for gpu in gpus}
    assert all({gpu.uuid, *gpu.nvlinks} == everyone for gpu in gpus)
    assert all(gpu.uuid not in gpu.nvlinks for gpu in gpus)


def test_pairs_are_told_from_a_whole(nvml: StandIn) -> None:
    nvml.write([StandInGpu(one, nvlinks=[one ^ 1]) for one in range(4)])
    gpus = read(nvml).gpus
    assert [gpu.nvlinks for gpu in gpus] == [[gpus[one ^ 1].uuid] for one in range(4)]


def test_a_driver_that_does_not_tell_of_pairs_is_asked_link_by_link(nvml: StandIn) -> None:
    nvml.write(
        [
            StandInGpu(one, nvlinks=[one ^ 1], errors={"nvmlDeviceGetP2PStatus": NOT_SUPPORTED})
            for one in range(4)
        ]
    )
    gpus = read(nvml).gpus
    assert [gpu.nvlinks for gpu in gpus] == [[gpus[one ^ 1].uuid] for one in range(4)]


def test_an_old_driver_lacks_calls_and_what_it_has_is_read(nvml: StandIn, tmp_path: Path) -> None:
    old = StandIn(build(tmp_path / "old", old=True), nvml.state)
    old.write([StandInGpu(0, reserved=GIB, used=2 * GIB, temperature=50)])
    old.book("GPU-00000000-1111-2222-3333-444444444444", GIB, pid=1)
    (gpu,) = read(old).gpus
    assert gpu.problem == "" and gpu.processes == [GpuProcess(pid=1, memory=GIB)]
    assert (gpu.memory_total, gpu.memory_used) == (140 * GIB, 4 * GIB), "the reserved part is used"
    assert (gpu.temperature, gpu.numa_node) == (50, None)


@pytest.mark.parametrize(
    "codes", [(2, NOT_SUPPORTED, NO_PERMISSION, 6, 7, 10), (13, 21, 25, 26, 27)]
)
def test_what_a_call_does_not_tell_is_none_and_never_zero(
    nvml: StandIn, codes: tuple[int, ...]
) -> None:
    calls = [
        *("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetMigMode"),
        *("nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetTemperatureV"),
        *("nvmlDeviceGetTemperature", "nvmlDeviceGetCudaComputeCapability"),
        *("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetFieldValues"),
        *("nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetP2PStatus", "nvmlDeviceGetNvLinkState"),
    ]
    machine = [StandInGpu(n, errors=dict.fromkeys(calls, code)) for n, code in enumerate(codes)]
    nvml.write([*machine, StandInGpu(len(codes))])
    *silent, whole = read(nvml).gpus
    assert len(silent) == len(codes)
    for gpu in silent:
        assert gpu.problem == "" and gpu.memory_total == 140 * GIB and not gpu.mig
        assert gpu.utilization is gpu.power is gpu.power_limit is gpu.temperature is None
        assert (gpu.compute_capability, gpu.processes, gpu.numa_node) == (None, None, None)
    assert whole.utilization == 0 and whole.processes == []


def test_a_name_that_is_no_text_is_none(nvml: StandIn) -> None:
    nvml.write([StandInGpu(0, name="NVIDIA \udcff")])
    (gpu,) = read(nvml).gpus
    assert (gpu.name, gpu.problem) == ("NVIDIA GPU", "")


def test_a_gpu_whose_memory_is_not_told_is_no_place(nvml: StandIn) -> None:
    nvml.write([StandInGpu(0, name="NVIDIA GB10", total=None)])
    (gpu,) = read(nvml).gpus
    assert gpu.memory_total == 0 and gpu.memory_used is None
    assert "does not say how much memory" in gpu.problem and "external" in gpu.problem


# MIG


def test_slices_are_found_though_their_indexes_have_holes(nvml: StandIn) -> None:
    slices = [StandInSlice(0, gi=3), StandInSlice(3, gi=5, total=32 * GIB)]
    forbidden = {
        "nvmlDeviceGetMemoryInfo_v2": NO_PERMISSION,
        "nvmlDeviceGetMemoryInfo": NO_PERMISSION,
    }
    nvml.write([StandInGpu(0, mig=1, slices=slices, utilization=None), StandInGpu(1)])
    nvml.book(slices[1].uuid, 5 * GIB, pid=os.getpid())
    gpu, whole = read(nvml).gpus
    assert gpu.mig and not whole.mig and gpu.problem == ""
    assert [one.uuid for one in gpu.slices] == [one.uuid for one in slices]
    assert [one.memory_total for one in gpu.slices] == [16 * GIB, 32 * GIB]
    assert [one.memory_used for one in gpu.slices] == [0, 5 * GIB]
    assert gpu.memory_used == 5 * GIB and gpu.utilization is None

    nvml.write([StandInGpu(0, mig=1, slices=slices, errors=forbidden)])
    (gpu,) = read(nvml).gpus
    assert all(one.memory_used is None for one in gpu.slices) and gpu.memory_used is None


def test_of_a_divided_gpu_that_tells_nothing_as_a_whole_its_slices_tell(nvml: StandIn) -> None:
    slices = [StandInSlice(0), StandInSlice(3, total=32 * GIB)]
    nvml.write([StandInGpu(0, mig=1, total=None, processes="forbidden", slices=slices)])
    for one in slices:
        nvml.book(one.uuid, 5 * GIB, pid=os.getpid())
    (gpu,) = read(nvml).gpus
    assert (gpu.memory_total, gpu.memory_used) == (48 * GIB, 10 * GIB)
    assert gpu.processes == [GpuProcess(pid=os.getpid(), memory=5 * GIB)] * 2


def test_links_of_divided_gpus_join_nobody(nvml: StandIn) -> None:
    gpus = joined(3)
    gpus[1].mig, gpus[1].slices = 1, [StandInSlice(0)]
    nvml.write(gpus)
    assert [gpu.nvlinks for gpu in read(nvml).gpus] == [[gpus[2].uuid], [], [gpus[0].uuid]]


def test_a_gpu_with_mig_and_no_slices_says_what_to_do(nvml: StandIn) -> None:
    nvml.write([StandInGpu(0, mig=1)])
    (gpu,) = read(nvml).gpus
    assert "nvidia-smi mig" in gpu.problem


# processes and their memory


def test_memory_is_held_by_living_processes_and_freed_by_their_end(nvml: StandIn) -> None:
    gpus = joined(2)
    nvml.write(gpus)
    with subprocess.Popen(["sleep", "600"]) as engine, asking(nvml) as one:
        nvml.book(gpus[0].uuid, 40 * GIB, pid=engine.pid)
        held, free = one.read().gpus
        assert held.processes is not None
        assert [(process.pid, process.memory) for process in held.processes] == [
            (engine.pid, 40 * GIB)
        ]
        assert held.memory_used == 40 * GIB and (free.memory_used, free.processes) == (0, [])
        nvml.book(gpus[0].uuid, 10 * GIB, pid=engine.pid)
        assert one.read().gpus[0].memory_used == 10 * GIB, "it holds less than before"
        engine.kill()
        os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
        assert one.read().gpus[0].memory_used == 0, "what nobody has waited for holds nothing"


def test_an_engine_under_test_books_what_it_was_given(nvml: StandIn) -> None:
    gpus = [StandInGpu(0), StandInGpu(1), StandInGpu(2, mig=1, slices=[StandInSlice(4)])]
    nvml.write(gpus)
    script = (
        "from nvml.stand_in import book, visible\n"
        "for one in visible(): book(one, 1 << 30)\n"
        "print(flush=True); input()"
    )
    given = f"1,{gpus[2].slices[0].uuid}"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            **nvml.environment,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CUDA_VISIBLE_DEVICES": given,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        used = [gpu.memory_used for gpu in read(nvml).gpus]
        engine.communicate(b"\n")
    assert used == [0, GIB, GIB]
    assert [gpu.memory_used for gpu in read(nvml).gpus] == [0, 0, 0]


def test_memory_that_is_freed_late_is_used_until_then(nvml: StandIn) -> None:
    nvml.write(joined(1))
    with subprocess.Popen(["true"]) as engine:
        pass
    nvml.book(joined(1)[0].uuid, GIB, pid=engine.pid, freed_after=1.0)
    with asking(nvml) as one:
        (gpu,) = one.read().gpus
        assert gpu.memory_used == GIB and gpu.processes == []
        eventually(lambda: one.read().gpus[0].memory_used == 0, "the memory is free")


def test_more_processes_than_expected_are_all_listed(nvml: StandIn) -> None:
    nvml.write(joined(1))
    for pid in (1, os.getpid(), os.getppid()):
        nvml.book(joined(1)[0].uuid, GIB, pid=pid)
    (gpu,) = read(nvml).gpus
    assert gpu.processes is not None and len(gpu.processes) == len({1, os.getpid(), os.getppid()})


# what fails


def test_a_lost_gpu_is_named_and_the_others_are_read(nvml: StandIn) -> None:
    gpus = joined(4)
    nvml.write(gpus)
    with asking(nvml) as one:
        before = one.read().gpus
        gpus[2].lost = True
        nvml.write(gpus)
        after = one.read()
    assert after.problem == "" and [gpu.uuid for gpu in after.gpus] == [one.uuid for one in before]
    lost = after.gpus[2]
    assert "fallen off the bus" in lost.problem and lost.nvlinks == [] and lost.lost
    assert lost.memory_total == 140 * GIB and lost.memory_used is None, "its size is remembered"
    for gpu in (after.gpus[0], after.gpus[1], after.gpus[3]):
        assert gpu.problem == "" and lost.uuid not in gpu.nvlinks and len(gpu.nvlinks) == 2
        assert not gpu.lost


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (RESET_REQUIRED, "nvidia-smi --gpu-reset"),
        (UNKNOWN, "unknown error"),
        (17, "NVML's error 17"),
    ],
)
def test_a_failure_in_the_middle_of_a_read_is_the_gpus_problem(
    nvml: StandIn, code: int, words: str
) -> None:
    nvml.write([StandInGpu(0, errors={"nvmlDeviceGetPowerUsage": code}), StandInGpu(1)])
    failed, well = read(nvml).gpus
    assert words in failed.problem and failed.name == "NVIDIA H200"
    assert well.problem == ""


def test_a_gpu_that_cannot_be_opened_is_in_the_report_or_remembered(nvml: StandIn) -> None:
    unopened = StandInGpu(1, errors={"nvmlDeviceGetHandleByIndex_v2": NO_PERMISSION})
    nvml.write([StandInGpu(0), unopened])
    report = read(nvml)
    assert [gpu.index for gpu in report.gpus] == [0]
    assert report.problem.startswith("GPU 1 cannot be read. This user may not use it.")

    nvml.write([StandInGpu(0), StandInGpu(1)])
    with asking(nvml) as one:
        assert len(one.read().gpus) == 2
        nvml.write([StandInGpu(0), unopened])
        report = one.read()
    assert report.problem == "" and report.gpus[1].uuid == unopened.uuid
    assert "may not use it" in report.gpus[1].problem
    assert not report.gpus[1].lost, "what runs on it may go on"


def test_a_gpu_that_is_gone_is_not_forgotten_and_may_come_back(nvml: StandIn) -> None:
    nvml.write(joined(2))
    with asking(nvml, reopen_after=0.0) as one:
        assert len(one.read().gpus) == 2
        nvml.write(joined(1))
        for words in ("fallen off the bus", "does not know it any more"):
            kept, gone = one.read().gpus  # the library is opened anew behind the first
            assert kept.problem == "" and words in gone.problem and gone.lost
        nvml.write(joined(2))
        assert [gpu.problem for gpu in one.read().gpus] == ["", ""]


def test_a_gpu_that_cannot_be_opened_is_not_taken_for_one_whose_index_has_changed(
    nvml: StandIn,
) -> None:
    gpus = joined(3)
    nvml.write(gpus)
    with asking(nvml, reopen_after=0.0) as one:
        assert len(one.read().gpus) == 3
        # The first one goes, so that the others move up, and the last of them is not opened.
        first, last = StandInGpu(0, uuid=gpus[1].uuid), StandInGpu(1, uuid=gpus[2].uuid)
        last.errors = {"nvmlDeviceGetHandleByIndex_v2": NO_PERMISSION}
        nvml.write([first, last])
        for _ in range(2):  # the library is opened anew behind the first
            report = one.read()
            (moved,) = [gpu for gpu in report.gpus if gpu.uuid == gpus[1].uuid]
            assert (moved.index, moved.problem) == (0, "")
            assert "GPU 1 cannot be read" in report.problem and report.unread


def test_a_gpu_that_fails_under_a_new_index_has_that(nvml: StandIn) -> None:
    gpus = joined(2)
    nvml.write(gpus)
    with asking(nvml) as one:
        one.read()
        moved = StandInGpu(0, uuid=gpus[1].uuid, errors={"nvmlDeviceGetPowerUsage": UNKNOWN})
        nvml.write([moved])
        (found,) = [gpu for gpu in one.read().gpus if gpu.uuid == moved.uuid]
        assert found.index == 0 and "unknown error" in found.problem


def test_the_library_stays_open_while_all_is_well(nvml: StandIn) -> None:
    nvml.write(joined(1))
    with asking(nvml, reopen_after=0.0) as one:
        one.read()
        nvml.write(joined(1), init=UNKNOWN)
        assert [gpu.problem for gpu in one.read().gpus] == [""]


def test_the_library_stays_open_while_a_gpu_has_just_failed(nvml: StandIn) -> None:
    nvml.write(joined(2))
    with asking(nvml) as one:
        assert len(one.read().gpus) == 2
        nvml.write(joined(1))
        nvml.write(joined(1), init=UNKNOWN)
        for _ in range(2):
            assert [bool(gpu.problem) for gpu in one.read().gpus] == [False, True]


@pytest.mark.parametrize(
    "call",
    [
        *("nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetNumaNodeId", "nvmlDeviceGetFieldValues"),
        *("nvmlDeviceGetP2PStatus", "nvmlDeviceGetNvLinkState"),
    ],
)
def test_what_engines_can_do_without_makes_no_gpu_unusable(nvml: StandIn, call: str) -> None:
    gpus = joined(2)
    gpus[0].errors = {call: UNKNOWN}
    nvml.write(gpus)
    assert [gpu.problem for gpu in read(nvml).gpus] == ["", ""]


def test_what_the_driver_wants_done_is_the_gpus_problem(nvml: StandIn) -> None:
    nvml.write([StandInGpu(0, recovery=1), StandInGpu(1, recovery=3), StandInGpu(2, recovery=None)])
    gpus = read(nvml).gpus
    assert ["asks for its reset" in gpu.problem for gpu in gpus] == [True, False, False]
    assert [gpu.lost for gpu in gpus] == [True, False, False]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (DRIVER_NOT_LOADED, "modprobe nvidia"),
        (NO_PERMISSION, "This user may not talk to the NVIDIA driver"),
        (LIB_RM_VERSION_MISMATCH, "was updated, and the old one is still loaded"),
        (77, "NVML's error 77"),
    ],
)
def test_a_driver_that_does_not_start_is_told_in_words(
    nvml: StandIn, code: int, words: str
) -> None:
    nvml.write(joined(1), init=code)
    with asking(nvml) as one:
        report = one.read()
        assert words in report.problem
        assert (report.gpus, report.driver_version) == ([], None)
        assert report.unread or code == DRIVER_NOT_LOADED
        assert report.expected
        nvml.write(joined(1))
        assert len(one.read().gpus) == 1, "it is tried anew each time"


def test_a_machine_without_a_driver_says_so(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")  # in front of any that is here
    with asking(None, LD_LIBRARY_PATH=str(tmp_path)) as one:
        report = one.read()
    assert report.gpus == []
    assert report.problem.startswith("There is no NVIDIA driver here") and not report.unread


@pytest.mark.parametrize(
    ("vendor", "kind", "unread"),
    [("0x10de", "0x030200", True), ("0x10de", "0x020700", False), ("0x8086", "0x030000", False)],
    ids=["a GPU", "a switch of NVIDIA's", "a GPU of another maker"],
)
def test_a_driver_that_is_not_loaded_hides_the_gpus_that_are_on_the_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, kind: str, unread: bool
) -> None:
    hide_gpus(tmp_path, monkeypatch)
    device = tmp_path / "bus" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    assert driver._may_have_gpus(DRIVER_NOT_LOADED) == unread
    assert driver._may_have_gpus(LIB_RM_VERSION_MISMATCH)
    assert not driver._may_have_gpus(driver.NO_LIBRARY)


@pytest.mark.parametrize("shown", ["dev/nvidia0", "gpus/0000:01:00.0"])
def test_a_gpu_is_also_seen_where_a_container_hides_the_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    hide_gpus(tmp_path, monkeypatch)
    place = tmp_path / shown
    place.parent.mkdir()
    (place.parent / "nvidiactl").touch()
    assert driver._may_have_gpus(DRIVER_NOT_LOADED) == (place.parent.name == "gpus")
    place.touch()
    assert driver._may_have_gpus(DRIVER_NOT_LOADED)


def hide_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this a machine that shows GPUs only where a test puts some."""
    monkeypatch.setattr(driver, "PCI", folder / "bus")
    monkeypatch.setattr(driver, "NODES", folder / "dev")
    monkeypatch.setattr(driver, "LOADED", folder / "gpus")


def test_a_driver_without_gpus_says_so(nvml: StandIn) -> None:
    report = read(nvml)
    assert "finds no GPU" in report.problem and not report.unread and report.expected


def test_a_driver_that_fails_while_it_runs_is_opened_again(nvml: StandIn) -> None:
    nvml.write(joined(1))
    with asking(nvml) as one:
        assert len(one.read().gpus) == 1
        nvml.write(joined(1), errors={"nvmlDeviceGetCount_v2": UNKNOWN})
        assert "unknown" in one.read().problem.lower()
        nvml.write(joined(2))
        assert len(one.read().gpus) == 2, "only a library that is opened sees how many there are"


# a driver that hangs


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo_v2"])
def test_a_call_that_hangs_is_told_piles_up_no_threads_and_ends(nvml: StandIn, call: str) -> None:
    nvml.write(joined(1))
    with asking(nvml, deadline=0.5) as one:
        if call != "nvmlInitWithFlags":
            # Else a busy machine takes the deadline for what comes before the first call.
            eventually(lambda: one.read().problem == "", "the driver is there")
        nvml.write(joined(1), hang=[call])
        report = one.read()
        for again in (one.read(), one.read(), report):
            assert again.gpus == [] and "has not answered for" in again.problem and again.unread
        if call != "nvmlInitWithFlags":
            assert f"GPU 0: {call.removesuffix('_v2')}" in report.problem
        assert one.ask("threads", list[str]) == ["nvml"]
        nvml.write(joined(1))
        eventually(lambda: one.read().problem == "", "the driver answers again")
        assert len(one.read().gpus) == 1
        assert one.ask("threads", list[str]) == ["nvml"]


@pytest.mark.parametrize("call", ["nvmlDeviceGetName", "nvmlShutdown"])
def test_the_end_waits_for_no_driver_that_hangs(nvml: StandIn, call: str) -> None:
    nvml.write(joined(1))
    with asking(nvml, deadline=0.5) as one:
        one.read()
        nvml.write(joined(1), hang=[call])
        one.read()
        assert one.ask("close", str) == "closed"
        assert one.ask("threads", list[str]) == ["nvml"], "it is left alone, with its driver"
        assert "the server ends" in one.read().problem
        one.tell("")
        assert one.process.wait() == 0


def test_who_joins_a_read_waits_no_longer_than_its_deadline() -> None:
    reader = Reader(deadline=5.0)
    reader._begun = time.monotonic() - 60.0
    assert reader._left() == 0.0


def test_those_who_read_at_the_same_time_share_one_read(nvml: StandIn) -> None:
    nvml.write(joined(2))
    with asking(nvml) as one:
        assert one.ask("read twice", bool)
        assert one.ask("threads", list[str]) == ["nvml"]
        assert one.ask("close", str) == "closed"
        eventually(lambda: not one.ask("threads", list[str]), "the thread has ended")
