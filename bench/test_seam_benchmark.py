"""The cost of the seam's calls for the control plane. Run by hand; no part of `make test`:

.venv/bin/python -m pytest bench/test_seam_benchmark.py
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gpustack_fast.seam.dataplane import DataPlane
from seam_samples import (
    data_plane_config,
    instance_entry,
    key_delta,
    key_entry,
    model_entry,
    route_entry,
    table,
    target_entry,
)

SALT = "00" * 16


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plane = DataPlane(data_plane_config(), [listener.fileno()])
        plane.start()
        yield plane
        plane.drain(0)


def test_publishing_a_hundred_instances(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    instances = [instance_entry(f"i{n}", f"http://127.0.0.1:{20_000 + n}") for n in range(100)]
    document = table([model_entry("m", instances)], [route_entry("m", [target_entry("m")])])
    assert benchmark(plane.publish, document) > 0


def test_replacing_ten_thousand_keys(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    keys = [key_entry(f"{n:016x}", f"key {n}", SALT) for n in range(10_000)]
    benchmark(plane.update_keys, key_delta(SALT, replace=True, upsert=keys))


def test_changing_one_key_among_ten_thousand(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    keys = [key_entry(f"{n:016x}", f"key {n}", SALT) for n in range(10_000)]
    plane.update_keys(key_delta(SALT, replace=True, upsert=keys))
    benchmark(plane.update_keys, key_delta(SALT, upsert=keys[:1]))


def test_polling_an_idle_data_plane(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    assert benchmark(plane.poll).records == []
