"""How many requests each instance has now."""

from __future__ import annotations

import time

from gpustack_fast.engines.sights import Activity
from gpustack_fast.seam.dataplane import DataPlane

__all__ = ["Outstanding"]


class Outstanding:
    """The requests that instances have, as the data plane counts them.

    What it tells may be a moment old: the watches of all engines ask, each for its own, and the
    data plane is asked once for all of them.
    """

    AGE = 1.0
    """Seconds that an answer may be old."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._counts: dict[str, int] = {}
        self._since = float("-inf")
        """When they were asked for, in monotonic seconds."""

    def of(self, instance_id: str) -> int:
        """The requests of this instance; 0 where the data plane knows none of this name."""
        now = time.monotonic()
        if now > self._since + self.AGE:
            self._since = now
            instances = self._plane.stats().instances
            self._counts = {one.id: one.outstanding for one in instances if one.outstanding}
        return self._counts.get(instance_id, 0)

    def activity(self) -> Activity:
        """What all instances have to do now, and who waits."""
        stats = self._plane.stats()
        return Activity(
            in_flight={one.id: one.outstanding for one in stats.instances},
            requests={one.id: one.requests for one in stats.instances},
            waiting={one.name: one.waiting for one in stats.models if one.waiting},
        )
