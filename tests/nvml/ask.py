"""Reads GPUs as a server does, in a process that may load another driver than the tests' own.

    python ask.py DEADLINE REOPEN_AFTER

Each line of standard input is a word: `read` prints a GpuReport, `read twice` whether two at a time
get the same one, `watch` begins to print faults, `threads` prints the names of the threads that
talk to the driver, `close` ends the reader and says `closed`.
"""

from __future__ import annotations

import asyncio
import sys
import threading

import msgspec

from gpustack_fast.gpus import Reader, driver
from gpustack_fast.gpus.faults import FaultWatch, GpuFault


def show(value: object) -> None:
    print(msgspec.json.encode(value).decode(), flush=True)


async def main() -> None:
    driver.REOPEN_AFTER = float(sys.argv[2])
    reader = Reader(float(sys.argv[1]))
    watch = FaultWatch(show_fault)
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if word == "read":
            show(await reader.read())
        elif word == "read twice":
            first, second = await asyncio.gather(reader.read(), reader.read())
            show(first is second)
        elif word == "watch":
            watch.start()
        elif word == "threads":
            show([one.name for one in threading.enumerate() if one.name.startswith("nvml")])
        elif word == "close":
            watch.close()
            await reader.close()
            show("closed")


def show_fault(fault: GpuFault) -> None:
    show(fault)


if __name__ == "__main__":
    asyncio.run(main())
