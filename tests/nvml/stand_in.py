"""A stand-in for the NVIDIA driver: a machine with GPUs, written as a file that tests change.

    nvml.write([StandInGpu(0), StandInGpu(1, errors={"nvmlDeviceGetPowerUsage": NO_PERMISSION})])
    subprocess.run(..., env={**os.environ, **nvml.environment})

What real pynvml loads then is `nvml.c` beside this file, compiled against NVIDIA's own header. An
engine under test books its memory with `book`; what its process has not freed by ending shows as
used. Nothing here imports more than the standard library, so that engines may import it.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "GPU_IS_LOST",
    "NO_PERMISSION",
    "RESET_REQUIRED",
    "StandIn",
    "StandInGpu",
    "StandInSlice",
    "book",
    "build",
    "joined",
    "visible",
]

VARIABLE = "NVML_STAND_IN"
SOURCE = Path(__file__).with_name("nvml.c")
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
GIB = 1 << 30

NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
UNKNOWN = 999

XID_EVENT = 0x8
DOUBLE_BIT_ECC_EVENT = 0x2
ALL = 0xFFFFFFFF
"""In place of a GPU or compute instance: an event is of the whole GPU."""

IDENTITY = (
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetPciInfo_v3",
)
"""What the library itself remembers of a GPU."""


@dataclass
class StandInSlice:
    """A MIG slice at an index of its GPU. Fields as the keys of the state file."""

    index: int
    uuid: str = ""
    name: str = "NVIDIA H200 MIG 1g.18gb"
    total: int = 16 * GIB
    gi: int = 1
    ci: int = 0


@dataclass
class StandInGpu:
    """A GPU. None: the driver answers NotSupported. Fields as the keys of the state file."""

    index: int
    uuid: str = ""
    name: str = "NVIDIA H200"
    total: int | None = 140 * GIB
    reserved: int = 0
    used: int = 0
    """Held by nobody in particular, beside what processes have booked."""
    utilization: int | None = 0
    temperature: int | None = 30
    power: int | None = 75_000
    """Milliwatts."""
    power_limit: int | None = 700_000
    compute: str | None = "9.0"
    pci: str = ""
    numa: int | None = 0
    own_numa: int | None = None
    nvlinks: Sequence[int] = ()
    recovery: int | None = 0
    """What the driver says is to be done: 1: reset, 2: reboot, …"""
    mig: int | None = 0
    slices: Sequence[StandInSlice] = ()
    processes: str | None = None
    """`hidden`: the list is empty, as in a container; `forbidden`: that of the whole GPU, and not
    that of a slice.
    """
    events: int | None = None
    """The mask of the events that it supports; None: the usual ones."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """The code that a call returns for it, by the call's name; `*`: each call."""
    lost: bool = False
    """It has fallen off the bus: the library still knows who it was."""

    def __post_init__(self) -> None:
        self.uuid = self.uuid or f"GPU-{self.index:08x}-1111-2222-3333-444444444444"
        self.pci = self.pci or f"0000{self.index:04X}:01:00.0"
        for one in self.slices:
            one.uuid = (
                one.uuid or f"MIG-{self.index:04x}{one.index:04x}-1111-2222-3333-444444444444"
            )

    def lines(self) -> Iterable[str]:
        for key in (
            *("uuid", "name", "total", "reserved", "used", "utilization", "temperature", "power"),
            *("power_limit", "compute", "pci", "numa", "own_numa", "recovery", "mig"),
            *("processes", "events"),
        ):
            if (value := getattr(self, key)) is not None:
                yield f"gpu {self.index} {key} {value}"
        if self.nvlinks:
            yield f"gpu {self.index} nvlinks {' '.join(map(str, self.nvlinks))}"
        for one in self.slices:
            for key in ("uuid", "name", "total", "gi", "ci"):
                yield f"slice {self.index} {one.index} {key} {getattr(one, key)}"
        for name, code in self.errors.items():
            yield f"error {name} {code} {self.index}"
        if self.lost:
            for name in IDENTITY:
                yield f"error {name} 0 {self.index}"
            yield f"error * {GPU_IS_LOST} {self.index}"


