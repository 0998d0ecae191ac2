"""What a process takes that another one offers."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec
import pytest

from gpustack_fast.errors import ControlError, UsageError
from gpustack_fast.handover import channel, successor
from gpustack_fast.handover.channel import send_offer
from gpustack_fast.handover.launch import VARIABLE
from gpustack_fast.handover.messages import Left, Offer
from gpustack_fast.handover.successor import inherit
from gpustack_fast.keys.live import KeyChange
from gpustack_fast.listeners import bind, urls_of
from gpustack_fast.seam.documents import RouteTokens


def test_a_process_that_nobody_has_started_so_inherits_nothing() -> None:
    assert inherit({}) is None


@pytest.mark.parametrize("text", ["", "x", "987654"])
def test_a_variable_of_somebody_else_s_is_a_mistake(text: str) -> None:
    environment = {VARIABLE: text}
    with pytest.raises(UsageError, match="Unset it"):
        inherit(environment)
    assert environment == {}


def test_an_offer_comes_with_its_descriptors_which_no_engine_inherits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    reading, errors = os.pipe()
    listeners = bind("127.0.0.1", 0)
    lock = os.open("/", os.O_PATH)
    standard_error = os.open("/dev/null", os.O_WRONLY)
    monkeypatch.setattr(successor, "STANDARD_ERROR", standard_error)
    offer = Offer(version="1", host="127.0.0.1", port=0, running=[("a" * 100_000, "b")])
    with ours:
        send_offer(ours, offer, [lock, errors, listeners[0].fileno()])
        theirs.set_inheritable(True)  # as it comes to a process that was started with it
        environment = {VARIABLE: str(theirs.detach()), "PATH": "/bin"}
        before = len(os.listdir("/proc/self/fd"))
        inherited = inherit(environment)
        assert len(os.listdir("/proc/self/fd")) == before + 2, "the lock and a socket"
    assert inherited is not None and inherited.offer == offer
    assert environment == {"PATH": "/bin"}
    os.write(standard_error, b"said")
    assert os.read(reading, 10) == b"said"
    sockets = inherited.sockets("127.0.0.1", 0)
    assert sockets is not None and urls_of(sockets) == urls_of(listeners)
    given = (inherited.lock, sockets[0].fileno(), inherited._connection.fileno())
    assert not any(os.get_inheritable(one) for one in given)
    for one in (lock, errors, reading, inherited.lock, standard_error):
        os.close(one)
    for each in (*listeners, *sockets):
        each.close()
    inherited.close()


def test_a_process_that_sends_no_offer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "OFFERED_WITHIN", 0.05)
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(UsageError, match="Unset it"):
        inherit({VARIABLE: str(theirs.detach())})


def test_words_that_nobody_knows_do_not_keep_it_from_the_end_of_the_former_process() -> None:
    """A newer version may say more."""
    ours, theirs = socket.socketpair()
    tokens = [RouteTokens(name="m", input=1, cached=0, output=2)]

    async def main() -> None:
        inherited = successor.Inheritance(Offer(version="1", host="h", port=1), [3], theirs)
        await inherited.open(lambda _: None)
        with ours:
            taking = asyncio.ensure_future(inherited.take_over())
            ours.sendall(b'{"message":"hello"}\n{"message":"go","revoked":["a"]}\n')
            assert (await taking).revoked == ["a"]
            left = msgspec.json.encode(Left(tokens=tokens))
            ours.sendall(b"?\n" + left + b"\n")
        async with asyncio.timeout(30):
            await inherited.has_left.wait()
        assert inherited.tokens == tokens
        inherited.close()

    asyncio.run(main())


def test_a_process_whose_predecessor_has_gone_goes_on_with_nothing() -> None:
    ours, theirs = socket.socketpair()
    given_up = list[str]()

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            given_up.append("work")

    async def main() -> None:
        inherited = successor.Inheritance(Offer(version="1", host="h", port=1), [3], theirs)
        await inherited.open(lambda _: None)
        assert await inherited.until(asyncio.sleep(0, "done")) == "done"
        getting_ready = asyncio.ensure_future(inherited.until(work()))
        await asyncio.sleep(0)
        ours.close()
        async with asyncio.timeout(30):
            with pytest.raises(ControlError, match="has ended, or goes on by itself"):
                await getting_ready
            with pytest.raises(ControlError, match="has ended, or goes on by itself"):
                await inherited.take_over()
        await asyncio.sleep(0)
        assert given_up == ["work"]
        inherited.close()

    asyncio.run(main())


def test_only_a_process_that_serves_tells_of_keys_and_only_one_that_is_there() -> None:
    ours, theirs = socket.socketpair()

    async def main() -> None:
        inherited = successor.Inheritance(Offer(version="1", host="h", port=1), [3], theirs)
        await inherited.open(lambda _: None)
        change = KeyChange(salt="", replace=False, upsert=[], remove=["a"])
        inherited.forward(change)
        inherited.tell_serving([])
        inherited.forward(change)
        await asyncio.sleep(0)
        said = ours.recv(1000).decode()
        assert [msgspec.json.decode(one)["message"] for one in said.splitlines()] == [
            "serving",
            "keys",
        ]
        ours.close()
        async with asyncio.timeout(30):
            await inherited.has_left.wait()
        inherited.forward(change)
        inherited.close()

    asyncio.run(main())


def test_sockets_for_another_address_are_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        (listener,) = bind("127.0.0.1", 0)
        copy = os.dup(listener.fileno())
        offer = Offer(version="1", host="127.0.0.1", port=80)
        inherited = successor.Inheritance(offer, [3, copy], ours)
        assert inherited.sockets("127.0.0.1", 81) is None
        assert inherited.sockets("127.0.0.2", 80) is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)
        listener.close()


def test_an_error_before_anything_runs_is_told_in_one_line() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inherited = successor.Inheritance(Offer(version="1", host="h", port=1), [3], theirs)
        with pytest.raises(ControlError), inherited.errors():
            raise ControlError("One.\nTwo.")
        assert ours.recv(1000) == b'{"message":"refused","reason":"One. Two."}\n'
