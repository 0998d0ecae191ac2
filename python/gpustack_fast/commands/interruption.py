"""A command that a person ends while it works."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from gpustack_fast.errors import GpustackFastError

__all__ = ["Interrupted", "told_of_interruption"]


class Interrupted(GpustackFastError):
    """A person, or the system, has ended the command while it worked or waited."""

    exit_status = 128 + signal.SIGINT


@contextmanager
def told_of_interruption(sentences: str) -> Iterator[None]:
    """Inside, Ctrl-C raises Interrupted with these: by default it would end without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted. {sentences}") from None
    finally:
        signal.signal(signal.SIGINT, before)
