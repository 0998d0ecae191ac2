"""What a server does that takes over from another process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from typing import Any, TypeVar

import msgspec

from gpustack_fast.errors import ControlError, GpustackFastError, UsageError, in_one_line
from gpustack_fast.faults import reason_of
from gpustack_fast.handover.channel import Channel, receive_offer
from gpustack_fast.handover.launch import VARIABLE
from gpustack_fast.handover.messages import (
    FromPredecessor,
    Go,
    Hurry,
    KeysChanged,
    Left,
    Offer,
    Ready,
    Refused,
    Serving,
    Waiting,
    Wanted,
)
from gpustack_fast.keys.live import KeyChange
from gpustack_fast.seam.dataplane import __version__
from gpustack_fast.seam.documents import RouteTokens

__all__ = ["Inheritance", "inherit"]

T = TypeVar("T")

STANDARD_ERROR = 2
DECODER: msgspec.json.Decoder[FromPredecessor] = msgspec.json.Decoder(FromPredecessor)
GONE = (
    "The server that was to be taken over has ended, or goes on by itself. `gpustack-fast status` "
    "shows whether it does; else start it anew: engines that it has left are gone on with."
)


class Inheritance:
    """What a predecessor has given, and the connection to it."""

    def __init__(self, offer: Offer, descriptors: list[int], connection: socket.socket) -> None:
        self.offer = offer
        self.lock, *sockets = descriptors
        self._sockets = [socket.socket(fileno=one) for one in sockets]
        self._connection = connection
        self._channel: Channel[FromPredecessor] | None = None
        self.has_left = asyncio.Event()
        """Set when the predecessor has ended, or will: none of its requests run any more."""
        self.tokens: list[RouteTokens] = []
        """What the predecessor has counted since this process has read the counts."""
        self.serves = False
        """Whether this process accepts clients."""
        self._wanted: Callable[[str], None] = lambda _: None
        self._word: asyncio.Future[Go] | None = None
        self._listening: asyncio.Task[None] | None = None

    def sockets(self, host: str, port: int) -> list[socket.socket] | None:
        """The listening sockets, if they are those of this host and port; else None, and they are
        closed here.
        """
        if (host, port) == (self.offer.host, self.offer.port):
            return self._sockets
        for one in self._sockets:
            one.close()
        return None

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Inside, an error that ends this process before it serves is told to the predecessor."""
        try:
            yield
        except GpustackFastError as error:
            if self._channel is None:  # else it was told there
                refused = Refused(reason=in_one_line(error))
                with contextlib.suppress(OSError):
                    self._connection.sendall(msgspec.json.encode(refused) + b"\n")
            raise

    async def open(self, wanted: Callable[[str], None]) -> None:
        """To be called on the event loop, once, before what follows. `wanted`: called with a model
        for which a request of the predecessor's waits.
        """
        self._wanted = wanted
        self._channel = await Channel.of(self._connection, DECODER)
        self._word = asyncio.get_running_loop().create_future()
        self._listening = asyncio.ensure_future(self._listen(self._channel, self._word))

    def tell_error(self, error: GpustackFastError | OSError) -> None:
        """Tells why this process cannot take over, and ends."""
        reason = f"{reason_of(error)}." if isinstance(error, OSError) else in_one_line(error)
        self._send(Refused(reason=reason))

    def tell_wait(self, reason: str) -> None:
        """Tells what this process waits for, in a sentence."""
        self._send(Waiting(reason=reason))

    async def until(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work gives. Raises ControlError as soon as the predecessor has gone."""
        assert self._word is not None
        working = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {working, self._word}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self._word.result()
            return await working
        finally:
            working.cancel()

    async def take_over(self) -> Go:
        """Says that this process is ready, and waits for the word. Raises ControlError."""
        assert self._word is not None
        self._send(Ready(version=__version__))
        return await self._word

    def tell_serving(self, addresses: list[str]) -> None:
        """Says that this process serves: from now on the predecessor only finishes its requests."""
        self.serves = True
        self._send(Serving(addresses=addresses))

    def forward(self, change: KeyChange) -> None:
        """Tells of a change of keys, which the predecessor's requests have to heed."""
        if self.serves and not self.has_left.is_set():
            self._send(KeysChanged.of(change))

    def hurry(self, within: float) -> None:
        """Tells that this process is to stop itself, and waits for the predecessor's end; seconds
        that requests may still take there.
        """
        self._send(Hurry(within=within))

    def close(self) -> None:
        """Ends the connection."""
        if self._listening is not None:
            self._listening.cancel()
        if self._channel is None:
            self._connection.close()
        else:
            self._channel.close()

    async def _listen(self, channel: Channel[FromPredecessor], word: asyncio.Future[Go]) -> None:
        while (message := await channel.receive_known()) is not None:
            if isinstance(message, Go) and not word.done():
                word.set_result(message)
            elif isinstance(message, Wanted):
                self._wanted(message.model)
            elif isinstance(message, Left):
                self.tokens = message.tokens
        self.has_left.set()
        if not word.done():
            word.set_exception(ControlError(GONE))
            word.exception()  # whether anybody asks or not

    def _send(self, message: msgspec.Struct) -> None:
        assert self._channel is not None
        self._channel.send(message)


def inherit(environment: MutableMapping[str, str]) -> Inheritance | None:
    """What a predecessor gives to this process; None: it was started by no predecessor.

    Takes the variable out of the environment, and the standard error that comes with the offer.
    Raises UsageError.
    """
    number = environment.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        with contextlib.ExitStack() as otherwise:
            connection = otherwise.enter_context(socket.socket(fileno=int(number)))
            connection.set_inheritable(False)
            offer, descriptors = receive_offer(connection)
            lock, errors, *sockets = descriptors
            os.dup2(errors, STANDARD_ERROR)
            os.close(errors)
            otherwise.pop_all()
    except (ValueError, OSError, ControlError) as error:
        raise UsageError(
            f"The variable {VARIABLE} is for a process that `gpustack-fast restart` or `upgrade` "
            "has started, and this one was not, or that server has ended. Unset it."
        ) from error
    return Inheritance(offer, [lock, *sockets], connection)
