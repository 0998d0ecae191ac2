"""Transcriptions of a real vLLM with a small Whisper, by the openai SDK and raw forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from harness import ServedRouter
from raw_http import Response
from sound_form import FORM, form, tone
from vllm_engine import VllmEngine, ask, openai_client

NAMES = pytest.mark.parametrize("name", ["tiny", "team/alias:v1"])


@pytest.fixture(scope="module")
def speech(listening_router: ServedRouter) -> Iterator[openai.OpenAI]:
    with openai_client(listening_router) as client:
        yield client


def transcribe(asked: Any, fields: dict[str, str], **options: Any) -> Response:
    """Sends a form to the router or, when `asked` is an engine, past it."""
    target = options.pop("target", "/v1/audio/transcriptions")
    body = form(fields, file_first=options.pop("file_first", False))
    if isinstance(asked, VllmEngine):
        return asked.request("POST", target, body, headers=FORM, **options)
    return ask(asked, "POST", target, body, headers=FORM, **options)


@NAMES
def test_a_transcription(speech: openai.OpenAI, name: str) -> None:
    response = speech.audio.transcriptions.create(
        model=name,
        file=("tone.wav", tone()),
        language="en",
        temperature=0,
        extra_body={"max_completion_tokens": 8},
    )
    assert len(response.text) == 8


def test_a_transcription_with_its_segments(speech: openai.OpenAI) -> None:
    response = speech.audio.transcriptions.create(
        model="tiny",
        file=("tone.wav", tone()),
        language="en",
        temperature=0,
        response_format="verbose_json",
    )
    assert response.duration == 1
    assert response.language == "en"


def test_a_translation(listening_router: ServedRouter, listener: VllmEngine) -> None:
    # By hand: the SDK calls its own method for this deprecated.
    fields = {"language": "de", "temperature": "0"}
    through = transcribe(
        listening_router, {"model": "tiny", **fields}, target="/v1/audio/translations"
    )
    direct = transcribe(
        listener, {"model": listener.model, **fields}, target="/v1/audio/translations"
    )
    assert through.status == 200, through.body
    assert through.json() == direct.json()


@NAMES
@pytest.mark.parametrize("file_first", [False, True])
@pytest.mark.parametrize("chunk", [None, 1000])
def test_the_model_is_found_before_and_behind_the_file(
    listening_router: ServedRouter, name: str, file_first: bool, chunk: int | None
) -> None:
    fields = {"model": name, "language": "en", "temperature": "0", "max_completion_tokens": "8"}
    response = transcribe(listening_router, fields, file_first=file_first, chunk=chunk)
    assert response.status == 200, response.body
    assert len(response.json()["text"]) == 8


def test_what_is_no_sound_is_rejected_by_the_engine(speech: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="audio file"):
        speech.audio.transcriptions.create(
            model="tiny", file=("tone.wav", b"nothing"), language="en"
        )


def test_an_unknown_model_is_a_404(speech: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        speech.audio.transcriptions.create(model="nobody", file=("tone.wav", tone()))
