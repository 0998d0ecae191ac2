"""The NVIDIA driver, asked through pynvml. Every call here may take as long as the driver likes.

What a single call does not tell (not supported, not permitted, too new for this driver) is None.
Where a call says that the GPU itself has failed, nothing more is asked of it, and `problem` says
so. Facts about the calls: the comments of NVIDIA's `nvml.h` (package nvidia-nvml-dev 13.5).

Nothing of this was seen on real GPUs yet: it is tested with the real pynvml and a stand-in for the
library under it.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from gpustack_fast.gpus import words
from gpustack_fast.gpus.documents import Gpu, GpuProcess, GpuReport, MigSlice

__all__ = ["Driver"]

NOT_TOLD = frozenset([2, 3, 4, 6, 7, 10, 13, 21, 25, 26, 27])
"""Codes by which a single call has no answer, and nothing is wrong: argument, support, permission,
not found, size, timeout, function not found, no data, versions, not ready.
"""
LOST = (15, 16)
"""GpuIsLost, ResetRequired"""
NOT_LOADED = 9
NO_LIBRARY = 12
PCI = Path("/sys/bus/pci/devices")
NODES = Path("/dev")
LOADED = Path("/proc/driver/nvidia/gpus")
"""What the module nvidia shows; of the whole machine also in containers that hide the bus."""
REOPEN_AFTER = 60.0
"""Seconds after which the library is opened anew while a GPU has failed. It knows only the GPUs
that were there when it was opened, and keeps them open, which a reset does not like.
"""
NVLINK = 2
"""NVML_P2P_CAPS_INDEX_NVLINK"""
NUMA_WORDS = 16
"""Words of 64 bits, so many nodes can be named in them."""


class Driver:
    """The library and what was seen of its GPUs. For one thread alone."""

    def __init__(self) -> None:
        self.asked = ""
        """What is being asked at this moment, a noun: for whoever waits for it."""
        self._nvml: Any = None
        self._opened_at: float | None = None
        """Monotonic seconds; None: it is not open."""
        self._seen: dict[str, Gpu] = {}
        """Every GPU that was ever well, by UUID, as it was then."""

    def read(self) -> GpuReport:
        """Reads all GPUs. Errors of the driver are in the report."""
        self._load()
        try:
            self._open()
            self.asked = "the number of GPUs"
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            self.close()
            return GpuReport(
                driver_version=None,
                cuda_version=None,
                gpus=[],
                problem=words.of_driver(error.value, str(error)),
                unread=_may_have_gpus(error.value),
                expected=error.value != NO_LIBRARY or _shows_gpus(),
            )
        system = _Questions(self, "the driver's version")
        driver_version = system.ask("nvmlSystemGetDriverVersion")
        cuda_version = system.ask("nvmlSystemGetCudaDriverVersion_v2")
        gpus, problems = self._gpus(count)
        unread = bool(problems)
        if not gpus and not problems:
            problems.append(words.no_gpus())
        self._reopen_later(gpus, problems)
        return GpuReport(
            driver_version=driver_version,
            cuda_version=None
            if cuda_version is None
            else f"{cuda_version // 1000}.{cuda_version % 1000 // 10}",
            gpus=gpus,
            problem=" ".join(problems),
            unread=unread,
            expected=True,
        )

    def close(self) -> None:
        """Lets the library go, if it is open."""
        if self._opened_at is None:
            return
        self._opened_at = None
        self.asked = "the end of the library"
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            pass  # it is opened anew in any case

    def _load(self) -> None:
        if self._nvml is None:
            # It takes a sixth of a second, which commands that show no GPUs shall not take.
            import pynvml

            self._nvml = pynvml

    def _open(self) -> None:
        if self._opened_at is None:
            self.asked = "its start"
            self._nvml.nvmlInit()
            self._opened_at = time.monotonic()

    def _reopen_later(self, gpus: list[Gpu], problems: list[str]) -> None:
        failed = bool(problems) or any(one.problem for one in gpus)
        opened_at = time.monotonic() if self._opened_at is None else self._opened_at
        if failed and time.monotonic() - opened_at >= REOPEN_AFTER:
            self.close()

    def _gpus(self, count: int) -> tuple[list[Gpu], list[str]]:
        """The GPUs in the order of their indexes, and why some are not among them."""
        found: list[tuple[Any, Gpu]] = []
        problems, unknown = [], dict[int, _Questions]()
        for index in range(count):
            questions = _Questions(self, f"GPU {index}")
            handle = questions.ask("nvmlDeviceGetHandleByIndex", index, needed=True)
            gpu = None if handle is None else self._gpu(index, handle, questions)
            if gpu is None:
                unknown[index] = questions
            else:
                found.append((handle, gpu))
        for index, questions in unknown.items():
            gpu = self._remembered(index, questions, {one.uuid for _, one in found})
            if gpu is None:
                problems.append(f"GPU {index} cannot be read. {questions.problem}")
            else:
                found.append((None, gpu))
        gpus = self._with_links(found)
        for gpu in gpus:
            if not gpu.problem:
                self._seen[gpu.uuid] = gpu
        here = {gpu.uuid for gpu in gpus}
        gone = [replace(_unread(one), problem=_GONE, lost=True) for one in self._seen.values()]
        gpus += [one for one in gone if one.uuid not in here]
        return sorted(gpus, key=lambda one: one.index), problems

    def _remembered(self, index: int, questions: _Questions, here: set[str]) -> Gpu | None:
        """A GPU that does not even say who it is, as it was known by its index: none of those that
        are `here`, which have others since one has gone.
        """
        for one in self._seen.values():
            if one.index == index and one.uuid not in here:
                return replace(_unread(one), problem=questions.problem, lost=questions.lost)
        return None

    def _gpu(self, index: int, handle: Any, questions: _Questions) -> Gpu | None:
        """One GPU without its links; None: it does not say who it is."""
        ask = questions.ask
        uuid = ask("nvmlDeviceGetUUID", handle, needed=True)
        if uuid is None:
            return None
        pci = ask("nvmlDeviceGetPciInfo", handle)
        name = ask("nvmlDeviceGetName", handle)
        mode = ask("nvmlDeviceGetMigMode", handle)
        mig = mode is not None and mode[0] == 1
        slices, slice_handles = self._slices(handle, questions) if mig else ([], [])
        total, used = _memory(handle, questions)
        processes = _processes(handle, questions)
        if mig:
            # Of the whole GPU only privileged users are told.
            total = total or sum(one.memory_total for one in slices) or None
            used = _sum([one.memory_used for one in slices]) if used is None else used
            if processes is None:
                processes = _joined([_processes(one, questions) for one in slice_handles])
        rates = ask("nvmlDeviceGetUtilizationRates", handle)
        compute = ask("nvmlDeviceGetCudaComputeCapability", handle)
        action = _recovery_action(handle, questions)
        read = Gpu(
            index=index,
            uuid=uuid,
            name=name or "NVIDIA GPU",
            memory_total=total or 0,
            memory_used=used,
            utilization=None if rates is None else rates.gpu,
            temperature=_temperature(handle, questions),
            power=_watts(ask("nvmlDeviceGetPowerUsage", handle)),
            power_limit=_watts(ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
            compute_capability=None if compute is None else f"{compute[0]}.{compute[1]}",
            pci_bus_id="" if pci is None else _text(pci.busId),
            numa_node=_numa_node(handle, questions),
            nvlinks=[],
            mig=mig,
            slices=slices,
            processes=processes,
        )
        asked = words.of_recovery(action)
        problem = questions.problem or asked or _unusable(read)
        if questions.problem and uuid in self._seen:
            # It fails in the middle of the questions: what does not change is known from before.
            read = _unread(self._seen[uuid])
        lost = questions.lost or bool(asked)
        return replace(read, index=index, problem=problem, lost=lost)

    def _slices(self, handle: Any, questions: _Questions) -> tuple[list[MigSlice], list[Any]]:
        """The slices of a GPU and their handles. Indexes may have holes."""
        slices, handles = [], []
        for index in range(questions.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            one = questions.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            uuid = None if one is None else questions.ask("nvmlDeviceGetUUID", one)
            if uuid is None:
                continue
            total, used = _memory(one, questions)
            name = questions.ask("nvmlDeviceGetName", one) or "MIG slice"
            slices.append(MigSlice(uuid=uuid, name=name, memory_total=total or 0, memory_used=used))
            handles.append(one)
        return slices, handles

    def _with_links(self, found: list[tuple[Any, Gpu]]) -> list[Gpu]:
        """The GPUs with whom NVLink joins them, directly or through switches."""
        gpus = []
        by_bus = {gpu.pci_bus_id.lower(): gpu.uuid for _, gpu in found if gpu.pci_bus_id}
        for handle, gpu in found:
            if handle is not None and not gpu.problem and not gpu.mig:
                # A fault here may be the other end's, and is found there.
                questions = _Questions(self, f"the links of GPU {gpu.index}")
                links = _peers(handle, gpu, found, questions)
                if links is None:
                    links = _remotes(handle, by_bus, questions)
                gpu = replace(gpu, nvlinks=links)
            gpus.append(gpu)
        return gpus


_GONE = (
    "It was here, and the driver does not know it any more: it has fallen off the bus, or was "
    "taken out. Restart the machine if it should be there."
)


class _Questions:
    """Questions about one thing. After the first that tells of a fault nothing more is asked."""

    def __init__(self, driver: Driver, subject: str) -> None:
        self.problem = ""
        self.lost = False
        """Whether it is the fault that the GPU has fallen off the bus, or has to be reset."""
        self._driver = driver
        self._subject = subject

    def ask(self, name: str, *arguments: Any, needed: bool = False, aside: bool = False) -> Any:
        """What the call returns; None: it does not say. `needed`: then that is a fault, too.
        `aside`: only that the GPU is lost is one, for engines can do without this.
        """
        if self.problem:
            return None
        nvml = self._driver._nvml
        self._driver.asked = f"{self._subject}: {name}"
        try:
            return getattr(nvml, name)(*arguments)
        except nvml.NVMLError as error:
            lost = error.value in LOST
            if needed or lost or (not aside and error.value not in NOT_TOLD):
                self.problem, self.lost = words.of_gpu(error.value, str(error)), lost
        except UnicodeDecodeError:
            pass  # a name that is no text
        return None


def _memory(handle: Any, questions: _Questions) -> tuple[int | None, int | None]:
    """Bytes that programs can have, all and used; without what the driver keeps for itself, where
    it says how much that is.
    """
    version = 0x02000028  # nvmlMemory_v2
    if (memory := questions.ask("nvmlDeviceGetMemoryInfo", handle, version)) is not None:
        return memory.total - memory.reserved, memory.used
    if (memory := questions.ask("nvmlDeviceGetMemoryInfo", handle)) is not None:
        return memory.total, memory.used
    return None, None


def _temperature(handle: Any, questions: _Questions) -> int | None:
    sensor = 0  # NVML_TEMPERATURE_GPU
    degrees: int | None = questions.ask("nvmlDeviceGetTemperatureV", handle, sensor)
    if degrees is None:  # a driver from before it; the next call ends with CUDA 14
        degrees = questions.ask("nvmlDeviceGetTemperature", handle, sensor)
    return degrees


def _processes(handle: Any, questions: _Questions) -> list[GpuProcess] | None:
    """By the names with versions: without one, pynvml raises what is no error of NVML's where a
    driver is older. It asks for the number first, and makes room for twice as many.
    """
    found = questions.ask("nvmlDeviceGetComputeRunningProcesses_v3", handle)
    if found is None:
        found = questions.ask("nvmlDeviceGetComputeRunningProcesses_v2", handle)
    if found is None:
        return None
    return [GpuProcess(pid=one.pid, memory=one.usedGpuMemory) for one in found]


def _numa_node(handle: Any, questions: _Questions) -> int | None:
    """The node whose processors and memory are nearest.

    nvmlDeviceGetNumaNodeId is for GPUs that are nodes themselves, as beside a Grace: it comes
    second.
    """
    scope = 0  # NVML_AFFINITY_SCOPE_NODE
    ask = functools.partial(questions.ask, aside=True)
    nodes = ask("nvmlDeviceGetMemoryAffinity", handle, NUMA_WORDS, scope)
    for position, word in enumerate(nodes or ()):
        if word:
            return position * 64 + int(word & -word).bit_length() - 1
    node: int | None = ask("nvmlDeviceGetNumaNodeId", handle)
    return node


def _recovery_action(handle: Any, questions: _Questions) -> int:
    """What the driver says is to be done with the GPU (drivers from R565 on); 0: nothing."""
    field = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
    values = questions.ask("nvmlDeviceGetFieldValues", handle, [field], aside=True)
    if values is None or values[0].nvmlReturn != 0:
        return 0
    action: int = values[0].value.uiVal
    return action


def _peers(
    handle: Any, gpu: Gpu, found: list[tuple[Any, Gpu]], questions: _Questions
) -> list[str] | None:
    """The GPUs that it reaches over NVLink; None: the driver does not say."""
    peers = []
    for other, whose in found:
        if other is None or whose.uuid == gpu.uuid or whose.problem or whose.mig:
            continue
        status = questions.ask("nvmlDeviceGetP2PStatus", handle, other, NVLINK, aside=True)
        if status is None:
            return None
        if status == 0:
            peers.append(whose.uuid)
    return peers


def _remotes(handle: Any, by_bus: dict[str, str], questions: _Questions) -> list[str]:
    """The GPUs at the other ends of its links; a switch there is none of them."""
    peers: dict[str, None] = {}
    for link in range(36):  # NVML_NVLINK_MAX_LINKS
        if questions.ask("nvmlDeviceGetNvLinkState", handle, link, aside=True) != 1:
            continue
        pci = questions.ask("nvmlDeviceGetNvLinkRemotePciInfo", handle, link, aside=True)
        uuid = None if pci is None else by_bus.get(_text(pci.busId).lower())
        if uuid is not None:
            peers[uuid] = None
    return list(peers)


def _may_have_gpus(code: int) -> bool:
    """Whether this machine has GPUs, as far as the error tells with which the driver is not asked.

    Packages bring the library to machines without a GPU, where no driver is loaded under it: there
    the system says what there is.
    """
    if code == NO_LIBRARY:
        return False
    return code != NOT_LOADED or _shows_gpus()


def _shows_gpus() -> bool:
    """Whether the system shows a GPU of NVIDIA's, on the bus or as a device."""
    return (
        any(map(_is_gpu, PCI.glob("*/vendor")))
        or any(NODES.glob("nvidia[0-9]*"))
        or any(LOADED.glob("*"))
    )


