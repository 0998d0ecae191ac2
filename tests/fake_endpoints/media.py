"""Images and audio. Payloads are letters of the nonce, so that a mixed-up response shows."""

from __future__ import annotations

import base64
from typing import Any

from fake_endpoints.asked import CREATED, Asked, Said, events, nonce_of, said

Document = dict[str, Any]


def picture(asked: Asked, number: int) -> str:
    """Base64 of as many bytes as the order `image_bytes` says (default 99)."""
    text = f"{nonce_of(asked)} picture {number} ".encode()
    length = asked.orders.get("image_bytes", 99)
    return base64.b64encode((text * (length // len(text) + 1))[:length]).decode()


def images(asked: Asked) -> Said:
    """Generations, edits and variations; streamed partial images are named events, a frame each."""
    how = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
    usage = {"input_tokens": 24, "output_tokens": 100, "total_tokens": 124}
    if not asked.stream:
        data = [{"b64_json": picture(asked, n)} for n in range(int(asked.fields.get("n", 1)))]
        return said({"created": CREATED, **how, "data": data, "files": asked.files, "usage": usage})
    kind = "image_edit" if asked.path.endswith("/edits") else "image_generation"
    documents: list[Document] = []
    for number in range(int(asked.fields.get("partial_images", 0))):
        frame = {
            "type": f"{kind}.partial_image",
            "b64_json": picture(asked, number),
            "partial_image_index": number,
        }
        documents.append({**frame, "created_at": CREATED, **how})
    last = {
        "type": f"{kind}.completed",
        "b64_json": picture(asked, 9),
        "created_at": CREATED,
        **how,
        "usage": usage,
    }
    return events(asked, [*documents, last], named=True)


TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "aac": "audio/aac",
}


def sound(asked: Asked, number: int) -> bytes:
    """One piece of audio: every byte value, so that nothing textual can have touched it."""
    return bytes((number + step) % 256 for step in range(asked.orders.get("frame_bytes", 1000)))


def speech(asked: Asked) -> Said:
    """Raw audio in the pieces in which it is made, or as events with `stream_format` sse."""
    pieces = [sound(asked, number) for number in range(asked.orders.get("frames", 3))]
    if asked.fields.get("stream_format") != "sse":
        return Said(pieces, TYPES.get(asked.fields.get("response_format", "mp3"), "audio/pcm"))
    documents: list[Document] = [
        {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
        for piece in pieces
    ]
    usage = {"input_tokens": 24, "output_tokens": len(pieces), "total_tokens": 24 + len(pieces)}
    return events(asked, [*documents, {"type": "speech.audio.done", "usage": usage}], named=True)


def transcription(asked: Asked) -> Said:
    """In the form's `response_format`; streamed as vLLM does it, which is not as OpenAI does it."""
    text = str(asked.orders.get("text", f"heard {asked.files.get('file', 0)} bytes"))
    segment = {"id": 0, "start": 0.0, "end": 1.5, "text": text}
    if asked.stream:
        return transcription_stream(asked, text)
    match asked.fields.get("response_format", "json"):
        case "text":
            return Said([text.encode()], "text/plain; charset=utf-8")
        case "srt":
            return Said(
                [f"1\n00:00:00,000 --> 00:00:01,500\n{text}\n\n".encode()],
                "text/plain; charset=utf-8",
            )
        case "vtt":
            return Said(
                [f"WEBVTT\n\n00:00.000 --> 00:01.500\n{text}\n\n".encode()],
                "text/plain; charset=utf-8",
            )
        case "verbose_json":
            detailed = {
                "task": "transcribe",
                "language": "en",
                "duration": 1.5,
                "segments": [segment],
                "words": None,
            }
            return said({"text": text, **detailed})
        case _:
            return said({"text": text, "usage": {"type": "duration", "seconds": 2}})


def transcription_stream(asked: Asked, text: str) -> Said:
    common = {
        "id": "trsc-0",
        "object": "transcription.chunk",
        "created": CREATED,
        "model": asked.fields.get("model"),
    }
    documents: list[Document] = []
    for word in text.split(" "):
        choice = {"delta": {"content": word + " "}, "finish_reason": None, "stop_reason": None}
        documents.append({**common, "choices": [choice]})
    documents[-1]["choices"][0]["finish_reason"] = "stop"
    if asked.fields.get("stream_include_usage") == "true":
        usage = {"prompt_tokens": 24, "total_tokens": 26, "completion_tokens": 2}
        documents.append({**common, "choices": [], "usage": usage})
    return events(asked, documents, named=False, done=True)
