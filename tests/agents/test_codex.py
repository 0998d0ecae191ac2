"""What Codex does beyond the other agents, over the Responses API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent_scripts import DONE, GIST, MARKER, SUMMARY, Ask, conversations
from coding_agents import Codex
from scripted_engine import Answer, Asked, Calls


@pytest.fixture
def agent(as_agent: Callable[[Codex], Codex]) -> Codex:
    """Its own instructions and tools alone are beyond the limit."""
    return as_agent(Codex(compacts_beyond=2_000))


def test_usage_beyond_its_limit_makes_it_shorten_the_conversation_and_go_on(
    agent: Codex, ask: Ask, work: Path
) -> None:
    (work / "a.txt").write_text("This is the content of a.txt.\n")

    def script(asked: Asked) -> Answer:
        if asked.results or asked.says(GIST):
            return DONE
        return Calls([agent.reading(work / "a.txt", "call_0")])

    run, engine = ask(script)
    assert run.status == 0 and MARKER in run.output, run
    assert SUMMARY in [answer for _, answer in engine.received]
    assert conversations(engine)[-1].says(GIST)
