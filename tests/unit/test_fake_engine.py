"""The fake engine obeys: tests rely on its faults really happening."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import fake_responses
from harness import FakeEngine
from raw_http import DEADLINE, BrokenFraming, Client, build, chat, eventually

Engines = Callable[..., list[FakeEngine]]


@pytest.fixture
def engine(fake_engines: Engines) -> FakeEngine:
    return fake_engines(1)[0]


def ask(engine: FakeEngine, **orders: Any) -> Any:
    """One non-streamed chat request, straight to the engine."""
    with Client(engine.address) as client:
        return client.request("POST", "/v1/chat/completions", chat(text="n-1", fake=orders))


def test_it_responds_in_the_shapes_of_vllm(engine: FakeEngine) -> None:
    whole = ask(engine).json()
    assert whole["object"] == "chat.completion" and whole["model"] == "m"
    assert whole["choices"][0]["message"]["content"] == "n-1"
    with Client(engine.address) as client:
        body = chat(
            text="n-2", stream=True, stream_options={"include_usage": True}, fake={"frames": 2}
        )
        events = client.request("POST", "/v1/chat/completions", body).events()
    assert events[-1] == "[DONE]" and len(events) == 5
    assert all("n-2" in event for event in events[:-1])
    assert json.loads(events[-2])["choices"] == []


def test_it_journals_what_it_received(engine: FakeEngine) -> None:
    with Client(engine.address) as client:
        client.request(
            "POST",
            "/v1/completions",
            {"model": "a", "prompt": "p"},
            headers=[("X-One", "1")],
            chunk=3,
        )
    entry = engine.last()
    assert entry["complete"] and entry["model"] == "a" and entry["ended"] == "answered"
    assert ["X-One", "1"] in entry["headers"] and json.loads(entry["text"])["prompt"] == "p"


@pytest.mark.parametrize("pause", range(1, 30))
def test_it_reads_chunks_wherever_they_are_torn(engine: FakeEngine, pause: int) -> None:
    request = build("POST", "/v1/completions", b'{"model": "m"}', chunk=3)
    with Client(engine.address) as client:
        client.send(request[:-pause])
        eventually(lambda: engine.state()["in_progress"] == 1, "the engine to have the beginning")
        client.send(request[-pause:])
        assert client.read_response().status == 200
    assert engine.last()["text"] == '{"model": "m"}'


def test_it_journals_an_upload_that_broke_off(engine: FakeEngine) -> None:
    with Client(engine.address) as client:
        client.send(build("POST", "/v1/chat/completions", chat())[:-5])
    entry = eventually(
        lambda: engine.inference() and engine.last()["ended"] and engine.last(),
        "an end in the journal",
    )
    assert not entry["complete"] and entry["ended"] == "peer_closed" and entry["length"] > 0


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "place", [place for place in fake_responses.PLACES if place != "before_head"]
)
def test_it_dies_where_it_was_told_to(engine: FakeEngine, how: str, place: str) -> None:
    fault = {"how": how, "at": place}
    with Client(engine.address) as client:
        client.send(build("POST", "/v1/chat/completions", chat(stream=True, fake={"fault": fault})))
        if place == "inside_head":
            with pytest.raises(BrokenFraming):
                client.read_head()
        else:
            assert client.read_response().broken
    assert engine.last()["ended"] == "died"
    assert engine.state()["counters"][f"fault:{how}:{place}"] == 1


def test_it_stalls_until_its_peer_leaves(engine: FakeEngine) -> None:
    with Client(engine.address) as client:
        body = chat(fake={"fault": {"how": "stall", "at": "before_head"}})
        client.send(build("POST", "/v1/chat/completions", body))
        eventually(lambda: engine.state()["in_progress"] == 1, "the engine to be busy")
    eventually(lambda: engine.last()["ended"] == "peer_closed", "the engine to see the close")


def test_it_sees_its_peer_leave_while_it_does_not_read(engine: FakeEngine) -> None:
    with Client(engine.address) as client:
        client.send(
            build(
                "POST",
                "/v1/chat/completions",
                b"x" * 100_000,
                headers=[("X-Fake", '{"read_rate": 0}')],
            )
        )
    eventually(lambda: engine.last()["ended"] == "peer_closed", "the engine to see the close")


@pytest.mark.parametrize("framing", fake_responses.FAULTY_FRAMINGS)
def test_every_faulty_framing_is_rejected_by_the_strict_client(
    engine: FakeEngine, framing: str
) -> None:
    with Client(engine.address) as client:
        client.send(build("POST", "/v1/chat/completions", chat(fake={"framing": framing})))
        head = client.read_head()
        client.socket.settimeout(1)
        with pytest.raises((AssertionError, BrokenFraming, TimeoutError)):
            client.read_body(head)


def test_it_exits_with_the_code_it_was_given(engine: FakeEngine) -> None:
    with pytest.raises(BrokenFraming):
        ask(engine, fault={"how": "exit", "at": "before_head", "code": 7})
    assert engine.process.wait(DEADLINE) == 7


def test_it_responds_before_it_has_read_the_body(engine: FakeEngine) -> None:
    orders = json.dumps({"early": {"status": 400, "then": "reset"}})
    with Client(engine.address) as client:
        client.send(
            build("POST", "/v1/chat/completions", chat(), headers=[("X-Fake", orders)])[:-3]
        )
        assert client.read_response().status == 400
        assert client.is_closed()


def test_orders_can_hold_once_or_a_few_times_or_on_one_engine(engine: FakeEngine) -> None:
    assert [ask(engine, status=500, once="a").status for _ in range(3)] == [500, 200, 200]
    engine.defaults(status=500, times=2)
    assert [ask(engine).status for _ in range(3)] == [500, 500, 200]
    assert ask(engine, status=500, only_on="another").status == 200
    assert ask(engine, status=500, only_on=engine.name).status == 500


def test_an_unknown_order_is_rejected(engine: FakeEngine) -> None:
    response = ask(engine, splt_frames=True)
    assert response.status == 400 and "splt_frames" in response.body.decode()


def test_it_ignores_sigterm_when_told_to(fake_engines: Engines) -> None:
    engine = fake_engines(1, "--ignore-sigterm")[0]
    engine.process.terminate()
    assert ask(engine).status == 200
    engine.control("stop")
    assert engine.process.wait(DEADLINE) == 0


def test_a_stall_without_a_time_lasts_until_it_is_told_to_go_on(engine: FakeEngine) -> None:
    fault = {"how": "stall", "at": "before_head"}
    with Client(engine.address) as client:
        client.send(build("POST", "/v1/chat/completions", chat(fake={"fault": fault})))
        eventually(lambda: engine.state()["in_progress"] == 1, "the request to be there")
        engine.go_on()
        assert client.read_response().status == 200
    assert ask(engine, fault=fault).status == 200, "none begins"
