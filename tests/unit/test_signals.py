"""Signals: none of those that would end a process does so without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpustack_fast import __main__, signals
from gpustack_fast.signals import ASKS, Ask, Signals, name
from limits import no_descriptors
from raw_http import DEADLINE

ATTENDING = """
import asyncio, signal, sys
from gpustack_fast.signals import Signals
{before}
async def main():
    received.attend(lambda number, ask: print(number, ask.name, flush=True))
    print("attending", flush=True)
    await asyncio.sleep(3600)
received = Signals()
with received.held():
    print("held", flush=True)
    sys.stdin.readline()
    asyncio.run(main())
"""
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


class Attending:
    """A process that attends to its signals as the server does, without a terminal."""

    def __init__(self, before: str = "") -> None:
        script = ATTENDING.format(before=before)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.line() == "held"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def go_on(self) -> None:
        """Lets it begin to attend."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def attending() -> Iterator[Attending]:
    one = Attending()
    yield one
    one.process.kill()
    one.process.communicate()


def ends(number: int) -> bool:
    """Whether a process of its own would end by this signal."""
    script = f"import os, signal; os.kill(os.getpid(), {number})"
    restore = f"import signal; signal.signal({number}, signal.SIG_DFL); "
    return subprocess.run([sys.executable, "-c", restore + script], check=False).returncode != 0


def test_every_signal_that_would_end_a_process_asks_for_something_and_ends_nothing(
    attending: Attending,
) -> None:
    attending.go_on()
    assert attending.line() == "attending"
    stopping = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    spared = {signal.SIGKILL, *FAULTS, *stopping}
    # A few of the real-time ones stand for all.
    numbers = [number for number in range(1, 38) if number in signal.valid_signals() - spared]
    for number in numbers:
        if number in (signal.SIGPIPE, signal.SIGXFSZ) or not ends(number):
            attending.send(number)  # ignored: there is no line of it
        else:
            attending.send(number)
            assert attending.line().split()[0] == str(number), name(number)
    assert attending.process.poll() is None


@pytest.mark.parametrize(
    ("number", "ask"),
    [
        (signal.SIGTERM, Ask.STOP),
        (signal.SIGINT, Ask.STOP),
        (signal.SIGQUIT, Ask.STOP),
        (signal.SIGHUP, Ask.RELOAD),
        (signal.SIGUSR1, Ask.REOPEN),
        (signal.SIGUSR2, Ask.NOTHING),
        (40, Ask.NOTHING),
    ],
)
def test_each_signal_has_its_meaning(number: int, ask: Ask) -> None:
    assert Signals().ask(number) is ask


def test_what_comes_before_anybody_attends_is_kept(attending: Attending) -> None:
    for number in (signal.SIGHUP, signal.SIGUSR2):
        attending.send(number)
    attending.go_on()
    assert [attending.line() for _ in range(3)] == [
        f"{signal.SIGHUP.value} RELOAD",
        f"{signal.SIGUSR2.value} NOTHING",
        "attending",
    ]


ENDING = """
import asyncio, signal, sys
import uvloop
from gpustack_fast.signals import Signals, handled
async def main():
    received.attend(lambda number, ask: None)
    await asyncio.sleep(0)
    received.ignore()
received = Signals()
with received.held():
    uvloop.run(main())
assert {signal.getsignal(number) for number in handled()} == {signal.SIG_IGN}
print("ended", flush=True)
sys.stdin.readline()
"""


def test_what_comes_behind_the_end_of_a_server_does_not_change_its_exit_status() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        command = [sys.executable, "-c", ENDING]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as ending:
            assert ending.stdout is not None
            assert ending.stdout.readline() == "ended\n"
            ending.send_signal(number)
            ending.communicate("\n")
        assert ending.returncode == 0, name(number)


def test_a_stop_before_anybody_attends_ends_the_process_by_default(attending: Attending) -> None:
    attending.send(signal.SIGTERM)
    assert attending.process.wait(DEADLINE) == -signal.SIGTERM


def test_a_terminal_that_goes_asks_for_the_stop_unless_nohup_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "TERMINAL", "/dev/null")
    with_terminal = Signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    under_nohup = Signals()
    signal.signal(signal.SIGHUP, before)
    assert with_terminal.ask(signal.SIGHUP) is Ask.RELOAD
    assert under_nohup.ask(signal.SIGHUP) is Ask.RELOAD
    monkeypatch.setattr(signals, "TERMINAL", "/nonexistent")
    assert with_terminal.ask(signal.SIGHUP) is Ask.HANG_UP
    assert under_nohup.ask(signal.SIGHUP) is Ask.NOTHING
    assert Signals().ask(signal.SIGHUP) is Ask.RELOAD, "it never had one"
    for _ in range(signals.LOOKS_WITHOUT - 1):
        with_terminal.look()
    assert with_terminal.ask(signal.SIGHUP) is Ask.HANG_UP
    with_terminal.look()
    assert with_terminal.ask(signal.SIGHUP) is Ask.RELOAD, "it went long ago, without a signal"


def test_a_lack_of_descriptors_is_no_end_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "TERMINAL", "/dev/null")
    with_terminal = Signals()
    with no_descriptors():
        assert with_terminal.ask(signal.SIGHUP) is Ask.RELOAD
        for _ in range(signals.LOOKS_WITHOUT):
            with_terminal.look()
    monkeypatch.setattr(signals, "TERMINAL", "/nonexistent")
    assert with_terminal.ask(signal.SIGHUP) is Ask.HANG_UP, "it was not forgotten meanwhile"


# Process 1, to which the kernel passes only signals that it has a handler for.

AS_PROCESS_1 = """
import os, sys
from gpustack_fast import __main__
def stay(): print(os.getpid(), flush=True); sys.stdin.read()
__main__._speak_utf8 = stay
__main__.main()
"""


def test_what_stops_a_server_ends_process_1_before_there_is_one() -> None:
    assert {number for number, ask in ASKS.items() if ask is Ask.STOP} == set(__main__.STOPS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_1_ends_by_a_stop_while_it_starts(number: int) -> None:
    new = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*new, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no process namespaces here")
    unshare = subprocess.Popen(
        [*new, sys.executable, "-c", AS_PROCESS_1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert unshare.stdout is not None
        assert unshare.stdout.readline() == "1\n"
        children = f"/proc/{unshare.pid}/task/{unshare.pid}/children"
        (child,) = Path(children).read_text().split()
        os.kill(int(child), number)
        assert unshare.wait(DEADLINE) == 128 + number
    finally:
        unshare.kill()
        unshare.communicate()


ASKED = """
import ctypes, faulthandler
from gpustack_fast import signals
faulthandler.enable()
signals.enlarge_stack()
signals.enlarge_stack()  # once more changes nothing
found = signals._StackT()
libc = ctypes.CDLL(None)
assert libc.sigaltstack(None, ctypes.byref(found)) == 0
AT_MINSIGSTKSZ = 51
print(found.ss_size, libc.getauxval(AT_MINSIGSTKSZ))
"""


def test_the_stack_of_handlers_holds_a_frame_of_every_signal() -> None:
    """That of faulthandler holds some: five at once were seen to write over what lies before it."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=60, check=True
    )
    size, frame = map(int, done.stdout.split())
    assert size >= len(signals.handled()) * (frame + 1024)
