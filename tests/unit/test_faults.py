"""Faults of this machine: whose they are, and how they are told."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading

import pytest

from gpustack_fast import faults
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.faults import (
    Faults,
    go_on,
    is_ours,
    open_in_thread,
    reason_of,
    run_in_thread,
)


def error(number: int, *more: str) -> OSError:
    return OSError(number, os.strerror(number), *more)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EIO, errno.EADDRNOTAVAIL])
def test_what_this_machine_lacks_is_its_own_fault(number: int) -> None:
    assert is_ours(error(number))
    told = GpustackFastError("It could not be built.")
    told.__cause__ = error(number)
    assert is_ours(told)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENOENT, errno.ETIMEDOUT])
def test_what_the_other_end_does_is_not(number: int) -> None:
    assert not is_ours(error(number))
    assert not is_ours(GpustackFastError("The engine ended."))


def test_a_reason_names_the_file_and_the_next_step() -> None:
    assert reason_of(error(errno.ENOSPC, "/d/keys.json")) == (
        "No space left on device (/d/keys.json): free some space"
    )
    assert reason_of(error(errno.EIO)) == "Input/output error"


def test_each_is_counted_and_told_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    noted = Faults()
    for _ in range(5):
        noted.note("probe", error(errno.EMFILE))
    noted.note("keys", "The disk is full.")
    assert (noted.counts["probe"], noted.counts["keys"], noted.counts["processes"]) == (5, 1, 0)
    assert len(caplog.messages) == 2
    monkeypatch.setattr(faults, "TELL_EVERY", 0.0)
    noted.note("probe", error(errno.EMFILE))
    assert caplog.messages[-1].endswith("(times since the last such line: 5).")


def test_what_shall_never_end_is_begun_anew_after_a_mistake(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "BEGIN_AGAIN_AFTER", 0.0)
    noted, begun = Faults(), list[int]()

    async def run() -> None:
        third = asyncio.Event()

        async def work() -> None:
            begun.append(len(begun))
            if len(begun) < 3:
                raise KeyError("a mistake")
            third.set()
            await asyncio.sleep(3600)

        going = asyncio.ensure_future(go_on(work, "The work", noted))
        await third.wait()
        going.cancel()
        await asyncio.wait({going})
        assert going.cancelled()

    asyncio.run(run())
    assert (begun, noted.counts["mistake"]) == ([0, 1, 2], 2)
    assert caplog.messages.count("The work ended by a mistake; going on.") == 2


def test_work_that_was_cancelled_before_its_thread_began_is_not_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    threads: list[threading.Thread] = []

    async def cancel_first() -> None:
        with monkeypatch.context() as late:
            late.setattr(threading.Thread, "start", lambda one: threads.append(one))
            working = asyncio.ensure_future(run_in_thread(done.append, "work"))
            await asyncio.sleep(0)
            working.cancel()
            await asyncio.wait({working})
        threads[0].run()  # which would raise here what it would print in its thread

    asyncio.run(cancel_first())
    assert done == []


@pytest.mark.parametrize("turns", range(8))
def test_what_is_opened_for_nobody_is_closed(turns: int) -> None:
    """At whichever moment the caller gives up: before it is open, or on its way to the caller."""
    reader, writer = os.pipe()
    begun, gate, opened = threading.Event(), threading.Event(), threading.Event()

    def opens() -> int:
        begun.set()
        gate.wait()
        opened.set()
        return writer

    async def scenario() -> None:
        opening = asyncio.create_task(open_in_thread(opens))
        while not begun.is_set():  # noqa: ASYNC110 - a thread tells no loop
            await asyncio.sleep(0)
        if turns:
            gate.set()
            opened.wait()
            for _ in range(turns - 1):
                await asyncio.sleep(0.001 if turns == 7 else 0)
        opening.cancel()
        gate.set()
        await asyncio.wait({opening})
        if not opening.cancelled():
            os.close(opening.result())
        ends = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(reader, ends.set_result, None)
        async with asyncio.timeout(20):
            await ends
        asyncio.get_running_loop().remove_reader(reader)

    asyncio.run(scenario())
    assert os.read(reader, 1) == b"", "nobody has the other end"
    os.close(reader)
