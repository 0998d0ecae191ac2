"""The signals of a server: what each asks for. None but KILL, and a crash, ends it without a word.

    TERM INT QUIT ABRT XCPU PWR   stop: drain, then the engines
    HUP                           reload; where the terminal has gone with it, stop
    USR1                          open the log files again
    USR2 ALRM … real-time ones    nothing, and a line says so: by default each would end the server

Until a server attends to them, those that ask for its stop end it (as process 1: `__main__`). Once
it has ended they do nothing: its exit status is that of its own end, whatever comes behind it.

Left alone: those of a fault in the program itself (SEGV, BUS, FPE, ILL), which cannot go on, and
whose last word is faulthandler's; those that stop and continue it; PIPE and XFSZ, which Python
ignores from the start: they come with each write to who has gone, and that write fails anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import enum
import errno
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Ask", "Signals", "enlarge_stack", "name"]

TERMINAL = "/dev/tty"
GONE = (errno.ENXIO, errno.EIO, errno.ENODEV, errno.ENOENT)
"""What the system says of a terminal that is not there."""
LOOKS_WITHOUT = 5
"""Looks that find no terminal, after which it went without a signal for us."""


STACK = 1024 * 1024
"""Bytes. A frame is some 11 KB where the processor has AMX (64 of them at most), and what is never
touched costs nothing.
"""


class _StackT(ctypes.Structure):
    """`stack_t` of Linux, see sigaltstack(2)."""

    _fields_ = (
        ("ss_sp", ctypes.c_void_p),
        ("ss_flags", ctypes.c_int),
        ("ss_size", ctypes.c_size_t),
    )


_stack: mmap.mmap | None = None
"""The memory of the stack, for as long as the process lives."""


def enlarge_stack() -> None:
    """Gives handlers of this thread a stack that holds a frame of every signal at once.

    To be called behind `faulthandler.enable`, whose own holds some: when several signals come in
    one moment, the kernel puts their frames on top of each other, and would write over what lies
    before that stack. Where the system refuses it, the former one stays.
    """
    global _stack
    if _stack is not None:
        return
    memory = mmap.mmap(-1, STACK)
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    stack = _StackT(ss_sp=place, ss_flags=0, ss_size=STACK)
    if ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0:
        _stack = memory


class Ask(enum.Enum):
    """What a signal asks for."""

    STOP = enum.auto()
    HANG_UP = enum.auto()
    """To stop, since the terminal has gone."""
    RELOAD = enum.auto()
    REOPEN = enum.auto()
    NOTHING = enum.auto()


ASKS: dict[int, Ask] = {
    signal.SIGTERM: Ask.STOP,
    signal.SIGINT: Ask.STOP,
    signal.SIGQUIT: Ask.STOP,
    signal.SIGABRT: Ask.STOP,
    signal.SIGXCPU: Ask.STOP,
    signal.SIGPWR: Ask.STOP,
    signal.SIGHUP: Ask.RELOAD,
    signal.SIGUSR1: Ask.REOPEN,
}
LEFT_ALONE = {
    signal.SIGKILL,
    signal.SIGSTOP,
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
    *(signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGPIPE, signal.SIGXFSZ),
}


class Signals:
    """The signals of this process. To be made before anything slow happens."""

    def __init__(self) -> None:
        self._pending: list[int] = []
        self._has_terminal = has_terminal() is True
        self._looks_without = 0
        self._ignores_hang_up = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        """It was started by `nohup`, and is to outlive its terminal."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, those that ask for no stop are kept until somebody attends to them."""
        asked = [number for number in handled() if ASKS.get(number) is not Ask.STOP]
        before = [(number, signal.signal(number, self._keep)) for number in asked]
        try:
            yield
        finally:
            for number, handler in before:
                if signal.getsignal(number) == self._keep:  # else nobody has attended to them
                    signal.signal(number, handler)

    def _keep(self, number: int, _: FrameType | None) -> None:
        self._pending.append(number)

    def attend(self, act: Callable[[int, Ask], None]) -> None:
        """Calls `act` with each one's number on the running event loop, also with those held."""
        loop = asyncio.get_running_loop()
        for number in handled():
            loop.add_signal_handler(number, self._pass, number, act)
        pending, self._pending = self._pending, []
        for number in pending:
            self._pass(number, act)

    def ignore(self) -> None:
        """For the time between the end of the server and that of the process.

        Python gives the signals that it handles their default back when it ends, and leaves those
        alone that are ignored.
        """
        for number in handled():
            signal.signal(number, signal.SIG_IGN)

    def _pass(self, number: int, act: Callable[[int, Ask], None]) -> None:
        act(number, self.ask(number))

    def look(self) -> None:
        """To be called every second. A shell that ends may leave us without our terminal, and send
        nothing: a SIGHUP that comes later is a wish to reload.
        """
        if not self._has_terminal or (seen := has_terminal()) is None:
            return
        self._looks_without = 0 if seen else self._looks_without + 1
        self._has_terminal = self._looks_without < LOOKS_WITHOUT

    def ask(self, number: int) -> Ask:
        """What a signal that has just come asks for."""
        ask = ASKS.get(number, Ask.NOTHING)
        # A terminal that closes, and the shell in it, send the same signal as `kill -HUP`.
        if ask is Ask.RELOAD and self._has_terminal and has_terminal() is False:
            return Ask.NOTHING if self._ignores_hang_up else Ask.HANG_UP
        return ask


def handled() -> set[int]:
    """The numbers of all signals that would end the process, or that ask for something."""
    return {int(number) for number in signal.valid_signals() - LEFT_ALONE}


def name(number: int) -> str:
    """`SIGHUP`; of a real-time signal its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def has_terminal() -> bool | None:
    """Whether the session of this process has a terminal, which may not be the standard output.

    None: that cannot be known now, as without a free descriptor.
    """
    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return False if error.errno in GONE else None
    return True
