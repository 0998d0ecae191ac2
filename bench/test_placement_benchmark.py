"""The cost of placing. Run by hand; no part of `make test`:

.venv/bin/python -m pytest bench/test_placement_benchmark.py
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.placement import Device, Placement, Wanted, place

GIB = 1 << 30
ROOMY, FULL = 0.12, 1.0
"""GiB that the smallest model takes: then all 200 find a place, or most find none."""


@pytest.mark.parametrize("unit", [ROOMY, FULL], ids=["all-fit", "most-refused"])
def test_placing_two_hundred_models_on_eight_gpus(unit: float, benchmark: BenchmarkFixture) -> None:
    """Of seven sizes on one, two or four GPUs, half of them spread."""
    devices = [
        Device(uuid=f"GPU-{n}", index=n, total=80 * GIB, foreign=n * GIB // 8, island=n // 4 * 4)
        for n in range(8)
    ]
    wanted = [
        Wanted(
            model=f"m{n}",
            number=0,
            demands=[
                Demand(
                    shape=Shape(tensor=gpus),
                    least=int((1 + n % 7 * 3) * unit * GIB) // gpus,
                    tells_share=n % 3 > 0,
                )
                for gpus in (1, 2, 4)
            ],
            strategy="spread" if n % 2 else "binpack",
        )
        for n in range(200)
    ]
    answers = benchmark(place, wanted, devices, [])
    assert all(isinstance(one, Placement) for one in answers) == (unit == ROOMY)
    assert answers == place(wanted, devices, [])
