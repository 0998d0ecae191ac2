"""The Responses API of a real vLLM, which keeps what it made, through the whole product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from harness import ServedRouter
from vllm_engine import VllmEngine, openai_client

NAMES = pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])


@pytest.fixture(scope="module")
def other_client(router: ServedRouter) -> Iterator[openai.OpenAI]:
    """The SDK with another key, which may use the same models."""
    created = router.keys("create", "somebody-else")
    assert created.returncode == 0, created.stderr
    with openai_client(router, created.stdout.strip()) as client:
        yield client


@NAMES
def test_a_response_carries_the_name_that_was_asked_for(client: openai.OpenAI, name: str) -> None:
    response = client.responses.create(model=name, input="Hello", max_output_tokens=8)
    assert response.model == name
    assert response.usage is not None
    assert response.usage.output_tokens > 0


@NAMES
def test_the_events_of_a_stream_are_whole_and_in_order(client: openai.OpenAI, name: str) -> None:
    events = list(
        client.responses.create(
            model=name, input="Hello", max_output_tokens=24, temperature=0, stream=True
        )
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert last.response.model == name
    ids = {event.response.id for event in events if hasattr(event, "response")}
    assert ids == {last.response.id}
    deltas = [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)]
    assert "".join(deltas) == last.response.output_text != ""


def test_the_sdks_own_accumulator_ends_with_the_whole_response(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="tiny", input="Hello", max_output_tokens=24, temperature=0
    ) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()
    assert final.output_text == text
    assert final.model == "tiny"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stored_response_is_read_again(client: openai.OpenAI, stream: bool) -> None:
    made: Any = client.responses.create(
        model="team/alias:v1", input="Hello", max_output_tokens=8, stream=stream
    )
    if stream:
        made = [event for event in made if event.type == "response.completed"][-1].response
    again = client.responses.retrieve(made.id)
    assert again.id == made.id
    assert again.output_text == made.output_text
    assert again.model == "team/alias:v1"


def test_a_response_continues_another(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="Hello", max_output_tokens=8)
    alone = client.responses.create(model="tiny", input="And now?", max_output_tokens=8)
    second = client.responses.create(
        model="tiny", input="And now?", max_output_tokens=8, previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    assert first.usage and alone.usage and second.usage
    assert second.usage.input_tokens > alone.usage.input_tokens + first.usage.output_tokens


def test_nobody_else_reads_continues_or_cancels_a_response(
    client: openai.OpenAI, other_client: openai.OpenAI
) -> None:
    made = client.responses.create(model="tiny", input="A secret", max_output_tokens=8)
    with pytest.raises(openai.NotFoundError):
        other_client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        other_client.responses.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        other_client.responses.create(model="tiny", input="Go on", previous_response_id=made.id)
    assert client.responses.retrieve(made.id).id == made.id


def test_an_unknown_response_is_a_404_that_says_the_cause(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="resp_of_nobody"):
        client.responses.retrieve("resp_of_nobody")


def test_what_the_engine_says_of_a_cancellation_reaches_the_client(client: openai.OpenAI) -> None:
    made = client.responses.create(model="tiny", input="Hello", max_output_tokens=4)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(made.id)


def test_a_response_in_the_background_is_cancelled(
    client: openai.OpenAI, chat_engine: VllmEngine
) -> None:
    made = client.responses.create(
        model="tiny",
        input="Hello",
        max_output_tokens=16_000,
        background=True,
        extra_body={"ignore_eos": True},
    )
    assert made.status in ("queued", "in_progress")
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
