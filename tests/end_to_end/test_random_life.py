"""A server's life at random; and whatever is planted into a life turns its checks red."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from gpustack_fast.engines.processes import MARK, mark_of
from harness import KEY, held_port
from load import Damaged, Load, Outcome, Response, check
from random_life import DESCRIPTORS, MEGABYTES, Kill, Life, life, unexcused
from raw_http import DEADLINE, Client, chat, eventually

SECONDS = 60.0
FRAMES = 3
NONCE = "nonce-0;"
"""Of a load's first request."""


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_whatever_happens(seed: int) -> None:
    with life(seed) as one:
        one.run(SECONDS)


# What is planted.


@pytest.fixture(scope="module")
def quiet() -> Iterator[Life]:
    """A life in which nothing happens."""
    with life(0) as one:
        one.settle()
        yield one


@pytest.fixture(scope="module")
def stream(quiet: Life) -> list[bytes]:
    """The events of a real stream, as a load's first one asks for it."""
    orders = {"nonce": NONCE, "frames": FRAMES}
    body = quiet.server.chat(chat("busy", fake=orders, stream=True)).body
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


def outcome(events: list[bytes], missing: int = 0) -> Outcome:
    """What a load makes of a stream with these events, the last bytes of which are missing."""
    body = b"".join(events)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) + missing}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(DEADLINE)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        load = Load(address, KEY, "busy", rate=0, streams=1, frames=FRAMES)
        stack.enter_context(load)
        connection = stack.enter_context(listener.accept()[0])
        load.begin_no_more()
        asked = b""
        while not asked.endswith(b"}}"):  # the end of its JSON
            asked += connection.recv(1 << 16)
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        load.stop()
    (one,) = load.outcomes
    return one


def test_a_load_finds_nothing_wrong_with_what_an_engine_has_said(stream: list[bytes]) -> None:
    one = outcome(stream)
    assert (one.kind, one.problem, one.damaged) == ("stream", "", False)


