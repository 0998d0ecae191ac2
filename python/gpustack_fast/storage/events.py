"""What has happened to engines, when and why: the newest, kept over restarts.

    DIR/events.jsonl   0600, one document per line, the oldest first

A line that is torn, or is none of ours, is passed over. No event quotes a request, nor what an
engine that has served wrote last.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from pathlib import Path

import msgspec
from msgspec import Struct

from gpustack_fast import plain_files
from gpustack_fast.storage import durable

__all__ = ["Event", "Events"]

log = logging.getLogger(__name__)

KEPT = 1000
LARGEST = 16 * 1024 * 1024
"""Bytes of the file: more is not ours."""
LONGEST_REASON = 1000
"""Characters."""


class Event(Struct, frozen=True, kw_only=True):
    """Something that has happened to a model, or to an instance of it."""

    time: float
    """Unix seconds."""
    model: str
    instance: str = ""
    """Empty: it is of the whole model."""
    what: str
    """A word: started, running, failed, retired, ended …"""
    why: str = ""
    """In words; empty: there is nothing to be said."""


class Events:
    """The newest events, in memory and on the disk. May be used from several threads."""

    def __init__(self, file: Path, kept: int = KEPT) -> None:
        """Reads them, as far as they can be read."""
        self._file = file
        self._kept = kept
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._all: collections.deque[Event] = collections.deque(maxlen=kept)
        self._unsaved: collections.deque[Event] = collections.deque(maxlen=kept)
        self._lines = 0
        """Those of the file."""
        self._torn = False
        """Whether the file does not end with the end of a line."""
        self._read()

    def _read(self) -> None:
        try:
            content = plain_files.read_bytes(self._file, LARGEST, pipes=False)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning(
                "The events in %s cannot be read: %s. Those of before are not shown; move it away.",
                self._file,
                error.strerror or error,
            )
            return
        lines = content.split(b"\n")
        self._torn = lines.pop() != b""
        self._lines = len(lines) + self._torn
        for line in lines:
            try:
                self._all.append(msgspec.json.decode(line, type=Event))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue

    def add(self, event: Event) -> None:
        """Keeps an event; `save` writes it."""
        short = msgspec.structs.replace(event, why=event.why[:LONGEST_REASON])
        with self._lock:
            self._all.append(short)
            self._unsaved.append(short)

    def all(self) -> list[Event]:
        """The newest, the oldest of them first."""
        with self._lock:
            return list(self._all)

    def save(self) -> None:
        """Writes those that are new, and waits for the disk. Raises OSError, StoreError."""
        with self._writing:
            with self._lock:
                fresh = list(self._unsaved)
                self._unsaved.clear()
            if not fresh:
                return
            try:
                self._write(fresh)
            except BaseException:
                with self._lock:
                    self._unsaved.extendleft(reversed(fresh[: self._kept - len(self._unsaved)]))
                raise

    def _write(self, fresh: list[Event]) -> None:
        """Appends; now and then the file is made anew, without those that are old."""
        if self._lines + len(fresh) > 2 * self._kept:
            everything = self.all()
            durable.write_bytes(self._file, _lines(everything))
            self._lines, self._torn = len(everything), False
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self._file, flags, 0o600), "ab") as out:
            out.write((b"\n" if self._torn else b"") + _lines(fresh))
        self._lines += len(fresh)
        self._torn = False


def _lines(events: list[Event]) -> bytes:
    return b"".join(msgspec.json.encode(one) + b"\n" for one in events)
