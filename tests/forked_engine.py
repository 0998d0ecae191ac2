"""Fake engines that the nursery forks, with what the tests use of `subprocess.Popen`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

NURSERY = Path(__file__).with_name("engine_nursery.py")


@functools.cache
def nursery() -> socket.socket:
    """The socket on which engines are asked for; the nursery lives as long as this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen([sys.executable, str(NURSERY)], stdin=theirs.fileno())
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


class ForkedEngine:
    """The process of a fake engine with these arguments."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.returncode: int | None = None
        self.socket, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(nursery(), [json.dumps(arguments).encode()], [theirs.fileno()])
        self.stdout = self.socket.makefile()
        self.pid = int(self.stdout.readline().removeprefix("pid "))

    def poll(self) -> int | None:
        """Its exit code, or None while it lives."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended; raises `subprocess.TimeoutExpired` after so many seconds."""
        if self.returncode is None:
            waiting = select.poll()  # there may be more descriptors than `select.select` takes
            waiting.register(self.socket, select.POLLIN)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.arguments, timeout or 0.0)
            word, _, code = self.stdout.readline().partition(" ")
            assert word == "ended", "The nursery of the fake engines has ended."
            self.returncode = int(code)
            self.stdout.close()
            self.socket.close()
        return self.returncode

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Does nothing when it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
