"""Work that several wait for is done once."""

from __future__ import annotations

import asyncio

import pytest

from gpustack_fast.engines.shared_work import SharedWork


class Work:
    """Counts its beginnings and its ends, and gives its number when it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.gate = asyncio.Event()

    async def do(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.gate.wait()
            return number
        finally:
            self.ended += 1


def test_all_who_wait_get_the_result_of_one_work() -> None:
    async def main() -> None:
        shared, work = SharedWork[int](), Work()
        waiting = [asyncio.ensure_future(shared.join("a", work.do())) for _ in range(3)]
        other = asyncio.ensure_future(shared.join("b", work.do()))
        await asyncio.sleep(0)
        work.gate.set()
        assert [await one for one in waiting] == [1, 1, 1]
        assert await other == 2
        assert await shared.join("a", work.do()) == 3, "the next one begins anew"

    asyncio.run(main())


def test_the_work_ends_with_the_last_who_waits() -> None:
    async def main() -> None:
        shared, work = SharedWork[int](), Work()
        first, second = (asyncio.ensure_future(shared.join("a", work.do())) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert (work.begun, work.ended) == (1, 0)
        second.cancel()
        await asyncio.sleep(0.01)
        assert work.ended == 1

    asyncio.run(main())


def test_an_error_reaches_all_who_wait() -> None:
    async def fails() -> int:
        await asyncio.sleep(0.01)
        raise ValueError("no")

    async def main() -> None:
        shared = SharedWork[int]()
        waiting = [asyncio.ensure_future(shared.join("a", fails())) for _ in range(2)]
        await asyncio.wait(waiting)
        for one in waiting:
            with pytest.raises(ValueError, match="no"):
                one.result()

    asyncio.run(main())


def test_closing_ends_what_is_on_its_way_and_waits_no_longer_than_it_may() -> None:
    async def main() -> None:
        shared, work = SharedWork[int](), Work()

        async def stubborn() -> int:
            try:
                return await work.do()
            finally:
                await asyncio.sleep(60)

        waiting = asyncio.ensure_future(shared.join("a", work.do()))
        stuck = asyncio.ensure_future(shared.join("b", stubborn()))
        await asyncio.sleep(0.01)
        await shared.close(0.05)
        assert work.ended == 2
        assert waiting.done()
        stuck.cancel()

    asyncio.run(main())


def test_who_comes_while_a_work_that_was_given_up_ends_begins_it_anew() -> None:
    async def main() -> None:
        shared, work = SharedWork[int](), Work()
        ended, cleaned = asyncio.Event(), asyncio.Event()

        async def slow_to_end() -> int:
            try:
                return await work.do()
            finally:
                await ended.wait()
                cleaned.set()

        first = asyncio.ensure_future(shared.join("a", slow_to_end()))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        work.gate.set()
        assert await shared.join("a", work.do()) == 2, "it is not cancelled with the first"
        closing = asyncio.ensure_future(shared.close(60.0))
        await asyncio.sleep(0.01)
        assert not closing.done(), "what was given up before is waited for, too"
        ended.set()
        await closing
        assert cleaned.is_set(), "its end is not cut short by a second cancellation"

    asyncio.run(main())
