"""What lasts of engines over restarts, and whose it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from small_backend import eventually

from gpustack_fast.engines import history as histories
from gpustack_fast.engines.history import History


class Broken:
    """States that cannot be saved."""

    def __init__(self) -> None:
        self.saved = 0

    def drain(self, _: object) -> bool:
        return True

    def save(self) -> None:
        self.saved += 1
        raise OSError("the disk is full")


def test_a_history_that_is_given_saves_nothing_more_not_even_what_could_not_be_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(histories, "TRY_AGAIN_AFTER", 0.01)
    states: Any = Broken()

    async def main() -> None:
        history = History(states)
        history.drain(["m-1"])
        await eventually(lambda: states.saved > 1, "it is tried again")
        history.give()
        history.drain(["m-1"])
        await asyncio.sleep(0.1)  # what was being saved then
        saved = states.saved
        await asyncio.sleep(0.1)
        assert states.saved == saved
        await history.close()

    asyncio.run(main())
