"""GPUs as they were read → the devices that instances are placed on."""

from __future__ import annotations

from gpustack_fast.gpus.documents import Gpu, GpuReport, MigSlice
from gpustack_fast.placement import devices_of

GIB = 1 << 30


def gpu(index: int, **more: object) -> Gpu:
    fields: dict[str, object] = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total": 80 * GIB,
        "memory_used": GIB,
        "utilization": None,
        "temperature": None,
        "power": None,
        "power_limit": None,
        "compute_capability": "9.0",
        "pci_bus_id": f"00000000:{index:02x}:00.0",
        "numa_node": None,
        "nvlinks": [],
        "mig": False,
        "slices": [],
        "processes": None,
    }
    return Gpu(**{**fields, **more})  # type: ignore[arg-type]


def report(*gpus: Gpu) -> GpuReport:
    return GpuReport(driver_version=None, cuda_version=None, gpus=list(gpus))


def test_what_instances_of_ours_hold_is_not_foreign() -> None:
    one, two = devices_of(
        report(gpu(1, memory_used=30 * GIB), gpu(0, memory_used=GIB)),
        {"GPU-1": 28 * GIB, "GPU-0": 5 * GIB},
    )
    assert (one.index, one.foreign) == (0, 0)
    assert (two.index, two.foreign, two.total, two.problem) == (1, 2 * GIB, 80 * GIB, "")


def test_memory_that_is_not_told_is_a_problem() -> None:
    (one,) = devices_of(report(gpu(0, memory_used=None)), {})
    assert one.foreign == one.total and "does not tell how much of its memory" in one.problem
    (one,) = devices_of(report(gpu(0, memory_total=0)), {})
    assert "does not tell how much memory it has" in one.problem
    (one,) = devices_of(report(gpu(0, memory_used=None, problem="It is lost.")), {})
    assert one.problem == "It is lost."


def test_a_divided_gpu_is_its_slices() -> None:
    slices = [
        MigSlice(uuid=f"MIG-{n}", name="1g.10gb", memory_total=10 * GIB, memory_used=n * GIB)
        for n in (2, 1)
    ]
    divided = gpu(0, mig=True, slices=slices, memory_used=None)
    one, two, whole = devices_of(report(divided, gpu(1)), {"MIG-1": GIB})
    assert [
        (this.uuid, this.index, this.slice, this.foreign, this.problem) for this in (one, two)
    ] == [
        ("MIG-1", 0, True, 0, ""),
        ("MIG-2", 0, True, 2 * GIB, ""),
    ]
    assert not whole.slice


def test_a_divided_gpu_without_slices_says_what_to_do() -> None:
    (one,) = devices_of(report(gpu(0, mig=True, memory_used=None)), {})
    assert "nvidia-smi mig -cgi" in one.problem


def test_islands_are_what_nvlink_joins_in_one_step_or_several() -> None:
    devices = devices_of(
        report(
            gpu(0, nvlinks=["GPU-3", "GPU-elsewhere"]),
            gpu(1, nvlinks=[]),
            gpu(2, nvlinks=["GPU-1"]),
            gpu(3, nvlinks=[]),
            gpu(4, nvlinks=["GPU-3"]),
            gpu(5),
        ),
        {},
    )
    assert [one.island for one in devices] == [0, 1, 1, 0, 0, 5]
