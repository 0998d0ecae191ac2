"""What Claude Code does beyond the other agents, through the translation of its Messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent_scripts import DONE, MARKER, Ask, conversations
from coding_agents import ClaudeCode
from scripted_engine import Answer, Asked, Call, Calls


@pytest.fixture
def agent(as_agent: Callable[[ClaudeCode], ClaudeCode]) -> ClaudeCode:
    return as_agent(ClaudeCode())


PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj
trailer<</Size 4/Root 1 0 R>>
%%EOF
"""


def test_a_pdf_that_it_has_read_does_not_end_the_conversation_for_ever(
    agent: ClaudeCode, ask: Ask, work: Path
) -> None:
    (work / "a.pdf").write_bytes(PDF)

    def script(asked: Asked) -> Answer:
        return DONE if asked.results else Calls([agent.reading(work / "a.pdf", "call_0")])

    ask(script)  # the turn in which it reads the file may fail: its answer hinges on it
    agent.continues = True
    run, engine = ask(lambda asked: DONE)
    assert run.status == 0 and MARKER in run.output, run
    assert conversations(engine)[-1].results


WILDCARD = """
[[routes]]
name = "claude-*"
targets = [{ model = "m" }]
"""


def test_a_subagent_that_asks_for_a_model_of_anthropic_s_reaches_the_wildcard_route(
    agent: ClaudeCode, ask: Ask
) -> None:
    explore = {"description": "Look", "prompt": "Look around.", "subagent_type": "Explore"}

    def script(asked: Asked) -> Answer:
        if asked.results or "Agent" not in asked.tools:
            return DONE
        return Calls([Call("call_0", "Agent", {**explore, "model": "haiku"})])

    run, engine = ask(script, WILDCARD, model="claude-sonnet-5")
    assert run.status == 0 and MARKER in run.output, run
    assert any(asked.says("Look around.") and not asked.call_ids for asked, _ in engine.received)
    assert {asked.body["model"] for asked, _ in engine.received} == {"m"}