@pytest.mark.parametrize(
    ("doctor", "said"),
    [
        pytest.param(lambda all_: [*all_[:2], *all_[1:]], "it said", id="a frame twice"),
        pytest.param(lambda all_: [*all_[:1], *all_[2:]], "it said", id="a frame is missing"),
        pytest.param(
            lambda all_: [all_[0], all_[1].replace(b"nonce-0;", b"nonce-1;"), *all_[2:]],
            "it said",
            id="a frame of another's",
        ),
        pytest.param(
            lambda all_: [all_[0], all_[1][:-20] + b"\n\n", *all_[2:]],
            "a frame that is none",
            id="half a frame",
        ),
        pytest.param(lambda all_: [*all_[:-2], all_[-1]], "without a reason", id="no reason"),
        pytest.param(lambda all_: all_[:-1], "without its end", id="no [DONE]"),
        pytest.param(lambda all_: [], "without its end", id="nothing"),
    ],
)
def test_a_load_sees_that_a_stream_is_damaged(
    stream: list[bytes], doctor: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    one = outcome(doctor(stream))
    assert one.damaged and said in one.problem, one


def test_a_stream_that_says_that_it_is_not_whole_has_failed_and_is_not_damaged(
    stream: list[bytes],
) -> None:
    cut = outcome(stream[:-1], missing=len(stream[-1]))
    assert "it ended in its middle" in cut.problem and not cut.damaged
    error = outcome([*stream[:2], b'data: {"error":{"message":"The engine has ended."}}\n\n'])
    assert "ends in an error" in error.problem and not error.damaged


def test_a_load_sees_that_a_whole_response_is_anothers(quiet: Life) -> None:
    body = quiet.server.chat(chat("busy", fake={"nonce": NONCE})).body
    check("request", NONCE, 1, Response(200, False, body))
    for doctored in (body.replace(b"nonce-0;", b"nonce-1;"), body[:-10], b"{}"):
        with pytest.raises(Damaged):
            check("request", NONCE, 1, Response(200, False, doctored))


def test_a_load_follows_a_server_that_listens_elsewhere_when_it_is_started_again(
    quiet: Life,
) -> None:
    address = f"http://127.0.0.1:{held_port(quiet)}"
    with Load(address, KEY, "busy", rate=0, streams=1, frames=FRAMES, patient=True) as load:
        eventually(lambda: load.open_streams == 1, "it asks")
        assert load.outcomes == []
        load.address = quiet.server.address
        eventually(lambda: load.succeeded("stream"), "it is served")
    assert load.problems() == []


def test_a_frame_that_a_client_gets_twice_turns_a_life_red(quiet: Life) -> None:
    engines = [one.address for one in quiet.busy()]
    control(engines, "defaults", {"twice": 2})
    try:
        with pytest.raises(AssertionError, match="Damaged: it said"):
            quiet.run(0)
    finally:
        control(engines, "reset")


def control(engines: list[str], word: str, document: object = None) -> None:
    """Tells engines, past the server."""
    for address in engines:
        with Client(address) as client:
            assert client.request("POST", f"/fake/{word}", document).status == 200


def test_a_lease_that_is_not_returned_turns_a_life_red(quiet: Life) -> None:
    fault = {"how": "stall", "at": "at_frame"}
    with quiet.server.client() as client:
        quiet.server.send_chat(client, chat("busy", fake={"fault": fault}, stream=True))
        assert client.read_head().status == 200
        with pytest.raises(AssertionError, match="every lease is returned"):
            quiet.check_leases(within=1)
    quiet.check_leases()


def test_an_orphan_turns_a_life_red(quiet: Life) -> None:
    mark = {MARK: str(quiet.server.data_dir / "run" / "instances" / "gone.json")}
    command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, env=mark, start_new_session=True) as orphan:
        try:
            # A process that was just begun has no variables for a moment.
            eventually(lambda: mark_of(orphan.pid), "it bears the mark")
            with pytest.raises(AssertionError, match="no orphan is left"):
                quiet.check_orphans(within=1)
        finally:
            orphan.kill()
    quiet.check_orphans()


def test_descriptors_and_memory_that_are_not_given_back_turn_a_life_red(quiet: Life) -> None:
    before = quiet.held()
    quiet.check_held(before)
    with contextlib.ExitStack() as stack:
        for _ in range(DESCRIPTORS + 5):
            stack.enter_context(quiet.server.client())
        enough = before.descriptors + DESCRIPTORS
        eventually(lambda: quiet.held().descriptors > enough, "its connections are accepted")
        with pytest.raises(AssertionError, match="'descriptors: "):
            quiet.check_held(before, within=1)
    quiet.check_held(before)
    with pytest.raises(AssertionError, match="'megabytes: "):
        quiet.check_held(before._replace(megabytes=before.megabytes - 2 * MEGABYTES), within=1)


@pytest.mark.parametrize(
    ("began", "ended", "is_met"),
    [
        (5.0, 9.0, False),
        (5.0, 10.5, True),  # it ran when something was killed
        (11.0, 11.1, True),  # nothing served
        (13.5, 13.6, True),  # it had reached what was killed
        (15.0, 16.0, False),
        (5.0, 20.0, True),
    ],
)
def test_a_kill_excuses_what_it_has_met_and_nothing_that_is_damaged(
    began: float, ended: float, is_met: bool
) -> None:
    failed = Outcome("stream", began, ended, "Broken: it ended in its middle")
    damaged = Outcome("stream", began, ended, "Damaged: it said nothing", damaged=True)
    right = Outcome("stream", began, ended, "")
    found = unexcused([failed, damaged, right], [Kill(10.0, 12.0)])
    assert found == ([damaged] if is_met else [failed, damaged])
    assert unexcused([failed, right], []) == [failed]
