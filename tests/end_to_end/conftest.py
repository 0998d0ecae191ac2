"""Fixtures of the tests that need one engine and the data plane over it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import DataPlaneRouter, FakeEngine


@pytest.fixture(params=["tcp", "unix"])
def engine(request: pytest.FixtureRequest, fake_engines: Callable[..., list[FakeEngine]]) -> FakeEngine:
    """A fake engine, once on a loopback port and once on a Unix socket."""
    return fake_engines(1, unix=request.param == "unix")[0]


@pytest.fixture
def plane(engine: FakeEngine, router: Callable[..., DataPlaneRouter]) -> DataPlaneRouter:
    """The data plane over `engine`."""
    return router([engine])
