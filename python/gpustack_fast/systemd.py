"""Tells the service manager that started us, if one did, what is going on (sd_notify(3)).

So a unit with `Type=notify` is started when the server responds, and not before; and a port that is
taken fails the start instead of looking like a later crash.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import MutableMapping

__all__ = ["READY", "STOPPING", "Notifier", "main_process"]

log = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"


def main_process(pid: int) -> str:
    """Another process is the service from now on."""
    return f"MAINPID={pid}"


class Notifier:
    """The way to the service manager; without one nothing is sent."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes the address out of the environment: engines inherit that, and have no say."""
        address = environment.pop("NOTIFY_SOCKET", "")
        # `@` stands for the zero byte of an abstract socket (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def tell(self, state: str) -> None:
        """Sends one of the states above. A manager that does not listen is no reason to stop."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.setblocking(False)
                sending.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning(
                "The service manager was not told `%s`: %s. It may take this server for one that "
                "does not start; use `Type=exec` in its unit then.",
                state,
                error.strerror,
            )
