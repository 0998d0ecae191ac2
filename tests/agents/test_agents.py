"""Real coding agents, run without a person, through the gateway to an engine that follows a script.

Judged is the protocol: what reached the engine, how the agent ended, and whether the engine's last
answer is what it shows.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent_scripts import DONE, GIST, MARKER, SUMMARY, Ask, conversations, once
from coding_agents import TOOL_USERS, Agent, ToolUser
from scripted_engine import Answer, Asked, Calls, Cut, CutCall, Refusal

tool_users = pytest.mark.parametrize(
    "agent", TOOL_USERS, indirect=True, ids=lambda agent: agent.name
)


def write(work: Path, *names: str) -> list[Path]:
    """Files of these names that say so."""
    for name in names:
        (work / name).write_text(f"This is the content of {name}.\n")
    return [work / name for name in names]


def test_a_plain_answer(ask: Ask) -> None:
    run, engine = ask(lambda asked: DONE)
    assert run.status == 0 and MARKER in run.output, run
    assert len(conversations(engine)) == 1


@tool_users
def test_parallel_calls_of_tools(agent: ToolUser, ask: Ask, work: Path) -> None:
    files = write(work, "a.txt", "b.txt", "c.txt")
    with files[0].open("a") as slow:  # so that the first result may come last
        slow.writelines(f"Line {number} says nothing of interest.\n" for number in range(900))

    def script(asked: Asked) -> Answer:
        if asked.results:
            return DONE
        ids = ("call_x", "call_a", "call_m")  # so that sorting does not make their order
        return Calls([agent.reading(file, id) for file, id in zip(files, ids, strict=True)])

    run, engine = ask(script)
    assert run.status == 0 and MARKER in run.output, run
    last = conversations(engine)[-1]
    assert last.call_ids == [id for id, _ in last.results] == ["call_x", "call_a", "call_m"]
    for file, (_, text) in zip(files, last.results, strict=True):
        assert f"This is the content of {file.name}." in text


@tool_users
def test_ids_that_repeat_in_every_turn(agent: ToolUser, ask: Ask, work: Path) -> None:
    files = write(work, "a.txt", "b.txt", "c.txt", "d.txt")

    def script(asked: Asked) -> Answer:
        turn = len(asked.results)
        return Calls([agent.reading(files[turn], "call_0")]) if turn < len(files) else DONE

    run, engine = ask(script)
    assert run.status == 0 and MARKER in run.output, run
    last = conversations(engine)[-1]
    assert last.call_ids == [id for id, _ in last.results]
    for file, (_, text) in zip(files, last.results, strict=True):
        assert f"This is the content of {file.name}." in text
    assert len(conversations(engine)) == len(files) + 1


TOO_LONG = Refusal(
    400,
    {
        "error": {
            "message": "This model's maximum context length is 32768 tokens. However, your request"
            " has 40000 input tokens. Please reduce the length of the input messages.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        }
    },
)
"""vLLM's words for a prompt that is too long."""


def test_a_context_that_overflows(agent: Agent, ask: Ask, work: Path) -> None:
    long = work / "long.txt"
    long.write_text("".join(f"Line {number} says nothing of interest.\n" for number in range(500)))
    reading = [agent.reading(long, "call_0")] if isinstance(agent, ToolUser) else []
    answers = iter([Calls([call]) for call in reading])
    refusals = iter([TOO_LONG])
    run, engine = ask(lambda asked: next(answers, None) or next(refusals, DONE))
    if agent.compacts:
        assert run.status == agent.status_after_compacting and MARKER in run.output, run
        assert [asked for asked, answer in engine.received if answer == SUMMARY]
        assert conversations(engine)[-1].says(GIST)
    else:
        assert agent.says_too_long in run.output + run.errors, run
        assert engine.received[-1][1] == TOO_LONG


def test_an_answer_that_has_no_room(agent: Agent, ask: Ask) -> None:
    def script(asked: Asked) -> Answer:
        if asked.most_tokens <= 20960:
            return DONE
        message = (
            f"'max_tokens' or 'max_completion_tokens' is too large: {asked.most_tokens}. This"
            " model's maximum context length is 40960 tokens and your request has 20000 input"
            f" tokens ({asked.most_tokens} > 40960 - 20000). (parameter=max_tokens,"
            f" value={asked.most_tokens})"
        )
        error = {"message": message, "type": "BadRequestError", "param": "max_tokens", "code": 400}
        return Refusal(400, {"error": error})

    run, _ = ask(script)
    assert run.status == 0 and MARKER in run.output, run


def test_an_engine_that_dies_in_a_stream(ask: Ask) -> None:
    run, engine = ask(once(Cut("These are the first words of")))
    assert run.status == 0 and MARKER in run.output, run
    assert len(conversations(engine)) == 2


@tool_users
def test_an_engine_that_dies_within_a_call(agent: ToolUser, ask: Ask, work: Path) -> None:
    (file,) = write(work, "a.txt")
    run, engine = ask(once(CutCall(agent.reading(file, "call_0"))))
    assert run.status == 0 and MARKER in run.output, run
    assert not any(asked.says("This is the content of") for asked in conversations(engine))


def test_an_engine_that_is_too_busy(ask: Ask) -> None:
    error = {"message": "Too many requests.", "type": "rate_limit_error", "code": 429}
    busy = Refusal(429, {"error": error}, (("Retry-After", "2"),))
    times: list[float] = []
    answers = once(busy)

    def script(asked: Asked) -> Answer:
        times.append(time.monotonic())
        return answers(asked)

    run, engine = ask(script)
    assert run.status == 0 and MARKER in run.output, run
    assert len(conversations(engine)) == 2
    assert times[1] - times[0] >= 2.0


def test_a_template_that_takes_one_system_message(
    ask: Ask,
) -> None:
    def script(asked: Asked) -> Answer:
        if any(message.get("role") == "system" for message in asked.items[1:]):
            error = {"message": "System message must be at the beginning.", "code": 400}
            return Refusal(400, {"error": error})
        return DONE

    run, _ = ask(script)
    assert run.status == 0 and MARKER in run.output, run
