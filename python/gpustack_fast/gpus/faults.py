"""Waits for what GPUs report by themselves: Xids, and memory errors that cannot be corrected.

In a thread of its own with short waits, so that an instance on a broken GPU goes before its first
request times out. Like the reader it waits for no driver that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from msgspec import Struct

from gpustack_fast.gpus import words
from gpustack_fast.gpus.xids import eject_reason, meaning_of

__all__ = ["FaultWatch", "GpuFault"]

log = logging.getLogger(__name__)

WAIT = 250
"""Milliseconds of one wait, after which the end of the watch is seen."""
RETRY_AFTER = 10.0
"""Seconds until a driver is tried again that could not be watched."""
LOOK_AGAIN_AFTER = 60.0
"""Seconds after which a watch begins anew that lacks a GPU: it may have been reset meanwhile, and
only a library that is opened anew knows.
"""
XID = 0x8  # nvmlEventTypeXidCriticalError
DOUBLE_BIT_ECC = 0x2  # nvmlEventTypeDoubleBitEccError
FATAL_POISON = 0x2000  # nvmlEventTypeFatalPoisonError
UNAVAILABLE = 0x4000  # nvmlEventTypeGpuUnavailableError
WANTED = XID | DOUBLE_BIT_ECC | FATAL_POISON | UNAVAILABLE
RECOVERY_ACTION_CHANGED = 154
ALL = 0xFFFFFFFF
"""In place of an instance's number: an event is of the whole GPU."""
LOST = (15, 16)
"""GpuIsLost, ResetRequired"""

_OTHER = {
    DOUBLE_BIT_ECC: 48,
    FATAL_POISON: 95,
    UNAVAILABLE: 79,
}
"""Events without a number of their own, by the Xid that means the same."""


class GpuFault(Struct, frozen=True, kw_only=True):
    """Something that a GPU has reported."""

    uuid: str
    """Of the GPU."""
    devices: list[str]
    """The UUIDs of what it hit: the GPU and all its slices, or some slices of it."""
    xid: int | None
    """None: the GPU does not respond at all, or its driver wants it reset."""
    message: str
    """What it is and what to do, in sentences."""
    ejects: bool
    """Whether the instances on these devices have to go, and nothing may be started there."""
    at: float
    """Unix seconds."""


class FaultWatch:
    """Tells of faults on the event loop that starts it, as long as it runs."""

    def __init__(self, tell: Callable[[GpuFault], None]) -> None:
        self._tell = tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._lost: set[str] = set()
        """The UUIDs of GPUs that do not respond, and that this was told of."""
        self._told = ""
        """Why the last watch ended, which is told once."""

    def start(self) -> None:
        """Begins. A machine without a driver, or whose driver cannot be watched, has no faults.

        Raises RuntimeError where no thread can be started.
        """
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="nvml-events", daemon=True).start()

    def close(self) -> None:
        """Ends soon, and tells of nothing more from now on. It waits for nobody."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.ExitStack() as otherwise:
                # Else the thread would end, and no fault be told any more.
                otherwise.push(self._tell_mistake)
                self._try()
            self._stop.wait(RETRY_AFTER)

    def _try(self) -> None:
        """One watch, as long as it lasts; says why where there is none."""
        import pynvml  # slow, and of no use to those who watch nothing

        try:
            self._watch(pynvml)
        except pynvml.NVMLError as error:
            text = words.of_driver(error.value, str(error))
            if text != self._told:
                # On most machines without GPUs, so that it is no news there.
                missing = error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
                level = logging.DEBUG if missing else logging.INFO
                log.log(level, "GPUs are not watched for faults. %s", text)
            self._told = text

    def _tell_mistake(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> bool:
        """Tells once what ended a watch, and is neither a driver's nor expected of anybody."""
        if error is None:
            return False
        text = repr(error)
        if text != self._told:
            log.error(
                "The watch for faults of GPUs ended by a mistake; it is begun again every %g s.",
                RETRY_AFTER,
                exc_info=error,
            )
        self._told = text
        return True

    def _watch(self, nvml: Any) -> None:
        """Until the end, until a GPU is lost, or for a while if one is. Raises NVMLError."""
        nvml.nvmlInit()
        try:
            events = nvml.nvmlEventSetCreate()
            try:
                known = _register(nvml, events)
                self._lost -= {uuid for uuid, handle in known.items() if _responds(nvml, handle)}
                whole = len(known) == nvml.nvmlDeviceGetCount()
                until = float("inf") if whole else time.monotonic() + LOOK_AGAIN_AFTER
                self._wait(nvml, events, known, until)
            finally:
                nvml.nvmlEventSetFree(events)
        finally:
            nvml.nvmlShutdown()

    def _wait(self, nvml: Any, events: Any, known: dict[str, Any], until: float) -> None:
        while not self._stop.is_set() and time.monotonic() < until:
            try:
                data = nvml.nvmlEventSetWait(events, WAIT)
            except nvml.NVMLError_Timeout:
                continue
            except nvml.NVMLError_GpuIsLost:
                for uuid, handle in known.items():
                    if uuid not in self._lost and not _responds(nvml, handle):
                        self._lost.add(uuid)
                        self._say(nvml, handle, uuid, None, words.of_gpu(LOST[0], ""))
                return
            for uuid, handle in known.items():
                if _same(handle, data.device):
                    self._report(nvml, uuid, data)

    def _report(self, nvml: Any, uuid: str, data: Any) -> None:
        number = data.eventData if data.eventType == XID else _OTHER.get(data.eventType)
        if number is None:
            return
        reason: str | None = eject_reason(number)
        if number == RECOVERY_ACTION_CHANGED:
            reason = words.of_recovery(_recovery_action(nvml, data.device)) or None
        instance = (data.gpuInstanceId, data.computeInstanceId)
        self._say(nvml, data.device, uuid, number, reason, instance)

    def _say(
        self,
        nvml: Any,
        handle: Any,
        uuid: str,
        xid: int | None,
        reason: str | None,
        instance: tuple[int, int] = (ALL, ALL),
    ) -> None:
        known = meaning_of(xid or 0)
        harmless = f"The GPU has reported {known.meaning} (Xid {xid}). {known.action}"
        fault = GpuFault(
            uuid=uuid,
            devices=_devices(nvml, handle, uuid, instance),
            xid=xid,
            message=harmless if reason is None else reason,
            ejects=reason is not None,
            at=time.time(),
        )
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._hand_over, fault)
        except RuntimeError:
            self._stop.set()  # the loop has ended

    def _hand_over(self, fault: GpuFault) -> None:
        if not self._stop.is_set():
            self._tell(fault)