def _is_gpu(vendor: Path) -> bool:
    try:
        of_nvidia = vendor.read_text(encoding="ascii").strip() == "0x10de"
        return of_nvidia and vendor.with_name("class").read_text(encoding="ascii")[:4] == "0x03"
    except (OSError, UnicodeDecodeError):
        return False  # it was taken out meanwhile


def _unusable(gpu: Gpu) -> str:
    """Why nothing can be placed on a GPU that is well."""
    if gpu.mig and not gpu.slices:
        return (
            "MIG is on, and it has no instances. Make some with `nvidia-smi mig -cgi PROFILE -C`, "
            "or turn MIG off with `nvidia-smi -mig 0`."
        )
    if not gpu.memory_total:
        return (
            "The driver does not say how much memory it has, as for GPUs that share the machine's. "
            "Engines cannot be placed on it: start them yourself, and name them as external models."
        )
    return ""


def _unread(gpu: Gpu) -> Gpu:
    """What stays true of a GPU that cannot be read now."""
    return replace(
        gpu,
        memory_used=None,
        utilization=None,
        temperature=None,
        power=None,
        processes=None,
        nvlinks=[],
        slices=[replace(one, memory_used=None) for one in gpu.slices],
    )


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _sum(numbers: list[int | None]) -> int | None:
    known = [one for one in numbers if one is not None]
    return sum(known) if len(known) == len(numbers) else None


def _joined(lists: list[list[GpuProcess] | None]) -> list[GpuProcess] | None:
    known = [one for one in lists if one is not None]
    return [process for one in known for process in one] if len(known) == len(lists) else None
