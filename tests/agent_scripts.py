"""Scripts for engines before which agents are run, and what an agent asks beside its work."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias

from coding_agents import Agent, Run, ToolUser
from scripted_engine import Answer, Asked, Refusal, Script, ScriptedEngine, Text

MARKER = "MARKER-4711"
DONE = Text(f"All done: {MARKER}")
TITLE = Text("A title")
GIST = "The files shall be read."
SUMMARY = Text(
    "<analysis>It is clear.</analysis>"
    f"<summary>{GIST}</summary>"
    f"<state_snapshot><overall_goal>{GIST}</overall_goal></state_snapshot>"
)
"""A summary of a conversation, in the forms that the agents want."""
WANTS_SUMMARY = (
    "<summary>",
    "<state_snapshot>",
    "Do not mention the summary process",
    "CONTEXT CHECKPOINT COMPACTION",
)
"""By these words in the last message an agent is known to want one."""
PROMPT = "Read the files of this folder and say what is in them."
MOST_REQUESTS = 30
"""An agent that has asked so often is in a loop; from then on the engine refuses."""

Ask: TypeAlias = Callable[..., tuple[Run, ScriptedEngine]]
"""`ask(script, more, model)`: the agent's run, and the engine, which knows what it received. `more`
is further configuration of the gateway's, `model` the name that the agent asks for."""


def conversation(agent: Agent, script: Script) -> Script:
    """The script for what belongs to the conversation. For what an agent asks beside it, mostly
    without tools, there are a title and a summary."""

    numbers = itertools.count(1)

    def answer(asked: Asked) -> Answer:
        if next(numbers) > MOST_REQUESTS:
            return Refusal(400, {"error": {"message": "The agent is in a loop.", "code": 400}})
        last = asked.last_words
        if GIST not in last and any(words in last for words in WANTS_SUMMARY):
            return SUMMARY
        if isinstance(agent, ToolUser) and not asked.tools:
            return TITLE
        return script(asked)

    return answer


def once(first: Answer, then: Answer = DONE) -> Script:
    """One answer for the first request, another for all that follow."""
    answers = iter([first])
    return lambda asked: next(answers, then)


def conversations(engine: ScriptedEngine) -> list[Asked]:
    """The requests that carried the conversation on."""
    return [asked for asked, answer in engine.received if answer not in (TITLE, SUMMARY)]
