"""WebSocket frames (RFC 6455) by hand, for the fake engine's echo and the tests' client."""

from __future__ import annotations

import base64
import hashlib
import os
import struct

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def accept_for(key: str) -> str:
    """The `Sec-WebSocket-Accept` to a `Sec-WebSocket-Key`."""
    digest = hashlib.sha1(
        key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False
    ).digest()
    return base64.b64encode(digest).decode()


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One final frame; a client's frames are masked."""
    length = len(payload)
    if length < 126:
        size = bytes([length])
    elif length < 1 << 16:
        size = b"\x7e" + struct.pack("!H", length)
    else:
        size = b"\x7f" + struct.pack("!Q", length)
    if not masked:
        return bytes([0x80 | opcode]) + size + payload
    mask = os.urandom(4)
    return bytes([0x80 | opcode, size[0] | 0x80]) + size[1:] + mask + apply_mask(payload, mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """Masks or unmasks."""
    repeated = mask * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")
    return number.to_bytes(len(payload), "big")


def take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Opcode and payload of the first frame, taken out of `buffer`; None without a whole one."""
    if len(buffer) < 2:
        return None
    length = buffer[1] & 0x7F
    at = 2
    if length >= 126:
        width = 2 if length == 126 else 8
        if len(buffer) < at + width:
            return None
        length = int.from_bytes(buffer[at : at + width], "big")
        at += width
    masked = bool(buffer[1] & 0x80)
    start = at + (4 if masked else 0)
    if len(buffer) < start + length:
        return None
    payload = bytes(buffer[start : start + length])
    if masked:
        payload = apply_mask(payload, bytes(buffer[at:start]))
    opcode = buffer[0] & 0x0F
    del buffer[: start + length]
    return opcode, payload


def echo(buffer: bytearray) -> tuple[bytes, int, bool]:
    """Echoes every whole frame in `buffer`: the bytes to send, messages, and whether it closed."""
    sent, messages = b"", 0
    while (found := take_frame(buffer)) is not None:
        opcode, payload = found
        if opcode == CLOSE:
            return sent + frame(CLOSE, payload, masked=False), messages, True
        if opcode == PING:
            sent += frame(PONG, payload, masked=False)
        elif opcode in (TEXT, BINARY):
            messages += 1
            sent += frame(opcode, payload, masked=False)
    return sent, messages, False
