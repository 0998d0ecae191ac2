"""Real coding agents through the gateway to a real llama.cpp, whose small model writes nonsense.

Judged is the protocol alone: every request is answered well, and the agent comes to an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coding_agents import RUN_LIMIT, Agent, Gateway
from harness import SMOLLM2, ServedRouter, serving

MOST_TOKENS = 64
"""The model has nothing to say. Agents that ask for no length get the engine's own."""
PARAMETERS = ["--ctx-size=32768", "--parallel=1", f"--predict={MOST_TOKENS}"]


@pytest.fixture(scope="session")
def server() -> Iterator[ServedRouter]:
    config = SMOLLM2.format(replicas=1).replace('["--ctx-size=4096"]', str(PARAMETERS))
    with serving(config) as server:
        yield server


def statuses(server: ServedRouter) -> dict[str, int]:
    """How many requests were answered with each status."""
    found: dict[str, int] = {}
    for line in server.metrics().splitlines():
        match = re.fullmatch(r'gpustack_fast_requests_total\{.*code="(.*?)".*\} (\d+)', line)
        if match:
            found[match[1]] = found.get(match[1], 0) + int(match[2])
    return found


def test_a_run_on_llama_cpp(
    agent: Agent,
    server: ServedRouter,
    home: Path,
    work: Path,
    record_property: Callable[[str, object], None],
) -> None:
    earlier = statuses(server)
    gateway = Gateway(server.address, server.key, "smollm2", MOST_TOKENS)
    run = agent.run("Say hello.", gateway, home, work, 2 * RUN_LIMIT)
    new = {status: count - earlier.get(status, 0) for status, count in statuses(server).items()}
    record_property("requests", sum(new.values()))
    assert run.status is not None, run
    assert {status for status, count in new.items() if count} == {"200"}, (new, run)
