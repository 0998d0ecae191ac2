"""The AI SDK, on which many clients stand, in both dialects: it asks with a tool, and streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent_scripts import DONE, MARKER, Ask, conversations
from coding_agents import AiSdk
from scripted_engine import Answer, Asked, Calls


@pytest.fixture(params=["openai", "anthropic"])
def agent(request: pytest.FixtureRequest, as_agent: Callable[[AiSdk], AiSdk]) -> AiSdk:
    return as_agent(AiSdk(request.param))


def test_parallel_calls_in_turns_whose_ids_repeat(agent: AiSdk, ask: Ask, work: Path) -> None:
    files = [work / name for name in ("a.txt", "b.txt", "c.txt", "d.txt")]
    for file in files:
        file.write_text(f"This is the content of {file.name}.\n")

    def script(asked: Asked) -> Answer:
        pair = files[len(asked.results) :][:2]
        calls = [agent.reading(file, f"call_{number}") for number, file in enumerate(pair)]
        return Calls(calls) if calls else DONE

    run, engine = ask(script)
    assert run.status == 0 and MARKER in run.output, run
    last = conversations(engine)[-1]
    assert [text for _, text in last.results] == [file.read_text() for file in files]
    assert last.call_ids == [id for id, _ in last.results]
    assert len(conversations(engine)) == 3
