"""The files of models: what a person reads while they come, and that all who wait read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from sizing.generated import LLAMA, gguf_bytes
from small_backend import SMALL, environment, eventually, no_gpus, small

from gpustack_fast.backends import BACKENDS
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import life, plan, processes
from gpustack_fast.engines.allocation import Allocation
from gpustack_fast.engines.model_files import ModelFiles, sentence
from gpustack_fast.engines.preparer import Preparer, Report
from gpustack_fast.engines.supervisor import Supervisor
from gpustack_fast.faults import Faults
from gpustack_fast.model_store.documents import Download, Inspected, Model, ModelStoreError
from gpustack_fast.model_store.store import Store
from gpustack_fast.sizing import FactsError, ModelFacts
from gpustack_fast.storage.engine_paths import EnginePaths

GIB = 2**30


@pytest.mark.parametrize(
    ("download", "expected"),
    [
        (Download(repository="o/m"), "o/m: its files are looked up."),
        (
            Download(repository="o/m", done=3 * GIB, total=12 * GIB),
            "o/m: 3.0 of 12.0 GiB (25 %).",
        ),
        (Download(repository="o/m", total=GIB), "o/m: 0.0 of 1.0 GiB (0 %)."),
        (
            Download(repository="o/m", done=46 * 2**20, total=92 * 2**20),
            "o/m: 46 of 92 MiB (50 %).",
        ),
        (Download(repository="o/m", done=1, total=3), "o/m: 0 of 0 MiB (33 %)."),
        (
            Download(repository="o/m", done=3 * GIB, total=12 * GIB, note="the hub asks to wait"),
            "o/m: 3.0 of 12.0 GiB (25 %); the hub asks to wait.",
        ),
        (
            Download(repository="o/m", note="it is being fetched already"),
            "o/m: it is being fetched already.",
        ),
    ],
)
def test_progress_is_a_sentence(download: Download, expected: str) -> None:
    assert sentence(download) == expected


def test_facts_are_read_again_when_what_was_read_has_gone_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that ends takes the beginnings of its files away: the whole ones are there."""
    head, whole = tmp_path / "heads", tmp_path / "files"
    whole.mkdir()
    (whole / "m.gguf").write_bytes(gguf_bytes(LLAMA, {"token_embd.weight": (3, 128)}) + bytes(800))

    class Moved(Store):
        async def inspect(self, model: Model) -> Inspected | None:
            looks.append(head if not looks else whole)
            return Inspected(folder=looks[-1], filename="m.gguf", sizes={})

    looks = list[Path]()
    files = ModelFiles(Moved(tmp_path, Faults()))
    facts = asyncio.run(files.facts(small()))
    assert facts is not None and looks == [head, whole]
    (whole / "m.gguf").write_bytes(b"torn")
    with pytest.raises(FactsError):
        asyncio.run(files.facts(small()))
    assert len(looks) == 4


class Slow:
    """Files that come when they are let go, or cannot be had."""

    def __init__(self) -> None:
        self.fetches = 0
        self.report: Report = print
        self.gate = asyncio.Event()
        self.error: ModelStoreError | None = None

    async def facts(self, model: ModelConfig) -> ModelFacts | None:
        raise AssertionError("nobody places it")

    async def fetch(self, model: ModelConfig, report: Report) -> Path | None:
        self.fetches += 1
        if self.error is not None:
            raise self.error
        self.report = report
        await self.gate.wait()
        return None

    async def adapters(self, model: ModelConfig, report: Report) -> Mapping[str, Path]:
        return {}


def scenario(
    folder: Path,
    body: Callable[[Supervisor, Slow], Coroutine[Any, Any, None]],
    *models: ModelConfig,
) -> None:
    async def main() -> None:
        processes.become_subreaper()
        files = Slow()
        preparer = Preparer(environment, files, Allocation(no_gpus, dict), no_gpus)
        supervisor = Supervisor(
            EnginePaths(folder),
            preparer,
            Faults(),
            on_change=lambda: None,
            backends={"small": SMALL, "external": BACKENDS["external"]},
        )
        running = asyncio.ensure_future(supervisor.run())
        supervisor.want(models)
        try:
            await body(supervisor, files)
        finally:
            await supervisor.shutdown(0.0)
            running.cancel()

    uvloop.run(main())


