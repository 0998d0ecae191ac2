"""The tokens of a route are counted over restarts, whatever ends the server."""

from __future__ import annotations

import json
import re

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
            file = server.data_dir / "tokens.json"

            def saved() -> dict[str, int]:
                routes = json.loads(file.read_bytes())["routes"]
                return next(one for one in routes if one["name"] == "default")

            eventually(lambda: saved()["output"] == two["output"], "them to be saved")
            server.process.kill()
            server.wait()
            server.start()
            server.wait_until_ready()
            assert counted(server) == two
    finally:
        engine.kill()
