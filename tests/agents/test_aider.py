"""What aider does in the place of tools: it writes the files that an answer contains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent_scripts import MARKER, Ask
from coding_agents import Aider
from scripted_engine import Text


@pytest.fixture
def agent(as_agent: Callable[[Aider], Aider]) -> Aider:
    return as_agent(Aider())


def test_a_file_that_the_answer_contains_is_written(agent: Aider, ask: Ask, work: Path) -> None:
    run, engine = ask(lambda asked: Text(f"Here it is.\n\nnew.txt\n```\n{MARKER}\n```\n"))
    assert run.status == 0, run
    assert (work / "new.txt").read_text() == f"{MARKER}\n"
    assert len(engine.received) == 1
