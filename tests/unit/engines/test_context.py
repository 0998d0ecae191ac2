"""Engines are asked how long their contexts are: when they come, when they come back, and again
where they gave no answer.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import context
from gpustack_fast.engines.ask import Answer
from gpustack_fast.engines.context import ContextLength, ask_context_length, ask_until_told

VLLM = ModelConfig(
    name="m", backend="external", engine="vllm", urls=["unix:/x"], served_name="Org/M"
)


class Engine:
    """Answers as it is told; None: it closes the connection."""

    def __init__(self, answer: Answer | None) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, path: str) -> Answer:
        self.asked.append(path)
        if self.answer is None:
            raise ConnectionResetError
        return self.answer


def telling(length: int, name: str = "Org/M") -> Answer:
    return Answer(200, json.dumps({"data": [{"id": name, "max_model_len": length}]}).encode())


def test_an_engine_is_asked_under_the_name_that_it_has_for_the_model() -> None:
    assert asyncio.run(ask_context_length(VLLM, Engine(telling(7)))) == 7
    engine = Engine(Answer(200, b'{"max_input_length": 512}'))
    tei = ModelConfig(name="t", backend="external", engine="tei", urls=["unix:/x"])
    assert asyncio.run(ask_context_length(tei, engine)) == 512
    assert engine.asked == ["/info"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"<html>"])
def test_an_answer_that_is_no_json_tells_nothing(body: bytes) -> None:
    assert asyncio.run(ask_context_length(VLLM, Engine(Answer(200, body)))) is None


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_engine_without_the_path_is_not_asked_again(status: int) -> None:
    assert asyncio.run(ask_context_length(VLLM, Engine(Answer(status, b"")))) is None


def test_one_that_has_just_come_up_is_asked_again_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context, "PAUSES", (0.0, 0.0, 0.0))
    engine = Engine(None)
    assert asyncio.run(ask_until_told(VLLM, engine)) is None
    assert len(engine.asked) == 3

    class Late(Engine):
        async def __call__(self, path: str) -> Answer:
            self.answer = telling(7) if len(self.asked) == 1 else None
            return await super().__call__(path)

    late = Late(None)
    assert asyncio.run(ask_until_told(VLLM, late)) == 7
    assert len(late.asked) == 2


def test_it_is_asked_once_and_again_when_it_comes_back_or_is_another() -> None:
    async def scenario() -> None:
        engine, asks = Engine(telling(7)), ContextLength()
        known = None
        for _ in range(3):
            known = await asks.learn(VLLM, known, engine)
        assert (known, len(engine.asked)) == (7, 1)
        engine.answer = telling(9)
        asks.came_back()
        known = await asks.learn(VLLM, known, engine)
        assert (known, len(engine.asked)) == (9, 2)
        renamed = ModelConfig(
            name="m", backend="external", engine="vllm", urls=["unix:/x"], served_name="other"
        )
        engine.answer = telling(3, "other")
        assert await asks.learn(renamed, known, engine) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("answer", [None, Answer(503, b""), Answer(401, b""), Answer(0, b"")])
def test_one_that_gave_no_answer_is_asked_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch, answer: Answer | None
) -> None:
    monkeypatch.setattr(context, "AGAIN_AFTER", 0.05)

    async def scenario() -> None:
        engine, asks = Engine(answer), ContextLength()
        assert await asks.learn(VLLM, 5, engine) is None, "what was told may be wrong by now"
        assert await asks.learn(VLLM, None, engine) is None
        assert len(engine.asked) == 1, "not at each look"
        engine.answer = telling(7)
        await asyncio.sleep(0.06)
        assert await asks.learn(VLLM, None, engine) == 7

    asyncio.run(scenario())


def test_one_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "WITHIN", 0.02)

    async def hang(path: str) -> Answer:
        await asyncio.sleep(60)
        raise AssertionError(path)

    assert asyncio.run(ContextLength().learn(VLLM, None, hang)) is None
