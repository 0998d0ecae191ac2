"""A sound, and the form that carries it: what the endpoints for speech take."""

from __future__ import annotations

import io
import math
import struct
import wave

BOUNDARY = "a boundary of ours"

FORM = [("Content-Type", f'multipart/form-data; boundary="{BOUNDARY}"')]
"""The headers of a request with a `form`."""


def tone(seconds: int = 1) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(
            b"".join(
                struct.pack("<h", int(8000 * math.sin(at / 20))) for at in range(16_000 * seconds)
            )
        )
    return file.getvalue()


def form(fields: dict[str, str], *, file_first: bool = False) -> bytes:
    """A form with these fields and a sound, as `curl -F` writes it."""
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in fields.items()
    ]
    head = (
        'Content-Disposition: form-data; name="file"; filename="a \\"model\\" tone.wav"\r\n'
        "Content-Type: audio/wav"
    )
    sound = head.encode() + b"\r\n\r\n" + tone()
    ordered = [sound, *parts] if file_first else [*parts, sound]
    mark = b"--" + BOUNDARY.encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in ordered) + mark + b"--\r\n"
