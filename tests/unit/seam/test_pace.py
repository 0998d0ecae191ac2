"""The table is published for many changes at once, and none is forgotten."""

from __future__ import annotations

import asyncio
import time

import pytest

from gpustack_fast.seam.pace import Pace


class Published:
    """Counts publishes, and has the number of changes at the last one."""

    def __init__(self, takes: float = 0.0) -> None:
        self.pace = Pace(self._publish)
        self.takes = takes
        self.told = asyncio.Event()
        self.count = 0
        self.changes = 0
        self.last = 0

    def _publish(self) -> None:
        time.sleep(self.takes)
        self.count += 1
        self.last = self.changes
        self.told.set()

    def change(self) -> None:
        self.changes += 1
        self.pace.soon()

    async def until_it_knows(self, changes: int) -> None:
        while self.last < changes:
            self.told.clear()
            await self.told.wait()


def test_changes_of_one_moment_are_one_table() -> None:
    async def run() -> None:
        published = Published()
        for _ in range(10_000):
            published.change()
        assert published.count == 0
        await published.until_it_knows(10_000)
        assert published.count == 1

    asyncio.run(run())


def test_changes_that_go_on_are_a_table_now_and_then() -> None:
    async def run() -> None:
        published = Published()
        began = asyncio.get_running_loop().time()
        for _ in range(10_000):
            published.change()
            await asyncio.sleep(0)
        await published.until_it_knows(10_000)
        took = asyncio.get_running_loop().time() - began
        assert 2 <= published.count <= took / Pace.LEAST_PAUSE + 2

    asyncio.run(run())


def test_publishing_takes_half_of_the_time_at_most() -> None:
    async def run() -> None:
        published = Published(takes=0.03)
        began = asyncio.get_running_loop().time()
        while published.count < 5:
            published.change()
            await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() - began >= 9 * 0.03

    asyncio.run(run())


def test_what_must_be_in_force_at_once_does_not_wait() -> None:
    async def run() -> None:
        published = Published()
        for _ in range(3):
            published.change()
            published.pace.now()
            assert published.last == published.changes
        published.pace.catch_up()
        assert published.count == 3, "nothing has changed"
        published.change()
        published.pace.catch_up()
        assert published.count == 4
        await asyncio.sleep(3 * Pace.LEAST_PAUSE)
        assert published.count == 4, "nothing is published twice"

    asyncio.run(run())


def test_a_table_that_is_refused_is_told_to_who_wants_it_now_and_the_next_one_is_tried() -> None:
    async def run() -> None:
        tried = 0

        def refuse() -> None:
            nonlocal tried
            tried += 1
            raise ValueError("refused")

        pace = Pace(refuse)
        for _ in range(2):
            pace.soon()
            with pytest.raises(ValueError, match="refused"):
                pace.now()
        assert tried == 2

    asyncio.run(run())
