"""Where a server cannot be replaced by another process, and what it heeds behind that."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gpustack_fast.control.documents import HandedOver
from gpustack_fast.errors import ControlError
from gpustack_fast.handover import launch, predecessor
from gpustack_fast.handover.channel import Channel
from gpustack_fast.handover.launch import Origin
from gpustack_fast.handover.messages import FromSuccessor, Go, Offer
from gpustack_fast.handover.predecessor import Postponed, Predecessor, why_not_here
from gpustack_fast.keys.live import KeyChange
from harness import alive
from raw_http import eventually

ORIGIN = Origin(arguments=["serve"], environment={})


def test_process_1_of_a_container_cannot_be_replaced() -> None:
    assert "process 1 of its container" in why_not_here(1, 0, {})


@pytest.mark.parametrize("init", ["tini", "docker-init"])
def test_nor_can_the_program_of_a_small_init(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "_name_of", lambda _: init)
    assert f"started by {init}" in why_not_here(7, 1, {})
    assert why_not_here(7, 5, {}) == "", "it is the child of somebody else, who may well wait"


def test_a_service_of_systemd_must_be_able_to_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "_name_of", lambda _: "systemd")
    assert "Type=notify" in why_not_here(7, 1, {"INVOCATION_ID": "a"})
    assert why_not_here(7, 1, {"INVOCATION_ID": "a", "NOTIFY_SOCKET": "/run/x"}) == ""
    assert why_not_here(7, 1, {}) == "", "whoever started it has left"


def test_no_key_of_the_environment_is_ever_shown() -> None:
    origin = Origin(arguments=["serve"], environment={"SECRET_KEY": "sk-1"})
    assert "sk-1" not in repr(origin) and "serve" in repr(origin)


class Server:
    """A server that gives, as far as its successor can tell it something."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def heed(self, change: KeyChange) -> None:
        self.told.append(change)

    def hurry(self, within: float) -> None:
        self.told.append(within)

    def bereft(self) -> None:
        self.told.append("bereft")


class Heir:
    """A successor that serves, and says this."""

    pid = 4711

    def __init__(self, channel: Channel[FromSuccessor]) -> None:
        self.channel = channel
        self.is_let_go = False

    async def how_it_ended(self) -> str:
        return "has ended."

    def let_go(self) -> None:
        self.is_let_go = True


def test_words_that_nobody_knows_hide_nothing_else_that_a_successor_says() -> None:
    """A newer version may say more."""
    ours, theirs = socket.socketpair()
    server: Any = Server()

    async def main() -> None:
        heir: Any = Heir(await Channel.of(ours, launch.DECODER))
        with theirs:
            theirs.sendall(b'{"message":"hello"}\n{"message":"hurry","within":1.5}\n?\n')
            theirs.sendall(b'{"message":"keys","salt":"","remove":["a"]}\n')
        async with asyncio.timeout(30):
            await Predecessor(server, lambda: ORIGIN)._heed(heir)
        heir.channel.close()
        assert heir.is_let_go

    asyncio.run(main())
    assert server.told == [1.5, KeyChange(salt="", remove=["a"]), "bereft"]


SUCCESSOR = """
import json, os, socket, time
connection = socket.socket(fileno=int(os.environ["GPUSTACK_FAST_HANDOVER"]))
heard = connection.makefile()
assert json.loads(heard.readline())["message"] == "offer"

def say(message, **fields):
    connection.sendall(json.dumps(fields | {"message": message}).encode() + b"\\n")

def serve():
    assert json.loads(heard.readline())["revoked"] == ["a"]
    say("serving", addresses=["http://h:1"])
    heard.readline()
"""
SLEEPS = """
say("waiting", reason="It waits.")
open({path!r}, "w").write(str(os.getpid()))
time.sleep(600)
"""
SLOW = """
read = heard.readline
heard.readline = lambda: (read(), time.sleep(3))[0]
"""
READY = 'say("ready", version="2")\n'


class Giving(Server):
    """A server that hands over, and writes down what it is asked for."""

    postponed = 0

    async def freeze(self) -> None:
        self.told.append("freeze")

    def thaw(self) -> None:
        self.told.append("thaw")

    def offer(self) -> tuple[Offer, list[int]]:
        return Offer(version="1", host="h", port=1), [1, 2]

    async def last_changes(self) -> Go:
        self.told.append("last changes")
        if self.postponed:
            self.postponed -= 1
            raise Postponed("A request has come.")
        return Go(revoked=["a"])

    def given(self) -> None:
        self.told.append("given")


