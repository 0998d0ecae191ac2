"""A successor's process: started, and ended where it is of no use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

import msgspec
from msgspec import Struct

from gpustack_fast.errors import ControlError, printable
from gpustack_fast.faults import run_in_thread
from gpustack_fast.handover.channel import Channel, send_offer
from gpustack_fast.handover.messages import FromSuccessor, Offer

__all__ = ["VARIABLE", "Origin", "Process", "launch"]

VARIABLE = "GPUSTACK_FAST_HANDOVER"
"""The environment variable of a successor with the number of its descriptor of the connection."""
ENDED_WITHIN = 10.0
"""Seconds that a successor has for a polite end."""
DECODER: msgspec.json.Decoder[FromSuccessor] = msgspec.json.Decoder(FromSuccessor)
WORDS = 2048
"""Bytes of what a successor has written that are quoted, at most."""


class Origin(Struct, frozen=True, kw_only=True):
    """How this server was started, so that another can be started so."""

    arguments: Sequence[str]
    """Those of the command line, from `serve` on."""
    environment: Mapping[str, str]
    """As it was before anything was taken out of it. It holds keys, and is never shown."""

    def __repr__(self) -> str:
        return f"Origin(arguments={self.arguments!r}, environment=…)"


class Process:
    """A successor's process and the connection to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], channel: Channel[FromSuccessor], words: IO[bytes]
    ) -> None:
        self.pid = process.pid
        self.channel = channel
        self._process = process
        self._words = words
        self._last_words = b""
        os.set_blocking(words.fileno(), False)
        # All the time, so that a program that writes much does not wait for a reader.
        asyncio.get_running_loop().add_reader(words.fileno(), self._hear)
        # It stays a zombie until `let_go`, so that its number is given to nobody else.
        self._ended = asyncio.ensure_future(
            run_in_thread(os.waitid, os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        )

    async def how_it_ended(self) -> str:
        """The manner of the end of a process whose connection has ended, with its last words."""
        result = await self._end_within(ENDED_WITHIN)
        if result is None:
            how = "has closed its connection"
        elif result.si_code == os.CLD_EXITED:
            how = f"has ended with the status {result.si_status}"
        else:
            how = f"was ended by {signal.Signals(result.si_status).name}"
        return f"{how}. {self.last_words()}".rstrip()

    def last_words(self) -> str:
        """What it has written before it had our standard error, which then had the rest."""
        self._hear()
        words = " ".join(self._last_words.decode(errors="replace").split())
        text = printable(words.removeprefix("error: "))
        return f"It wrote: {text}" if text else ""

    def _hear(self) -> None:
        """Takes what it has written."""
        with contextlib.suppress(BlockingIOError):
            while not self._words.closed:
                piece = os.read(self._words.fileno(), 16 * WORDS)
                if not piece:
                    self._close_words()
                    return
                self._last_words = (self._last_words + piece)[-WORDS:]

    def _close_words(self) -> None:
        if not self._words.closed:
            asyncio.get_running_loop().remove_reader(self._words.fileno())
            self._words.close()

    async def end(self) -> None:
        """Ends it, politely and then firmly, with all that it has started in its own session."""
        self.channel.close()
        if not self._ended.done():
            os.kill(self.pid, signal.SIGTERM)  # Popen's would reap one that has just ended
        await self._end_within(ENDED_WITHIN)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._end_within(ENDED_WITHIN)
        self.let_go()

    def let_go(self) -> None:
        """Leaves it to itself; only its end is waited for, so that it leaves no zombie."""
        self._close_words()
        self._ended.add_done_callback(lambda _: self._process.poll())

    async def _end_within(self, seconds: float) -> os.waitid_result | None:
        """How it has ended; None: it has not, so far."""
        ended, _ = await asyncio.wait({self._ended}, timeout=seconds)
        return self._ended.result() if ended else None


async def launch(python: str, origin: Origin, offer: Offer, descriptors: list[int]) -> Process:
    """Starts a successor in a session of its own. `descriptors`: those of the offer.

    Raises ControlError, OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as otherwise:
        otherwise.callback(ours.close)
        with theirs:
            unsent = send_offer(ours, offer, descriptors)
            process, words = await _start_in_thread(python, origin, theirs)
        otherwise.pop_all()
    return Process(process, await Channel.of(ours, DECODER, unsent), words)


async def _start_in_thread(
    python: str, origin: Origin, theirs: socket.socket
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    starting = asyncio.ensure_future(run_in_thread(_start, python, origin, theirs.dup()))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_abandon)
        raise


def _abandon(starting: asyncio.Future[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
    """Ends what was started when nobody waited for it any more."""
    if starting.exception() is None:
        process, words = starting.result()
        words.close()
        process.kill()
        process.wait()


def _start(
    python: str, origin: Origin, theirs: socket.socket
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    # -P: the folder in which the server was started has no say in which program that is.
    command = [python, "-P", "-m", "gpustack_fast", *origin.arguments]
    try:
        reading, writing = os.pipe()
        with theirs, os.fdopen(writing, "wb") as errors, contextlib.ExitStack() as otherwise:
            words = otherwise.enter_context(os.fdopen(reading, "rb"))
            process = subprocess.Popen(
                command,
                stderr=errors,
                env={**origin.environment, VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            otherwise.pop_all()
    except OSError as error:
        raise ControlError(
            f"The interpreter {python} cannot be started: {error.strerror or error}. Check that "
            "the user of the server may run it."
        ) from error
    return process, words
