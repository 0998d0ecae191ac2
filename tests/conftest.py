"""Fixtures: fake engines, the data plane in this process, and the whole product as a child."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import harness
from gpustack_fast.storage.data_directory import DataDirectory
from harness import SMOLLM2, DataPlaneRouter, FakeEngine, ServedRouter, serving, stop
from nvml.stand_in import StandIn, build

# A busy machine is no fault of an example's, and what is tried is the same in each run. For other
# examples, and more: pytest --hypothesis-profile=explore.
hypothesis.settings.register_profile(
    "same",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=10_000)
hypothesis.settings.load_profile("same")

# `nohup`, and a script that starts the tests in its background, ignore these. What is ignored is
# inherited by every process that the tests start; what is caught here is not.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with harness.short_folder() as folder:
        yield folder


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    """A data directory, held."""
    held = DataDirectory(tmp_path / "data")
    held.acquire()
    yield held
    held.release()


@pytest.fixture
def fake_engines(short_folder: Path) -> Iterator[Callable[..., list[FakeEngine]]]:
    """`fake_engines(2)`: that many, on loopback ports, or with `unix=True` on Unix sockets.

    `*more`: of their command line.
    """
    started: list[FakeEngine] = []

    def start(count: int = 1, *more: str, unix: bool = False) -> list[FakeEngine]:
        fresh = []
        for _ in range(count):
            name = f"engine-{len(started)}"
            place = ["--uds", str(short_folder / f"{name}.sock")] if unix else ["--port", "0"]
            engine = FakeEngine(name, *place, *more)
            started.append(engine)
            fresh.append(engine)
        return fresh

    yield start
    for engine in started:
        stop(engine.process, patience=1.0)


@pytest.fixture(scope="session")
def lasting_engine() -> Iterator[FakeEngine]:
    """The process behind `shared_engine`."""
    engine = FakeEngine("shared", "--port", "0")
    yield engine
    stop(engine.process, patience=1.0)


@pytest.fixture
def shared_engine(lasting_engine: FakeEngine) -> FakeEngine:
    """A fake engine without memory of earlier tests, for tests that do not end it."""
    if not lasting_engine.alive():
        lasting_engine.restart()
    lasting_engine.reset()
    return lasting_engine


@pytest.fixture
def router(short_folder: Path) -> Iterator[Callable[..., DataPlaneRouter]]:
    """`router(engines, timeouts=..., limits=..., ...)`: the data plane, in this process."""
    started: list[DataPlaneRouter] = []

    def start(engines: list[Any], **options: Any) -> DataPlaneRouter:
        one = DataPlaneRouter(engines, **options)
        started.append(one)
        return one

    yield start
    for one in started:
        one.stop()


@pytest.fixture(params=["tcp", "unix"])
def engine(
    request: pytest.FixtureRequest, fake_engines: Callable[..., list[FakeEngine]]
) -> FakeEngine:
    """A fake engine, once on a loopback port and once on a Unix socket."""
    return fake_engines(1, unix=request.param == "unix")[0]


@pytest.fixture
def plane(engine: FakeEngine, router: Callable[..., DataPlaneRouter]) -> DataPlaneRouter:
    """The data plane over `engine`."""
    return router([engine])


@pytest.fixture
def serve() -> Iterator[Callable[..., ServedRouter]]:
    """`serve(config, *arguments)`: the whole product, ready; stopped when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda config, *arguments, **options: stack.enter_context(
            serving(config, *arguments, **options)
        )


@pytest.fixture(scope="session")
def smollm2() -> Iterator[ServedRouter]:
    """One real llama.cpp engine behind the whole product, shared by tests that do no harm to it."""
    with serving(SMOLLM2.format(replicas=1)) as server:
        yield server


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for the NVIDIA driver's library."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path) -> StandIn:
    """A machine with a driver and no GPU yet; `nvml.write` says what it is like."""
    machine = StandIn(nvml_library, tmp_path / "nvml-state")
    machine.write([])
    return machine
