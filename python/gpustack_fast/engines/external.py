"""Whether somebody listens at the address of an engine that somebody else runs."""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlsplit

__all__ = ["unreachable"]

CONNECT_WITHIN = 3.0
"""Seconds."""


async def unreachable(url: str) -> str | None:
    """Why nobody can be reached at `http://HOST:PORT` or `unix:/PATH`, in whole sentences; None when somebody can.

    A connection is opened and closed, and nothing is sent: which paths an engine of somebody else answers without a
    key is not known here.
    """
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            if url.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(url.removeprefix("unix:"))
            else:
                address = urlsplit(url)
                _, writer = await asyncio.open_connection(address.hostname, address.port)
    except TimeoutError:
        reason = f"no connection within {CONNECT_WITHIN:g} s"
    except OSError as error:
        # asyncio words its own; a negative number is one of the resolver, with a text of its own.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else str(error.strerror or error)
    else:
        writer.close()
        return None
    return f"Nobody can be reached at {url} ({reason}). Start that engine, or correct its address in `urls`."
