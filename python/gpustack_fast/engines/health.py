"""The health path of an engine that somebody else runs.

What it says:

    2xx                    it is well
    5xx (but 501)          it is not: it starts, or has failed
    no whole answer        it is not
    anything else          nothing: this engine has another path, asks for a key there, or is behind
                           something that leads elsewhere. It counts as well, and a note says so
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from urllib.parse import urlsplit

from gpustack_fast.faults import is_ours

__all__ = ["Health", "of_this_machine"]

ANSWER_WITHIN = 10.0
"""Seconds. SGLang generates a token before it answers, and does so between those of others."""
FALL = 3
"""Bad answers in a row after which an engine that was well counts as lost."""


class Health:
    """Asks one engine at its `path`; None: there is nothing to ask."""

    def __init__(self, address: str, path: str | None) -> None:
        self._address = address
        self.path = path
        self._failed = 0
        self.note = ""
        """What there is to say of an engine that counts as well; empty: nothing."""

    async def problem(self, running: bool) -> str | None:
        """The reason, in sentences, why the engine is not well; None: it is, or may be.

        `running`: whether it was well so far. Then `FALL` bad answers in a row count as one. Raises
        OSError for a fault of this machine, which says nothing of the engine.
        """
        if self.path is None:
            return None
        try:
            problem = await self._ask(self.path)
        except OSError as error:
            if of_this_machine(error):
                raise
            problem = self._sentence(f"gave no answer to GET {self.path} ({_words(error)})")
        self._failed = self._failed + 1 if problem else 0
        return None if running and self._failed < FALL else problem

    async def _ask(self, path: str) -> str | None:
        """Raises OSError where the connection ends."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                status = await _status(self._address, path)
        except TimeoutError:
            return self._sentence(f"did not answer GET {path} within {ANSWER_WITHIN:g} s")
        if status is None:
            return self._sentence(f"answered GET {path} with something that is no HTTP")
        if status >= 500 and status != 501:
            return self._sentence(f"answers GET {path} with {status}")
        self.note = ""
        if not 200 <= status < 300:
            self.note = (
                f"It answers GET {path} with {status}, which says nothing of its health: only its "
                "connections are watched. Set `health_path` of the model to a path that answers "
                "200 without a key."
            )
        return None

    def _sentence(self, what: str) -> str:
        return f"The engine at {self._address} {what}. Look into its log."


async def _status(url: str, path: str) -> int | None:
    """The status of one GET; None: the answer is no HTTP. Raises OSError."""
    if url.startswith("unix:"):
        host = "localhost"
        reader, writer = await asyncio.open_unix_connection(url.removeprefix("unix:"))
    else:
        address = urlsplit(url)
        host = address.netloc
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gpustack-fast\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            return None
        raise ConnectionResetError(errno.ECONNRESET, "") from error
    except asyncio.LimitOverrunError:
        return None
    finally:
        writer.close()
    words = line.split(None, 2)
    is_http = len(words) > 1 and words[0].startswith(b"HTTP/1.")
    return int(words[1]) if is_http and len(words[1]) == 3 and words[1].isdigit() else None


def of_this_machine(error: OSError) -> bool:
    """Whether an address could not be tried for a fault of this machine."""
    # The resolver does not say why it found nothing.
    return is_ours(error) or (isinstance(error, socket.gaierror) and lacks_descriptors())


def lacks_descriptors() -> bool:
    """Whether this process has no free descriptor at this moment."""
    try:
        os.close(os.open("/", os.O_PATH))
    except OSError:
        return True
    return False


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
