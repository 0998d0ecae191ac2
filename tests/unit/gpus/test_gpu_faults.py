"""What GPUs report by themselves, and which of it ends their instances."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

import pytest

from gpustack_fast.gpus import eject_reason, faults, words
from gpustack_fast.gpus.faults import FaultWatch, GpuFault
from gpustack_fast.gpus.xids import XIDS, meaning_of
from nvml.asking import Asking, asking
from nvml.stand_in import (
    DOUBLE_BIT_ECC_EVENT,
    StandIn,
    StandInGpu,
    StandInSlice,
    joined,
)
from raw_http import eventually

EJECTING = {46, 48, 54, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 151, 156, 158}
EJECTING |= {167, 171, 172}


def test_what_only_a_reset_or_a_restart_heals_ejects() -> None:
    assert {number for number in range(1000) if eject_reason(number) is not None} == EJECTING
    for number in EJECTING:
        reason = eject_reason(number)
        assert reason is not None and f"(Xid {number})" in reason and reason.endswith(".")


@pytest.mark.parametrize("number", [13, 31, 43, 45, 63, 92, 94, 154, 155, 9999])
def test_what_is_of_an_application_or_harmless_does_not_eject(number: int) -> None:
    assert eject_reason(number) is None


def test_every_xid_has_a_meaning_and_a_next_step() -> None:
    for number, known in XIDS.items():
        assert known.meaning and not known.meaning.endswith("."), number
        assert known.action.endswith(".") and known == meaning_of(number)
    assert "Look it up" in meaning_of(9999).action


def watching(one: Asking, report: Callable[[], None]) -> GpuFault:
    """The first fault that is told after `report`, which is repeated until the watch has begun."""
    heard: list[GpuFault] = []

    def told() -> bool:
        report()
        time.sleep(0.05)
        return bool(heard)

    listener = threading.Thread(target=lambda: heard.append(one.hear(GpuFault)), daemon=True)
    listener.start()
    eventually(told, "a fault is told")
    listener.join()
    return heard[0]


def test_an_xid_is_told_with_what_it_means_and_what_to_do(nvml: StandIn) -> None:
    gpus = joined(4)
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        fault = watching(one, lambda: nvml.xid(gpus[2].uuid, 79))
    assert (fault.uuid, fault.devices, fault.xid) == (gpus[2].uuid, [gpus[2].uuid], 79)
    assert fault.ejects and "fallen off the bus (Xid 79). Restart the machine." in fault.message


def test_an_xid_of_an_application_is_told_and_ejects_nothing(nvml: StandIn) -> None:
    gpus = joined(1)
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        fault = watching(one, lambda: nvml.xid(gpus[0].uuid, 31))
    assert not fault.ejects and "page fault" in fault.message and "engine" in fault.message


def test_an_uncorrectable_memory_error_ejects(nvml: StandIn) -> None:
    gpus = joined(1)
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        fault = watching(one, lambda: nvml.event(gpus[0].uuid, DOUBLE_BIT_ECC_EVENT))
    assert fault.ejects and "uncorrectable" in fault.message


@pytest.mark.parametrize(("kind", "xid"), [(faults.FATAL_POISON, 95), (faults.UNAVAILABLE, 79)])
def test_an_event_without_a_number_means_what_a_number_means(
    nvml: StandIn, kind: int, xid: int
) -> None:
    gpus = [StandInGpu(0, events=0xFFFF)]
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        fault = watching(one, lambda: nvml.event(gpus[0].uuid, kind))
    assert (fault.xid, fault.ejects) == (xid, True)


def test_what_comes_behind_the_end_of_a_watch_is_told_to_nobody() -> None:
    told: list[GpuFault] = []
    watch = faults.FaultWatch(told.append)
    fault = GpuFault(uuid="GPU-0", devices=[], xid=79, message="", ejects=True, at=0.0)
    watch._hand_over(fault)
    watch.close()
    watch._hand_over(fault)
    assert told == [fault]


def test_the_actions_that_a_driver_may_ask_for_are_told_from_those_that_leave_a_gpu_usable() -> (
    None
):
    assert [action for action in range(20) if words.of_recovery(action)] == [1, 2, 4, 6, 7]


@pytest.mark.parametrize(
    ("instance", "hit"),
    [({"gi": 2, "ci": 1}, [2]), ({"gi": 2}, [1, 2])],
    ids=["of a compute instance", "of a whole GPU instance"],
)
def test_an_xid_of_an_instance_hits_its_slices_alone(
    nvml: StandIn, instance: dict[str, int], hit: list[int]
) -> None:
    slices = [StandInSlice(0, gi=1), StandInSlice(2, gi=2), StandInSlice(3, gi=2, ci=1)]
    gpus = [StandInGpu(0, mig=1, slices=slices)]
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        fault = watching(one, lambda: nvml.xid(gpus[0].uuid, 95, **instance))
        assert fault.devices == [slices[number].uuid for number in hit]


def test_an_xid_of_a_divided_gpu_hits_all_its_slices(nvml: StandIn) -> None:
    slices = [StandInSlice(0, gi=1), StandInSlice(2, gi=2)]
    gpus = [StandInGpu(0, mig=1, slices=slices)]
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        fault = watching(one, lambda: nvml.xid(gpus[0].uuid, 79))
        assert fault.devices == [gpus[0].uuid, slices[0].uuid, slices[1].uuid]


@pytest.mark.parametrize(("action", "ejects"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_changed_recovery_action_is_asked_of_the_driver(
    nvml: StandIn, action: int, ejects: bool
) -> None:
    gpus = [StandInGpu(0, recovery=action)]
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        assert watching(one, lambda: nvml.xid(gpus[0].uuid, 154)).ejects == ejects


def test_a_gpu_that_the_wait_finds_lost_is_told_once(nvml: StandIn) -> None:
    gpus = joined(2)
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        watching(one, lambda: nvml.xid(gpus[0].uuid, 31))
        gpus[1].lost = True
        nvml.write(gpus, errors={"nvmlEventSetWait_v2": 15})
        # Events of before may still come.
        fault = next(found for found in iter(lambda: one.hear(GpuFault), None) if not found.xid)
        assert (fault.uuid, fault.ejects) == (gpus[1].uuid, True)
        assert "fallen off the bus" in fault.message


def test_a_lost_gpu_is_found_by_a_driver_that_tells_no_temperatures(nvml: StandIn) -> None:
    """As drivers of CUDA 14 by the call that was the usual one."""
    gpus = [StandInGpu(0, temperature=None), StandInGpu(1, temperature=None)]
    nvml.write(gpus)
    without = {"nvmlDeviceGetTemperature": 13}
    nvml.write(gpus, errors=without)
    with asking(nvml) as one:
        one.tell("watch")
        watching(one, lambda: nvml.xid(gpus[0].uuid, 31))
        gpus[1].errors = {**without, "*": 15}
        nvml.write(gpus, errors={**without, "nvmlEventSetWait_v2": 15})
        fault = next(found for found in iter(lambda: one.hear(GpuFault), None) if not found.xid)
        assert (fault.uuid, fault.ejects) == (gpus[1].uuid, True)


def test_a_gpu_that_reports_no_events_does_not_keep_others_from_it(nvml: StandIn) -> None:
    gpus = [StandInGpu(0, events=0), StandInGpu(1, errors={"nvmlDeviceRegisterEvents": 3})]
    gpus.append(StandInGpu(2))
    nvml.write(gpus)
    with asking(nvml) as one:
        one.tell("watch")
        assert watching(one, lambda: nvml.xid(gpus[2].uuid, 48)).uuid == gpus[2].uuid


def test_a_watch_whose_driver_hangs_holds_up_no_end(nvml: StandIn) -> None:
    nvml.write(joined(1), hang=["nvmlEventSetWait_v2"])
    with asking(nvml) as one:
        one.tell("watch")
        assert one.ask("close", str) == "closed"
        one.tell("")
        assert one.process.wait() == 0


def test_a_watch_that_a_mistake_ends_is_begun_again_and_that_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a driver whose words are no text."""
    tries, enough = list[int](), threading.Event()

    class Broken:
        NVMLError = KeyError

        @staticmethod
        def nvmlInit() -> None:
            tries.append(len(tries))
            if len(tries) == 4:
                enough.set()
            b"GPU-\xff".decode()

    monkeypatch.setattr(faults, "RETRY_AFTER", 0.01)
    monkeypatch.setitem(sys.modules, "pynvml", Broken)

    async def scenario() -> None:
        watch = FaultWatch(lambda _: None)
        watch.start()
        assert await asyncio.to_thread(enough.wait, 20), "it is begun again"
        watch.close()

    asyncio.run(scenario())
    (line,) = [one for one in caplog.records if one.name == faults.__name__]
    assert "ended by a mistake; it is begun again" in line.getMessage()
    assert line.exc_info is not None and isinstance(line.exc_info[1], UnicodeDecodeError)
