"""A process that forks fake engines: one is ready in a hundredth of the time of a fresh Python.

It is started once for each process of tests, with one end of a `SOCK_SEQPACKET` as its standard
input. Each message there is the command line of an engine, as JSON, with a stream socket for it:
what the engine prints goes there, and when it has ended, `ended CODE` (as `Popen.returncode`). The
first line is `pid NUMBER`. It ends, and the engines that were started with `--with-parent` with it,
when the other end is closed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys

import fake_engine

LONGEST = 64 * 1024
"""Bytes of a command line."""


class Nursery:
    """The loop over what is asked for, and over engines that have ended."""

    def __init__(self, asked: socket.socket) -> None:
        self.asked = asked
        self.engines: dict[int, socket.socket] = {}
        self.woken, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler none is woken
        # Ctrl-C is for the tests, and their end ends this.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> list[str] | None:
        """Returns None at the end; in each fork the command line of its engine."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.asked, selectors.EVENT_READ)
            selector.register(self.woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.woken:
                        self.woken.recv(4096)
                        self.tell_of_ended()
                        continue
                    message, descriptors, *_ = socket.recv_fds(self.asked, LONGEST, 1)
                    if not message:
                        return None
                    place = socket.socket(fileno=descriptors[0])
                    pid = os.fork()
                    if pid == 0:
                        self.leave(place)
                        arguments: list[str] = json.loads(message)
                        return arguments
                    self.engines[pid] = place

    def leave(self, place: socket.socket) -> None:
        """In a fork: everything is as in a fresh process whose standard output is `place`."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        place.sendall(b"pid %d\n" % os.getpid())
        os.dup2(place.fileno(), sys.stdout.fileno())
        for one in (place, self.asked, self.woken, self.waker, *self.engines.values()):
            one.close()

    def tell_of_ended(self) -> None:
        """One signal may stand for several."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                with self.engines.pop(found[0]) as place, contextlib.suppress(OSError):
                    place.sendall(b"ended %d\n" % os.waitstatus_to_exitcode(found[1]))


def main() -> None:
    """Engines have no standard input."""
    asked = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    gc.freeze()  # so that a fork shares these pages until its end
    command = Nursery(asked).run()
    if command is not None:
        sys.argv[1:] = command
        fake_engine.main()
        os._exit(0)  # to take everything down in order would take as long as the start


if __name__ == "__main__":
    main()
