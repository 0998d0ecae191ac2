"""The process that leads an engine's session."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest
from small_backend import eventually

from gpustack_fast.engines.leader import watch


def test_the_end_of_a_process_is_told_once() -> None:
    """However long nobody reaps it."""
    told = list[str]()

    async def main(process: subprocess.Popen[bytes]) -> None:
        descriptor = watch(process.pid, lambda: told.append("ended"))
        await asyncio.sleep(0.05)
        assert told == []
        process.kill()
        await eventually(lambda: bool(told), "its end is told")
        await asyncio.sleep(0.05)
        os.close(descriptor)
        process.wait()
        with pytest.raises(ProcessLookupError):
            watch(process.pid, told.clear)

    with subprocess.Popen(["sleep", "600"]) as process:
        asyncio.run(main(process))
    assert told == ["ended"]
