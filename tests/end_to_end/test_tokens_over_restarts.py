"""The tokens of a route are counted over restarts, whatever ends the server."""

from __future__ import annotations

import re
import time

from harness import FakeEngine, ServedRouter, external, serving
from raw_http import chat, eventually


def counted(server: ServedRouter) -> dict[str, int]:
    """The tokens of the route `default`, by kind."""
    page = server.metrics()
    found = re.findall(r'gpustack_fast_tokens_total\{route="default",kind="(\w+)"\} (\d+)', page)
    return {kind: int(count) for kind, count in found}


def use(server: ServedRouter) -> None:
    """One request, whole and one as a stream."""
    for stream in (False, True):
        assert server.chat(chat(model="default", stream=stream)).status == 200


def test_tokens_are_counted_over_restarts_and_a_kill_loses_no_more_than_its_last_seconds() -> None:
    engine = FakeEngine("tokens", "--port", "0")
    try:
        with serving(external([engine])) as server:
            assert counted(server) == {"input": 0, "cached": 0, "output": 0}
            use(server)
            eventually(lambda: counted(server)["output"] > 0, "the tokens to be counted")
            one = counted(server)
            assert one["input"] > 0
            # A stop saves them at once.
            assert server.stop() == 0
            server.start()
            server.wait_until_ready()
            assert counted(server) == one
            use(server)
            two = {kind: 2 * count for kind, count in one.items()}
            eventually(lambda: counted(server) == two, "as many again")
            server.process.kill()
            server.wait()
            server.start()
            server.wait_until_ready()
            assert counted(server) == two
    finally:
        engine.kill()


def test_what_the_metrics_have_shown_never_goes_back_whenever_the_server_is_killed() -> None:
    engine = FakeEngine("tokens", "--port", "0")
    try:
        with serving(external([engine])) as server:
            shown: list[int] = []
            for pause in (0.0, 0.5, 1.0, 1.5, 2.0):
                for _ in range(5):
                    use(server)
                time.sleep(pause)
                shown.append(counted(server)["output"])
                server.process.kill()
                server.wait()
                server.start()
                server.wait_until_ready()
                shown.append(counted(server)["output"])
            assert shown == sorted(shown) and shown[-1] > 0
    finally:
        engine.kill()
