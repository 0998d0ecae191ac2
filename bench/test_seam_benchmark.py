"""The cost of the seam's calls for the control plane. Run by hand; no part of `make test`:

.venv/bin/python -m pytest bench/test_seam_benchmark.py
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gpustack_fast import _native
from gpustack_fast.seam.dataplane import DataPlane
from gpustack_fast.seam.documents import Table
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


def test_publishing_ten_thousand_instances(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    document = ten_thousand_instances()
    assert benchmark(plane.publish, document) > 0


def test_publishing_ten_thousand_instances_alone(benchmark: BenchmarkFixture) -> None:
    """The data plane's part: the document is encoded already."""
    document = msgspec.json.encode(ten_thousand_instances())
    native = _native.DataPlane(msgspec.json.encode(data_plane_config()), [])
    assert benchmark(native.publish, document) > 0


def ten_thousand_instances() -> Table:
    """Of a hundred models, each with a route."""
    models = [
        model_entry(
            f"m{model}",
            [
                instance_entry(
                    f"i{model}-{n}", f"http://10.{model}.0.{n}:8000", api_key="engine-key"
                )
                for n in range(100)
            ],
        )
        for model in range(100)
    ]
    routes = [route_entry(f"m{model}", [target_entry(f"m{model}")]) for model in range(100)]
    return table(models, routes)


def test_replacing_ten_thousand_keys(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    keys = [key_entry(f"{n:016x}", f"key {n}", SALT) for n in range(10_000)]
    benchmark(plane.update_keys, key_delta(SALT, replace=True, upsert=keys))


def test_changing_one_key_among_ten_thousand(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    keys = [key_entry(f"{n:016x}", f"key {n}", SALT) for n in range(10_000)]
    plane.update_keys(key_delta(SALT, replace=True, upsert=keys))
    benchmark(plane.update_keys, key_delta(SALT, upsert=keys[:1]))


def test_polling_an_idle_data_plane(plane: DataPlane, benchmark: BenchmarkFixture) -> None:
    assert benchmark(plane.poll).records == []
