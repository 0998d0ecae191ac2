"""A reload that this machine has no room for, and one that waits for a file that does not come."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest

from gpustack_fast import reload
from gpustack_fast.config import Config
from gpustack_fast.config.comparison import Comparison
from gpustack_fast.engines.addresses import Addresses
from gpustack_fast.engines.replica import Replica
from gpustack_fast.reload import Deployment, Reloader
from gpustack_fast.seam.documents import Table


def test_a_reload_without_a_thread_changes_nothing_and_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Deployment(config=Config(), routes={}, engine_keys={}, generations={})
    nothing: Any = None

    async def run() -> Reloader:
        def none_left(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", none_left)
        reloader = Reloader(nothing, start, nothing, nothing, nothing, nothing, nothing, nothing)
        reloader.begin.set()
        reloader.soon()
        await asyncio.wait(
            {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        )
        return reloader

    reloader = asyncio.run(run())
    assert reloader.deployment is start
    assert caplog.messages == [
        "Not reloaded, and everything stays as it was. no thread can be started. Send SIGHUP again."
    ]


def test_a_reload_that_waits_for_a_file_is_told_and_keeps_no_stop_waiting(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Deployment(config=Config(), routes={}, engine_keys={}, generations={})
    waits, comes = threading.Event(), threading.Event()
    nothing: Any = None

    class Slow:
        def read_again(self, *_: object) -> None:
            waits.set()
            comes.wait()

    async def run() -> None:
        source: Any = Slow()
        told, warn = asyncio.Event(), reload.log.warning

        def tell(*arguments: Any) -> None:
            warn(*arguments)
            told.set()

        monkeypatch.setattr(reload.log, "warning", tell)
        reloader = Reloader(source, start, nothing, nothing, nothing, nothing, nothing, nothing)
        reloader.begin.set()
        reloader.soon()
        await told.wait()
        assert waits.is_set()
        reloader.soon()
        await reloader.stop()

    monkeypatch.setattr(reload, "SLOW_AFTER", 0.05)
    caplog.set_level(logging.INFO)
    asyncio.run(run())
    comes.set()
    slow, second = caplog.messages
    assert "everything stays as it was, and another SIGHUP is obeyed behind it" in slow
    assert second == "A reload is under way; another follows when it is over."


def test_a_reload_that_waits_for_a_hand_over_is_left_to_the_other_process() -> None:
    """That has read everything since; here it would write what is the other one's."""
    start = Deployment(config=Config(), routes={}, engine_keys={}, generations={})
    nothing: Any = None
    reads = list[object]()

    class Source:
        def read_again(self, *read: object) -> None:
            reads.append(read)
            raise OSError("it is read")

    async def run(*, given: bool) -> None:
        source: Any = Source()
        reloader = Reloader(source, start, nothing, nothing, nothing, nothing, nothing, nothing)
        reloader.begin.set()
        await reloader.freeze()
        reloader.soon()
        await asyncio.sleep(0)
        reloader.thaw(given=given)
        await asyncio.wait(
            {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        )

    asyncio.run(run(given=True))
    assert reads == []
    asyncio.run(run(given=False))
    assert len(reads) == 1


def test_a_process_ends_while_a_file_is_waited_for() -> None:
    program = (
        "import asyncio, threading\n"
        "from gpustack_fast.faults import run_in_thread\n"
        "async def run():\n"
        "    begun = threading.Event()\n"
        "    def wait(): begun.set(); threading.Event().wait()\n"
        "    task = asyncio.ensure_future(run_in_thread(wait))\n"
        "    while not begun.is_set(): await asyncio.sleep(0.01)\n"
        "    task.cancel()\n"
        "asyncio.run(run())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_what_was_published_is_in_force_whatever_comes_of_telling_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, prepared = (
        Deployment(config=Config(), routes={}, engine_keys={}, generations={}) for _ in range(2)
    )
    published: list[Table] = []
    compared = Comparison(config=Config(), changes=[], models=[], restart=[])

    class Everything:
        """The source, the data plane and the supervisor, as far as a reload goes."""

        publish = staticmethod(published.append)

        async def try_external(self, _: object) -> Addresses:
            return Addresses()

        def as_adopted(self, *_: object) -> list[Replica]:
            return []

        def adopt(self, *_: object) -> None: ...

        def take(self, *_: object) -> None: ...

    def broken(*_: object, **__: object) -> None:
        raise OSError("no words")

    def whole_table(now: Deployment, _: object) -> Table:
        assert now is prepared
        return Table(models=[], routes=[], default_route=None, metrics=[], settings=None)

    async def run() -> Reloader:
        every: Any = Everything()
        reloader = Reloader(every, start, every, every, every, every, whole_table, every)
        monkeypatch.setattr(reloader, "_read", lambda *_: (compared, prepared, False))
        monkeypatch.setattr(reloader, "_tell", broken)
        reloader.begin.set()
        reloader.soon()
        await asyncio.wait(
            {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        )
        return reloader

    assert asyncio.run(run()).deployment is prepared and len(published) == 1
