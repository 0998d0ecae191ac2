"""Where a server cannot be replaced by another process, and what it heeds behind that."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gpustack_fast.handover import launch, predecessor
from gpustack_fast.handover.channel import Channel
from gpustack_fast.handover.launch import Origin
from gpustack_fast.handover.messages import FromSuccessor
from gpustack_fast.handover.predecessor import Predecessor, why_not_here
from gpustack_fast.keys.live import KeyChange

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