def _register(nvml: Any, events: Any) -> dict[str, Any]:
    """Asks for the events of all GPUs that can be asked: the handles of these, by UUID."""
    known: dict[str, Any] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid: str = nvml.nvmlDeviceGetUUID(handle)
            if not _listen(nvml, handle, events):
                log.info("GPU %d does not report its faults.", index)
        except nvml.NVMLError as error:
            log.info("GPU %d is not watched for faults: %s.", index, error)
        else:
            known[uuid] = handle
    return known


def _listen(nvml: Any, handle: Any, events: Any) -> bool:
    """Asks for the events of a GPU; whether it has any."""
    try:
        types = WANTED & nvml.nvmlDeviceGetSupportedEventTypes(handle)
        if types:
            nvml.nvmlDeviceRegisterEvents(handle, types, events)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(types)


def _same(one: Any, other: Any) -> bool:
    """Whether two handles are the same pointer."""
    return ctypes.addressof(one.contents) == ctypes.addressof(other.contents)


def _responds(nvml: Any, handle: Any) -> bool:
    try:
        nvml.nvmlDeviceGetMemoryInfo(handle)  # every driver has it, with whatever GPU
    except nvml.NVMLError as error:
        return error.value not in LOST
    return True


def _recovery_action(nvml: Any, handle: Any) -> int:
    try:
        read = nvml.nvmlDeviceGetFieldValues(handle, [230])[0]
    except nvml.NVMLError:
        return 0
    return int(read.value.uiVal) if read.nvmlReturn == 0 else 0


def _devices(nvml: Any, handle: Any, uuid: str, instance: tuple[int, int]) -> list[str]:
    """The UUIDs of what an event hit; where its slices cannot be told apart, all of them."""
    slices = list(_slices(nvml, handle))
    hit = [one for one, gi, ci in slices if gi == instance[0] and instance[1] in (ci, ALL)]
    return hit or [uuid, *(one for one, _, _ in slices)]


def _slices(nvml: Any, handle: Any) -> Iterator[tuple[str, int, int]]:
    """Each slice of a GPU: its UUID, and the numbers of its GPU and compute instance."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != 1:
            return
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        return
    for index in range(count):
        try:
            one = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            numbers = nvml.nvmlDeviceGetGpuInstanceId(one), nvml.nvmlDeviceGetComputeInstanceId(one)
            yield nvml.nvmlDeviceGetUUID(one), *numbers
        except nvml.NVMLError:
            continue  # a hole
