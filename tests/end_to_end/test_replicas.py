"""One of two engines is killed under load: the other serves who had no frame yet; nobody hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gpustack_fast.seam.documents import InstanceFailed, InstanceIdle
from harness import (
    SMOLLM2,
    STARTED_WITHIN,
    DataPlaneRouter,
    FakeEngine,
    Router,
    ServedRouter,
    external,
    read_gauge,
    serving,
)
from raw_http import BrokenFraming, Client, Response, build, chat, eventually, sooner_or_later
from seam_samples import route_entry, target_entry

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

CONCURRENT = 32


class Caller:
    """One request that runs in a thread, and how far it has come."""

    def __init__(self, router: Router, body: dict[str, Any], pool: ThreadPoolExecutor) -> None:
        self.frames = 0
        self.response: Response | None = None
        self.future = pool.submit(self.run, router, body)

    def run(self, router: Router, body: dict[str, Any]) -> None:
        with Client(router.address, timeout=STARTED_WITHIN) as client:
            client.send(build("POST", "/v1/chat/completions", body, key=router.key))
            response = client.read_head()
            try:
                if response.header("transfer-encoding"):
                    while chunk := client.read_chunk():
                        response.body += chunk
                        self.frames = response.body.count(b"\n\n")
                else:
                    client.read_body(response)
            except BrokenFraming as error:
                response.broken = str(error)
            self.response = response

    def result(self) -> Response:
        self.future.result()
        assert self.response is not None
        return self.response


def outcome(response: Response) -> str:
    """`done`, `error event`, or the status; any other end than those promised fails the test."""
    if response.status != 200:
        assert response.json()["error"]["message"].endswith(".")
        return str(response.status)
    if "event-stream" not in (response.header("content-type") or ""):
        assert response.broken is None
        assert response.json()["choices"]
        return "done"
    assert response.broken is None
    events = response.events()
    if events[-1] == "[DONE]":
        return "done"
    assert "[DONE]" not in events
    assert len(events) > 1, "it had no frame yet, so another replica could have answered"
    assert json.loads(events[-1])["error"]["message"].endswith(".")
    assert all("error" not in json.loads(event) for event in events[:-1])
    return "error event"


def test_every_request_without_a_frame_is_served_by_the_other_replica(
    fake_engines: Engines, router: Routers
) -> None:
    first, second = engines = fake_engines(2)
    plane = router(engines)
    for engine in engines:
        engine.defaults(fault={"how": "stall", "at": "before_head"})
    with ThreadPoolExecutor(CONCURRENT) as pool:
        bodies = [chat(text=f"n-{number}", stream=number % 2 == 0) for number in range(CONCURRENT)]
        callers = [Caller(plane, body, pool) for body in bodies]
        eventually(
            lambda: sum(e.state()["in_progress"] for e in engines) == CONCURRENT,
            "all requests to be there",
        )
        assert first.state()["in_progress"] >= CONCURRENT // 4, "the load is not balanced"
        first.kill()
        second.go_on()
        responses = [caller.result() for caller in callers]
    assert [outcome(response) for response in responses] == ["done"] * CONCURRENT
    assert all(
        f"chatcmpl-n-{number}".encode() in response.body
        for number, response in enumerate(responses)
    )
    assert len(second.inference()) == CONCURRENT
    eventually(plane.is_idle, "every lease to be returned")


def test_streams_in_progress_end_with_the_error_event_and_the_others_go_on(
    fake_engines: Engines, router: Routers
) -> None:
    first, second = engines = fake_engines(2)
    plane = router(engines)
    with ThreadPoolExecutor(CONCURRENT) as pool:
        stall = {"how": "stall", "at": "at_frame", "after": 2}
        body = chat(stream=True, fake={"frames": 5, "fault": stall})
        callers = [Caller(plane, body, pool) for _ in range(CONCURRENT)]
        eventually(
            lambda: all(caller.frames >= 2 for caller in callers), "every stream to have begun"
        )
        on_first = len(first.inference())
        first.kill()
        second.go_on()
        found = Counter(outcome(caller.result()) for caller in callers)
    assert found == {"error event": on_first, "done": CONCURRENT - on_first}
    assert len(second.inference()) == CONCURRENT - on_first


def test_503_only_while_no_instance_runs_and_then_with_retry_after(
    fake_engines: Engines, router: Routers
) -> None:
    """Publishes a table without an engine, as the control plane does when that ends."""
    engines = fake_engines(2)
    plane = router(engines)
    engines[0].kill()
    assert [plane.chat(chat()).status for _ in range(20)] == [200] * 20
    plane.states[0] = "error"
    plane.publish()
    assert [plane.chat(chat()).status for _ in range(20)] == [200] * 20
    engines[1].kill()
    plane.states[1] = "error"
    plane.publish()
    refused = plane.chat(chat())
    assert refused.status == 503
    assert int(refused.header("retry-after") or 0) >= 1
    engines[0].restart()
    plane.states[0] = "running"
    plane.publish()
    assert [plane.chat(chat()).status for _ in range(20)] == [200] * 20


def test_a_dead_engine_is_reported_to_the_control_plane(
    fake_engines: Engines, router: Routers
) -> None:
    engines = fake_engines(2)
    plane = router(engines)
    engines[0].kill()
    faulted: list[Any] = []

    def reported() -> bool:
        faulted.extend(
            event for event in plane.plane.poll().events if isinstance(event, InstanceFailed)
        )
        return bool(faulted)

    def is_chosen() -> bool:
        plane.chat(chat())
        return any(instance.failures for instance in plane.plane.stats().instances)

    sooner_or_later(is_chosen, "the dead engine to be chosen")
    eventually(reported, "an instance_failed event")
    assert {event.instance for event in faulted} == {"i-0"}
    assert all(event.reason for event in faulted)


def ejected(plane: DataPlaneRouter) -> list[str]:
    """The instances that are out after failures in a row."""
    name = "gpustack_fast_instance_ejected{"
    lines = [line for line in plane.metrics().splitlines() if line.startswith(name)]
    return [line.split('instance="')[1].split('"')[0] for line in lines if line.endswith(" 1")]


def test_an_instance_that_fails_many_requests_in_a_row_is_out_while_there_is_another(
    fake_engines: Engines, router: Routers
) -> None:
    engines = fake_engines(2)
    plane = router(engines)
    for engine in engines:
        engine.defaults(fault={"how": "stall", "at": "before_head"})
    with ThreadPoolExecutor(CONCURRENT) as pool:
        callers = [Caller(plane, chat(), pool) for _ in range(CONCURRENT)]
        eventually(
            lambda: sum(e.state()["in_progress"] for e in engines) == CONCURRENT,
            "all requests to be there",
        )
        engines[0].kill()
        engines[1].go_on()
        assert [outcome(caller.result()) for caller in callers] == ["done"] * CONCURRENT
    assert ejected(plane) == ["i-0"]
    failures = plane.plane.stats().instances[0].failures
    assert [plane.chat(chat()).status for _ in range(20)] == [200] * 20
    assert plane.plane.stats().instances[0].failures == failures, "nobody has asked it"
    failed = [event for event in plane.plane.poll().events if isinstance(event, InstanceFailed)]
    assert "others are preferred for 10 s" in failed[-1].reason


def test_the_only_instance_of_a_model_is_asked_however_often_it_failed(
    fake_engines: Engines, router: Routers
) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    engine.kill()
    assert [plane.chat(chat()).status for _ in range(10)] == [503] * 10
    assert ejected(plane) == ["i-0"]
    engine.restart()
    assert plane.chat(chat()).status == 200
    assert ejected(plane) == []


def test_an_instance_that_has_as_many_requests_as_it_is_given_gets_no_more(
    fake_engines: Engines, router: Routers
) -> None:
    engines = fake_engines(2)
    plane = router(engines, model={"max_in_flight": 2})
    stall = {"fault": {"how": "stall", "at": "before_head", "seconds": 60.0}}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(plane.client()) for _ in range(4)]
        for client in clients:
            plane.send_chat(client, chat(fake=stall))
        eventually(
            lambda: [e.state()["in_progress"] for e in engines] == [2, 2], "both engines to be full"
        )
        refused = plane.chat(chat())
        assert refused.status == 503
        assert int(refused.header("retry-after") or 0) >= 1
        assert refused.json()["error"]["code"] == "engine_overloaded"
        refused = plane.request(
            "POST",
            "/v1/messages",
            {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]},
        )
        assert (refused.status, refused.json()["error"]["type"]) == (503, "overloaded_error")
        assert read_gauge(plane.metrics(), "gpustack_fast_overloaded_total") == 2
        assert plane.request("GET", "/readyz").status == 200
        clients[0].close()
        eventually(lambda: plane.chat(chat()).status == 200, "the freed place to be given away")
    assert sum(len(engine.inference()) for engine in engines) == 5


def test_an_overload_is_a_503_for_which_a_fallback_may_be_there(
    fake_engines: Engines, router: Routers
) -> None:
    engine, spare = fake_engines(2)
    targets = [target_entry("m"), target_entry("spare", weight=0, fallback=["5xx"])]
    plane = router(
        [engine],
        model={"max_in_flight": 1},
        others={"spare": spare},
        routes=[route_entry("safe", targets)],
    )
    with plane.client() as client:
        stall = {"fault": {"how": "stall", "at": "before_head", "seconds": 60.0}}
        plane.send_chat(client, chat("safe", fake=stall))
        eventually(lambda: engine.state()["in_progress"] == 1, "the engine to be full")
        assert plane.chat(chat("safe")).status == 200
    assert len(spare.inference()) == 1


def test_an_instance_that_leaves_the_table_is_reported_idle_when_its_last_request_ends(
    fake_engines: Engines, router: Routers
) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    with plane.client() as client:
        stall = {"how": "stall", "at": "at_frame", "after": 2}
        plane.send_chat(client, chat(stream=True, fake={"fault": stall}))
        client.read_until(b"Hello")
        plane.states[0] = "unreachable"
        version = plane.publish()
        assert plane.chat(chat()).status == 503
        assert not [event for event in plane.plane.poll().events if isinstance(event, InstanceIdle)]
        engine.go_on()
        client.read_until(b"[DONE]")
    found: list[Any] = []

    def reported() -> bool:
        found.extend(
            event for event in plane.plane.poll().events if isinstance(event, InstanceIdle)
        )
        return bool(found)

    eventually(reported, "an instance_idle event")
    assert [(event.instance, event.version) for event in found] == [("i-0", version)]


def test_a_drain_ends_what_runs_and_accepts_nothing_new(
    fake_engines: Engines, router: Routers
) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    with plane.client() as client, plane.client() as cut:
        stall = {"how": "stall", "at": "at_frame", "after": 2}
        plane.send_chat(client, chat(stream=True, fake={"fault": stall}))
        plane.send_chat(cut, chat(stream=True, fake={"fault": {**stall, "seconds": 3600}}))
        client.read_until(b"Hello")
        cut.read_until(b"Hello")
        plane.plane.drain(3600)
        engine.go_on()
        client.read_until(b"[DONE]")
        eventually(lambda: plane.plane.stats().in_flight == 1, "the first one to be over")
        plane.plane.drain(0)
        assert b"[DONE]" not in cut.read_to_the_end()
        assert plane.wait_until_drained() == 1
    eventually(lambda: engine.state()["in_progress"] == 0, "the engine to be told")


# --- through the whole product ---


@pytest.fixture
def two_real_engines() -> Iterator[ServedRouter]:
    with serving(SMOLLM2.format(replicas=2)) as server:
        eventually(lambda: server.running() == 2, "both replicas to run", STARTED_WITHIN)
        yield server


@pytest.mark.timeout(600)
def test_a_real_engine_killed_under_load_costs_only_the_streams_it_had_begun(
    two_real_engines: ServedRouter,
) -> None:
    server = two_real_engines
    with ThreadPoolExecutor(CONCURRENT) as pool:
        text = "Count slowly from one to a hundred."
        bodies = [
            chat("smollm2", text, stream=number % 2 == 0, max_tokens=60)
            for number in range(CONCURRENT)
        ]
        callers = [Caller(server, body, pool) for body in bodies]
        eventually(
            lambda: any(caller.frames >= 2 for caller in callers),
            "the first stream to begin",
            STARTED_WITHIN,
        )
        os.kill(server.engines()[0].pid, signal.SIGKILL)
        found = Counter(outcome(caller.result()) for caller in callers)
    assert set(found) <= {"done", "error event"}, found
    eventually(
        lambda: server.running() == 2, "the supervisor to bring the engine back", STARTED_WITHIN
    )
    assert server.chat(chat("smollm2", max_tokens=2)).status == 200


@pytest.mark.timeout(600)
def test_503_only_while_no_real_instance_runs(two_real_engines: ServedRouter) -> None:
    server = two_real_engines
    for engine in server.engines():
        os.kill(engine.pid, signal.SIGKILL)
    statuses: Counter[int] = Counter()

    def answered() -> bool:
        response = server.chat(chat("smollm2", max_tokens=1))
        statuses[response.status] += 1
        if response.status == 503:
            assert int(response.header("retry-after") or 0) >= 1
        return response.status == 200

    eventually(answered, "an engine to be back", STARTED_WITHIN)
    assert set(statuses) <= {200, 502, 503}, statuses


def test_the_whole_product_routes_around_a_dead_external_engine(
    fake_engines: Engines, serve: Callable[..., ServedRouter]
) -> None:
    engines = fake_engines(2)
    server = serve(external(engines))
    assert server.chat(chat("default")).status == 200
    engines[0].kill()

    async def ask(number: int) -> int:
        return (await asyncio.to_thread(server.chat, chat(text=f"n-{number}"))).status

    async def ask_all() -> list[int]:
        return await asyncio.gather(*(ask(number) for number in range(CONCURRENT)))

    assert asyncio.run(ask_all()) == [200] * CONCURRENT
