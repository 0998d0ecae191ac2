"""The engines that an earlier run, or another process of this server, has left."""

from __future__ import annotations

import logging
from collections.abc import Container

from gpustack_fast.engines.adoption import Adoptable, RefusedRecord, candidates
from gpustack_fast.engines.leftovers import end_leftovers, find_records
from gpustack_fast.faults import run_in_thread
from gpustack_fast.parts import Parts

__all__ = ["EarlierEngines"]

log = logging.getLogger(__name__)


class EarlierEngines:
    """Found once, by their records; then some are adopted, and the others are ended."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._others: list[RefusedRecord] | None = None
        """Those that are to be ended, and why; None: it is not known yet."""

    async def adoptable(self, given: Container[str] | None = None) -> list[Adoptable]:
        """Those that may be adopted; the others are to be ended. `given`: the ids of those that
        another process gives, and no others; None: there is no other process.

        Raises StoreError, OSError.
        """
        found = await find_records(self._parts.engine_paths)
        kept = [one for one in found if given is None or one[0].stem in given]
        adoptable, others = await run_in_thread(candidates, kept, self._parts.config.models)
        retired = [one for one in found if one not in kept]
        self._others = [*others, *((one, "the process before had retired it") for one in retired)]
        return adoptable

    async def look(self) -> None:
        """Finds all of them, to be ended, where nobody has looked before. Raises StoreError."""
        if self._others is None:
            found = await find_records(self._parts.engine_paths)
            self._others = [(one, "the server stops") for one in found]

    async def end_others(self) -> None:
        """Ends those that nobody goes on with, once. Raises EngineFailed."""
        others, self._others = self._others or [], []
        paths, faults = self._parts.engine_paths, self._parts.faults
        why = {record.stem: reason for (record, _), reason in others}
        for name in await end_leftovers(paths, [one for one, _ in others], faults):
            log.info("Ended the engine %s, which an earlier run had left: %s.", name, why[name])
