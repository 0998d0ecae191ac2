"""A reload that this machine has no room for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpustack_fast.config import Config
from gpustack_fast.reload import Deployment, Reloader


def test_a_reload_without_a_thread_changes_nothing_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = Deployment(config=Config(), routes={}, engine_keys={})
    nothing: Any = None

    async def run() -> Reloader:
        def none_left(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        loop: Any = asyncio.get_running_loop()
        loop.run_in_executor = none_left
        reloader = Reloader(nothing, start, nothing, nothing, nothing, nothing)
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