def joined(count: int) -> list[StandInGpu]:
    """So many GPUs, each joined to each by NVLink, the second half at another NUMA node."""
    return [
        StandInGpu(
            index,
            nvlinks=[other for other in range(count) if other != index],
            numa=int(count > 1 and index >= count // 2),
        )
        for index in range(count)
    ]


class StandIn:
    """One machine: the folder of a library, and the file that it reads."""

    def __init__(self, library: Path, state: Path) -> None:
        self.library = library
        self.state = state

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that is to see this machine."""
        return {"LD_LIBRARY_PATH": str(self.library), VARIABLE: str(self.state)}

    def write(
        self,
        gpus: Iterable[StandInGpu],
        *,
        init: int = 0,
        cuda: int = 13000,
        errors: Mapping[str, int] | None = None,
        hang: Iterable[str] = (),
    ) -> None:
        """Says what the machine is like from now on. Codes as NVML's; `hang`: names of calls."""
        lines = [
            "driver 580.95.05",
            f"cuda {cuda}",
            *(line for one in gpus for line in one.lines()),
        ]
        lines += [f"error {name} {code} -1" for name, code in (errors or {}).items()]
        lines += [f"hang {name}" for name in hang]
        if init:
            lines.append(f"init {init}")
        fresh = self.state.with_suffix(".new")
        text = "".join(f"{line}\n" for line in lines)
        # A name may be no text.
        fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
        fresh.replace(self.state)

    def book(self, uuid: str, size: int, *, pid: int, freed_after: float = 0.0) -> None:
        """Books memory of a process, as `book` does for the one that calls it."""
        _append(f"{self.state}.procs", f"{uuid} {pid} {size} {freed_after}\n")

    def xid(self, uuid: str, number: int, gi: int = ALL, ci: int = ALL) -> None:
        """Lets a GPU tell of an Xid: of all of it, or of an instance."""
        _append(f"{self.state}.events", f"{uuid} {XID_EVENT} {number} {gi} {ci}\n")

    def event(self, uuid: str, kind: int) -> None:
        """Lets a GPU tell of another event."""
        _append(f"{self.state}.events", f"{uuid} {kind} 0 {ALL} {ALL}\n")


def book(uuid: str, size: int, *, pid: int | None = None, freed_after: float = 0.0) -> None:
    """Books bytes of a GPU or slice for a process (this one), in place of what it had there.

    They are free again when the process has ended, `freed_after` seconds after somebody who looks
    has first seen that. Without the stand-in it does nothing.
    """
    if state := os.environ.get(VARIABLE):
        _append(f"{state}.procs", f"{uuid} {pid or os.getpid()} {size} {freed_after}\n")


def visible() -> list[str]:
    """The UUIDs of the GPUs or slices that this process was given, as CUDA reads
    CUDA_VISIBLE_DEVICES: UUIDs, or indexes in the order of the PCI bus. Unset: all GPUs.
    """
    if not (state := os.environ.get(VARIABLE)):
        return []
    words = [line.split() for line in Path(state).read_text(encoding="utf-8").splitlines()]
    by_index = {one[1]: one[3] for one in words if one[0] == "gpu" and one[2] == "uuid"}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return list(by_index.values())
    return [by_index.get(one, one) for one in given.split(",") if one]


def build(folder: Path, *, old: bool = False) -> Path:
    """Compiles the library, and returns its folder. `old`: without what old drivers lack."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    command = ["cc", *FLAGS, "-fvisibility=hidden", "-DNVML_NO_UNVERSIONED_FUNC_DEFS"]
    command += ["-I", str(_header().parent), "-Wl,-soname,libnvidia-ml.so.1"]
    command += ["-DOLD_DRIVER"] if old else []
    subprocess.run([*command, str(SOURCE), "-o", str(library), "-lpthread"], check=True)
    return folder


def _header() -> Path:
    """`nvml.h` of the package nvidia-nvml-dev."""
    for one in importlib.metadata.files("nvidia-nvml-dev") or []:
        if one.name == "nvml.h":
            return Path(str(one.locate()))
    raise RuntimeError("The package nvidia-nvml-dev has no nvml.h. Run `make .venv/.ready`.")


def _append(path: str, line: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)