class Handing:
    """A predecessor whose successor is a program of this code."""

    def __init__(self, folder: Path, code: str) -> None:
        self.server = Giving()
        self.predecessor = Predecessor(self.server, lambda: ORIGIN)
        self.python = folder / "python"
        self.python.write_text(f"#!{sys.executable} -IS\n{SUCCESSOR}{code}")
        self.python.chmod(0o700)

    async def over(self, timeout: float = 30.0) -> HandedOver:
        return await self.predecessor.hand_over(str(self.python), timeout)

    async def fails(self, why: str, timeout: float = 30.0) -> None:
        with pytest.raises(ControlError, match=why):
            await self.over(timeout)
        assert self.server.told[-1] == "thaw" and "given" not in self.server.told
        assert self.predecessor.successor is None and not self.predecessor.is_under_way

    async def end(self) -> None:
        heir = self.predecessor._heir
        assert heir is not None
        self.predecessor.close()
        await heir.end()


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


def test_everything_is_given_to_a_successor_that_serves_and_nothing_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        handing = Handing(tmp_path, f"{READY}serve()")
        done = await handing.over()
        assert (done.version, done.former_version) == ("2", "1")
        assert done.addresses == ["http://h:1"] and done.pid == handing.predecessor.successor
        assert handing.server.told == ["freeze", "last changes", "given"]
        with pytest.raises(ControlError, match=f"the process {done.pid} has taken over"):
            await handing.over()
        await handing.predecessor.abort()
        assert alive(done.pid), "it is too late to end it"
        await handing.end()
        await asyncio.sleep(0.1)
        assert "bereft" not in handing.server.told, "nobody heeds it any more"

    played(scenario)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", "The new process has ended with the status 0"),
        ("os._exit(3)", "has ended with the status 3"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ('say("refused", reason="No.")', "The new process cannot take over: No."),
        ('say("hello")', "says something unknown"),
        (READY, "has ended with the status 0"),
    ],
)
def test_where_a_successor_cannot_serve_the_server_goes_on_and_may_be_asked_again(
    tmp_path: Path, code: str, why: str
) -> None:
    async def scenario() -> None:
        handing = Handing(tmp_path, code)
        await handing.fails(why)
        handing.python.write_text(f"#!{sys.executable} -IS\n{SUCCESSOR}{READY}serve()")
        await handing.over()
        await handing.end()

    played(scenario)


def test_one_that_is_not_ready_in_time_is_ended_and_its_reason_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        pid = tmp_path / "pid"
        handing = Handing(tmp_path, SLEEPS.format(path=str(pid)))
        await handing.fails(r"did not take over within 3 s, and was ended. It waits\.", 3.0)
        assert not alive(int(pid.read_text()))

    played(scenario)


def test_one_that_has_the_word_is_not_ended_before_it_can_have_heeded_it(tmp_path: Path) -> None:
    """It serves from then on, and its end would be that of the engines."""

    async def scenario() -> None:
        handing = Handing(tmp_path, f"{READY}{SLOW}serve()")
        await handing.over(2.5)
        assert handing.server.told[-1] == "given"
        await handing.end()

    played(scenario)


def test_one_hand_over_at_a_time_and_a_stop_ends_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        pid = tmp_path / "pid"
        handing = Handing(tmp_path, SLEEPS.format(path=str(pid)))
        first = asyncio.ensure_future(handing.over())
        await asyncio.to_thread(eventually, lambda: pid.exists() and pid.read_text(), "its start")
        with pytest.raises(ControlError, match="under way already"):
            await handing.over()
        await handing.predecessor.abort()
        with pytest.raises(ControlError, match="told to stop meanwhile"):
            await first
        assert handing.server.told == ["freeze", "thaw"]
        assert not alive(int(pid.read_text()))

    played(scenario)


def test_what_is_postponed_begins_again_as_long_as_there_is_time_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        handing = Handing(tmp_path, f"{READY}serve()")
        handing.server.postponed = 2
        await handing.over()
        tries = ["freeze", "last changes", "thaw"]
        assert handing.server.told == [*tries, *tries, "freeze", "last changes", "given"]
        await handing.end()
        handing = Handing(tmp_path, f"time.sleep(2)\n{READY}serve()")
        handing.server.postponed = 2
        await handing.fails("A request has come.", 3.9)
        assert handing.server.told == tries, "another try would not be over in time"

    played(scenario)
