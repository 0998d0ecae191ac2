"""What the data plane is told: the table of now, and every change of the keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container

from gpustack_fast.engines.replica import Replica
from gpustack_fast.faults import Faults
from gpustack_fast.keys.live import KeyChange
from gpustack_fast.reload import Deployment
from gpustack_fast.seam.dataplane import DataPlane, DataPlaneError
from gpustack_fast.seam.documents import KeyDelta, Table
from gpustack_fast.seam.metrics import fault_metrics
from gpustack_fast.seam.pace import Pace
from gpustack_fast.seam.table import key_entry, table

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

COUNT_EVERY = 1.0
"""Seconds between two looks at the faults, whose counts are shown with the table."""

Current = Callable[[], tuple[Deployment, list[Replica]]]
"""What is in force, and its replicas."""


class Publisher:
    """Publishes the whole table when something in it has changed, at a pace that many changes keep.

    `waits`: the models for which requests wait. `unsaved`: how many revocations of keys are not on
    the disk. `on_publish` is called behind each table that the data plane has taken.
    """

    def __init__(
        self,
        plane: DataPlane,
        faults: Faults,
        *,
        current: Current,
        waits: Callable[[], Container[str]],
        unsaved: Callable[[], int],
        on_publish: Callable[[], None],
    ) -> None:
        self.pace = Pace(self._publish)
        """When a table is published: `soon`, or `now`, which raises DataPlaneError for the first
        table if the data plane refuses it."""
        self._plane = plane
        self._faults = faults
        self._current = current
        self._waits = waits
        self._unsaved = unsaved
        self._on_publish = on_publish
        self._published = False
        self._shown = (0, 0)
        """Faults and unsaved revocations as the table shows them."""

    def whole_table(self, deployment: Deployment, replicas: list[Replica]) -> Table:
        """The table of a deployment with these replicas, and the counted faults with it."""
        document = table(
            deployment.config,
            replicas,
            deployment.routes,
            deployment.engine_keys,
            self._waits(),
        )
        document.metrics.extend(fault_metrics(self._faults.counts, self._unsaved()))
        return document

    def publish_keys(self, change: KeyChange) -> None:
        """Hands a change of the keys on at once; see `Pace`."""
        upsert = [key_entry(key) for key in change.upsert]
        delta = KeyDelta(
            salt=change.salt, replace=change.replace, upsert=upsert, remove=change.remove
        )
        self._plane.update_keys(delta)

    async def count_now_and_then(self) -> None:
        """Publishes, for ever, when there are other faults than the table shows."""
        while True:
            await asyncio.sleep(COUNT_EVERY)
            if self._published and self._shown != self._counted():
                self.pace.soon()

    def _counted(self) -> tuple[int, int]:
        return sum(self._faults.counts.values()), self._unsaved()

    def _publish(self) -> None:
        """Publishes the table of now, for `Pace`."""
        document = self.whole_table(*self._current())
        self._shown = self._counted()
        try:
            self._plane.publish(document)
        except DataPlaneError as error:
            if not self._published:
                raise
            log.error("A new table cannot be used, and the former one stays. %s", error)
            self._faults.note("mistake", str(error))
            return
        self._published = True
        self._on_publish()
