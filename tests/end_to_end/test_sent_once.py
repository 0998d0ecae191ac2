"""Requests that cost or do too much to be sent twice, whatever becomes of the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness import DataPlaneRouter, FakeEngine
from raw_http import eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

SENT_ONCE = ["/v1/images/generations", "/v1/audio/speech", "/model/proxy/v1/chat/completions"]


def warm(fake_engines: Engines, router: Routers) -> tuple[FakeEngine, DataPlaneRouter]:
    """An engine that closes every connection after a request, from its second on."""
    from seam_samples import route_entry, target_entry

    engine = fake_engines(1)[0]
    route = route_entry(name="m", created=1, targets=[target_entry(model="m")], generic_proxy=True)
    plane = router([engine], routes=[route], workers=1)
    assert plane.request("POST", "/v1/embeddings", body()).status == 200
    engine.defaults(fault={"how": "close", "at": "before_head"})
    return engine, plane


def body() -> dict[str, Any]:
    return {
        "model": "m",
        "input": "hello",
        "prompt": "hello",
        "messages": [{"role": "user", "content": "hello"}],
    }


@pytest.mark.parametrize("path", SENT_ONCE)
def test_a_request_that_must_not_be_sent_twice_is_not_lost_on_a_used_connection(
    fake_engines: Engines, router: Routers, path: str
) -> None:
    """An engine that closes a used connection may have read the request: nobody can tell."""
    engine, plane = warm(fake_engines, router)
    assert plane.request("POST", path, body()).status == 502
    assert len(engine.received(path.removeprefix("/model/proxy"))) == 1


def test_a_chat_on_a_connection_that_was_closed_is_sent_again(
    fake_engines: Engines, router: Routers
) -> None:
    engine, plane = warm(fake_engines, router)
    assert plane.chat(body()).status == 502
    assert len(engine.received("/v1/chat/completions")) == 2


def test_a_request_is_not_sent_again_where_its_key_may_not_go_any_more(
    fake_engines: Engines, router: Routers
) -> None:
    """The route was changed while the request waited for an engine that then died."""
    from seam_samples import route_entry, target_entry

    first, second = fake_engines(2)
    plane = router(
        [first],
        others={"other": second},
        routes=[route_entry(name="m", created=1, targets=[target_entry(model="m")])],
    )
    first.defaults(fault={"how": "stall", "at": "before_head", "seconds": 60})
    with plane.client() as client:
        plane.send_chat(client, body())
        eventually(first.inference, "the request to be there")
        closed = route_entry(
            name="m", created=1, targets=[target_entry(model="other")], access_policy="allowed_keys"
        )
        closed.allowed_keys = ["another"]
        plane.routes = [closed]
        plane.publish()
        first.kill()
        assert client.read_response().status >= 500
    assert second.inference() == []
