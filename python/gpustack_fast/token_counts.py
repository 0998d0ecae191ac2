"""The tokens of every route, kept over restarts.

The data plane counts them. What it has counted is saved now and then, and given back to the data
plane of the next run. So a server that is killed loses what its last seconds have counted. The
metrics show no more than what is saved: else their counters would go back by a kill, which
Prometheus takes for a begin at 0, and counts all of it once more. A route that is gone keeps its
counts for the day when it comes back.

    DIR/tokens.json   0600
    {"version": 1, "routes": [{"name": "smollm2", "input": 12, "cached": 0, "output": 7}]}

At a hand-over two processes count. The predecessor calls `freeze` before its successor reads the
file: from then on only the successor writes it, and what the predecessor has counted since, by
`unsaved`, is added there by `add`. Where the hand-over fails, `thaw` goes on as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable

from msgspec import Struct

from gpustack_fast.errors import StoreError
from gpustack_fast.faults import Faults, run_in_thread
from gpustack_fast.seam.dataplane import DataPlane
from gpustack_fast.seam.documents import RouteTokens, Tokens
from gpustack_fast.storage import durable
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["TokenCounts"]

log = logging.getLogger(__name__)

_VERSION = 1
SAVE_EVERY = 2.0
"""Seconds between two looks at the counts, which are saved where they have changed."""


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    version: int = _VERSION
    routes: list[RouteTokens] = []


class TokenCounts:
    """The counts of this run and all before it.

    Making the object reads the file, and needs the directory's lock. A file that cannot be read is
    set aside, and counting begins anew: no server must stand still for its statistics.
    """

    def __init__(self, directory: DataDirectory, plane: DataPlane, faults: Faults) -> None:
        assert directory.held, "the counts belong to the holder of the data directory's lock"
        self._file = directory.tokens_file
        self._plane = plane
        self._faults = faults
        self._counted = self._read()
        """By route, what was ever counted, as far as it was looked at."""
        self._saved = dict(self._counted)
        """As the file has it."""
        self._given: set[str] = set()
        """Routes for which the data plane counts on from what was counted before."""
        self._is_frozen = False
        self._saving = asyncio.Lock()
        self._writing: asyncio.Future[str] | None = None
        """What writes the file, which goes on though nobody waits for it any more."""

    def look(self) -> None:
        """Takes the counts of now, and gives those from before to routes that are new.

        Call it behind the first table at once: who reads the metrics before would see a jump.
        """
        found = {one.name: one for one in self._plane.stats().routes}
        new = [name for name, now in found.items() if self._is_new(now)]
        if new:
            saved = [self._saved.get(name, _nothing(name)) for name in new]
            self._plane.show_tokens(Tokens(routes=saved))
        if back := [self._counted[name] for name in new if name in self._counted]:
            self._plane.add_tokens(Tokens(routes=back))
            found = {one.name: one for one in self._plane.stats().routes}
        self._given = set(found)
        self._counted.update(found)

    def _is_new(self, now: RouteTokens) -> bool:
        """Whether the data plane has begun to count a route anew: it was away, if only shortly."""
        before = self._counted.get(now.name)
        return (
            now.name not in self._given
            or before is None
            or now.input < before.input
            or now.output < before.output
        )

    async def save_now_and_then(self) -> None:
        """Saves, for ever, what has changed."""
        while True:
            await asyncio.sleep(SAVE_EVERY)
            await self.save()

    async def save(self) -> None:
        """Saves what has changed since the last time, but for a frozen one. Faults are told."""
        async with self._saving:
            if self._writing is not None and not self._writing.done():
                await asyncio.wait({self._writing})
            if self._is_frozen:
                return
            self.look()
            counted = dict(self._counted)
            if counted == self._saved:
                return
            document = _Document(routes=[one for one in counted.values() if _has_any(one)])
            try:
                # It is not cancelled with its caller: a later save must not overtake it.
                writing = run_in_thread(durable.write, self._file, document)
                self._writing = asyncio.ensure_future(writing)
                await asyncio.shield(self._writing)
            except (StoreError, OSError) as error:
                self._faults.note("tokens", error if isinstance(error, OSError) else str(error))
            else:
                self._saved = counted
            # Also where it failed: rather a step back at the next kill than no counts until then.
            self._plane.show_tokens(Tokens(routes=list(counted.values())))

    async def freeze(self) -> None:
        """Saves a last time, for a successor that reads it: this process writes no more."""
        await self.save()
        self._is_frozen = True

    def thaw(self) -> None:
        """No successor has come: this process saves again."""
        self._is_frozen = False

    def unsaved(self) -> list[RouteTokens]:
        """What was counted since the last save, of routes where that is anything."""
        self.look()
        more = [
            RouteTokens(
                name=name,
                input=now.input - before.input,
                cached=now.cached - before.cached,
                output=now.output - before.output,
            )
            for name, now in self._counted.items()
            for before in [self._saved.get(name, _nothing(name))]
        ]
        return [one for one in more if _has_any(one)]

    def add(self, tokens: Iterable[RouteTokens]) -> None:
        """Counts what another process has counted in this one's place."""
        self.look()
        more = list(tokens)
        self._plane.add_tokens(Tokens(routes=[one for one in more if one.name in self._given]))
        for one in more:
            if one.name in self._given:
                continue
            before = self._counted.get(one.name)
            self._counted[one.name] = one if before is None else _sum(before, one)

    def _read(self) -> dict[str, RouteTokens]:
        try:
            found = durable.read(self._file, _Document, _VERSION, "The counts of tokens")
        except StoreError as error:
            aside = self._file.with_suffix(".json.unread")
            log.warning("%s Counting begins anew; the file is now %s.", error, aside)
            with contextlib.suppress(OSError):
                os.replace(self._file, aside)
            return {}
        return {one.name: one for one in found.routes} if found else {}


def _nothing(name: str) -> RouteTokens:
    return RouteTokens(name=name, input=0, cached=0, output=0)


def _has_any(tokens: RouteTokens) -> bool:
    return tokens.input > 0 or tokens.cached > 0 or tokens.output > 0


def _sum(one: RouteTokens, other: RouteTokens) -> RouteTokens:
    return RouteTokens(
        name=one.name,
        input=one.input + other.input,
        cached=one.cached + other.cached,
        output=one.output + other.output,
    )
