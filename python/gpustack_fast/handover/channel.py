"""The connection between the two servers of a hand-over."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Generic, TypeVar

import msgspec

from gpustack_fast.errors import ControlError
from gpustack_fast.handover.messages import Offer

__all__ = ["Channel", "receive_offer", "send_offer"]

T = TypeVar("T")

log = logging.getLogger(__name__)

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of a message: some hundred thousand keys."""
MOST_DESCRIPTORS = 250
"""Of one message (SCM_MAX_FD in Linux is 253)."""
PIECE = 64 * 1024
OFFERED_WITHIN = 30.0
"""Seconds in which the first message must come: it was sent when the process was started."""
UNKNOWN = "The other server of the hand-over says something unknown. Stop it, and start one anew."


def send_offer(connection: socket.socket, offer: Offer, descriptors: list[int]) -> bytes:
    """Sends the descriptors and as much of the first message as there is room for: it never waits.
    Returns the rest, to be sent when somebody reads. Raises ControlError, OSError.
    """
    if len(descriptors) > MOST_DESCRIPTORS:
        raise ControlError(
            f"The server listens on {len(descriptors) - 2} addresses, which are more than can be "
            "handed over. Stop it and start it anew."
        )
    line = msgspec.json.encode(offer) + b"\n"
    connection.setblocking(False)
    return line[socket.send_fds(connection, [line], descriptors) :]


def receive_offer(connection: socket.socket) -> tuple[Offer, list[int]]:
    """The first message and its descriptors. Raises ControlError, OSError."""
    connection.settimeout(OFFERED_WITHIN)
    line, descriptors, _, _ = socket.recv_fds(connection, PIECE, MOST_DESCRIPTORS)
    for one in descriptors:
        os.set_inheritable(one, False)  # Python 3.11 has no flag that is heeded
    while not line.endswith(b"\n"):
        more = connection.recv(PIECE)
        if not more:
            raise ControlError("The server that was to be taken over has ended.")
        line += more
    try:
        return msgspec.json.decode(line, type=Offer), descriptors
    except msgspec.DecodeError as error:
        raise ControlError(UNKNOWN) from error


class Channel(Generic[T]):
    """Messages, one a line, on the event loop; T: those of the other one."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.json.Decoder[T],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    @classmethod
    async def of(
        cls, connection: socket.socket, decoder: msgspec.json.Decoder[T], unsent: bytes = b""
    ) -> Channel[T]:
        """Takes a connected socket over. `unsent`: what is to be sent before all messages."""
        connection.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LONGEST_LINE)
        writer.write(unsent)
        return cls(reader, writer, decoder)

    def send(self, message: msgspec.Struct) -> None:
        """Sends a message; it waits for nobody. Whether the other one is there, `receive` tells."""
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def receive(self) -> T | None:
        """The next message; None: the other one has gone. Raises ControlError."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        if not line.endswith(b"\n"):
            return None
        try:
            return self._decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ControlError(UNKNOWN) from error

    async def receive_known(self) -> T | None:
        """As `receive`, but passes over what nobody here knows, and tells it: the other one may be
        of a version that says more, and what it says next counts all the same.
        """
        while True:
            try:
                return await self.receive()
            except ControlError as error:
                log.warning("%s", error)

    def close(self) -> None:
        """Ends the connection behind what was sent."""
        self._writer.close()
