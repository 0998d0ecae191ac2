"""What the calls of the seam cost the control plane. Run by hand; no part of `make test`:

.venv/bin/python -m pytest bench/test_seam_benchmark.py
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gpustack_fast.seam.dataplane import DataPlane
from gpustack_fast.seam.documents import (
    DataPlaneConfig,
    InstanceEntry,
    KeyDelta,
    KeyEntry,
    ModelEntry,
    RouteEntry,
    Table,
    TargetEntry,
)


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plane = DataPlane(DataPlaneConfig(), [listener.fileno()])
        plane.start()
        yield plane
        plane.drain(0)


def test_publishing_a_hundred_instances(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    instances = [
        InstanceEntry(id=f"i{n}", address=f"http://127.0.0.1:{20_000 + n}", state="running")
        for n in range(100)
    ]
    models = [ModelEntry(name="m", served_name="m", backend="external", instances=instances)]
    table = Table(
        models=models, routes=[RouteEntry(name="m", created=0, targets=[TargetEntry(model="m")])]
    )
    assert benchmark(plane.publish, table) > 0


def test_replacing_ten_thousand_keys(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    keys = [KeyEntry(id=f"{n:016x}", digest=f"{n:064x}") for n in range(10_000)]
    benchmark(plane.update_keys, KeyDelta(salt="00" * 16, replace=True, upsert=keys))


def test_changing_one_key_among_ten_thousand(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    keys = [KeyEntry(id=f"{n:016x}", digest=f"{n:064x}") for n in range(10_000)]
    plane.update_keys(KeyDelta(salt="00" * 16, replace=True, upsert=keys))
    benchmark(plane.update_keys, KeyDelta(salt="00" * 16, upsert=keys[:1]))


def test_polling_an_idle_data_plane(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    assert benchmark(plane.poll).records == []
