"""What a process takes that another one offers."""

from __future__ import annotations

import os
import socket

import pytest

from gpustack_fast.errors import ControlError, UsageError
from gpustack_fast.handover import successor
from gpustack_fast.handover.channel import send_offer
from gpustack_fast.handover.launch import VARIABLE
from gpustack_fast.handover.messages import Offer
from gpustack_fast.handover.successor import inherit
from gpustack_fast.listeners import bind, urls_of


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
        environment = {VARIABLE: str(theirs.detach()), "PATH": "/bin"}
        inherited = inherit(environment)
    assert inherited is not None and inherited.offer == offer
    assert environment == {"PATH": "/bin"}
    os.write(standard_error, b"said")
    assert os.read(reading, 10) == b"said"
    sockets = inherited.sockets("127.0.0.1", 0)
    assert sockets is not None and urls_of(sockets) == urls_of(listeners)
    assert not any(os.get_inheritable(one) for one in (inherited.lock, sockets[0].fileno()))
    for one in (lock, errors, reading, inherited.lock, standard_error):
        os.close(one)
    for each in (*listeners, *sockets):
        each.close()
    inherited.close()


def test_sockets_for_another_address_are_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        (listener,) = bind("127.0.0.1", 0)
        copy = os.dup(listener.fileno())
        offer = Offer(version="1", host="127.0.0.1", port=80)
        inherited = successor.Inheritance(offer, [3, copy], ours)
        assert inherited.sockets("127.0.0.1", 81) is None
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