def messages(supervisor: Supervisor) -> list[str]:
    return [one.state_message for one in supervisor.replicas]


def states(supervisor: Supervisor) -> list[str]:
    return [one.state for one in supervisor.replicas]


def test_all_replicas_that_wait_for_one_download_show_its_progress(short_folder: Path) -> None:
    async def body(supervisor: Supervisor, files: Slow) -> None:
        await eventually(lambda: states(supervisor) == ["downloading"] * 3, "they wait")
        await eventually(lambda: files.fetches == 1, "it is fetched")
        files.report("half of it.")
        assert messages(supervisor) == ["half of it."] * 3
        files.gate.set()
        await eventually(lambda: states(supervisor) == ["running"] * 3, "they run")
        assert files.fetches == 1
        files.report("too late.")
        assert messages(supervisor) == [""] * 3

    scenario(short_folder, body, small(replicas=3))


def test_what_may_pass_is_tried_again_and_is_no_failure_of_the_engine(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_PAUSE", 0.05)

    async def body(supervisor: Supervisor, files: Slow) -> None:
        files.gate.set()
        files.error = ModelStoreError("The hub is away. Check the network.", may_pass=True)
        await eventually(lambda: files.fetches >= 3, "it is tried again")
        (replica,) = supervisor.replicas
        assert replica.failures == 0 and "The hub is away" in replica.last_failure
        files.error = None
        await eventually(lambda: states(supervisor) == ["running"], "it runs")
        assert replica.fetches_failed == 0

    scenario(short_folder, body, small(restart_on_error=False))


def test_pauses_between_the_tries_grow(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def delay(failures: int) -> float:
        asked.append(failures)
        return 0.01

    monkeypatch.setattr(life, "restart_delay", delay)

    async def body(supervisor: Supervisor, files: Slow) -> None:
        files.error = ModelStoreError("The hub is away.", may_pass=True)
        await eventually(lambda: len(asked) >= 3, "it is tried again")
        assert asked[:3] == [2, 3, 4], "the first pause is no pause of 0 s"
        (replica,) = supervisor.replicas
        await eventually(
            lambda: replica.state_message == "The hub is away. Trying again in 0.01 s.",
            "it is told",
        )

    scenario(short_folder, body, small())


def test_a_hub_is_not_asked_again_before_the_time_that_it_asked_for(short_folder: Path) -> None:
    async def body(supervisor: Supervisor, files: Slow) -> None:
        files.error = ModelStoreError("The hub asks to wait.", may_pass=True, wait=600.0)
        await eventually(lambda: states(supervisor) == ["error"], "it is told")
        (replica,) = supervisor.replicas
        assert replica.state_message == "The hub asks to wait. Trying again in 600 s."
        assert replica.retry_at > time.monotonic() + 300

    scenario(short_folder, body, small())


def test_a_message_of_several_lines_is_told_in_one(short_folder: Path) -> None:
    async def body(supervisor: Supervisor, files: Slow) -> None:
        files.error = ModelStoreError("What is missing:\n  * Room. Make some.\n  * MPI.")
        await eventually(lambda: states(supervisor) == ["error"], "it is told")
        said = supervisor.replicas[0].state_message
        assert said.startswith("What is missing: * Room. Make some. * MPI. It is not started")

    scenario(short_folder, body, small(restart_on_error=False))


def test_what_cannot_pass_is_a_failure(short_folder: Path) -> None:
    async def body(supervisor: Supervisor, files: Slow) -> None:
        files.error = ModelStoreError("o/m is gated. Accept its licence.")
        await eventually(lambda: states(supervisor) == ["error"], "it is told")
        (replica,) = supervisor.replicas
        assert replica.failures == 1 and files.fetches == 1
        assert replica.state_message == (
            "o/m is gated. Accept its licence. It is not started again (restart_on_error = false)."
        )

    scenario(short_folder, body, small(restart_on_error=False))
