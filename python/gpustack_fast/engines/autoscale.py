"""How many replicas a model has between its bounds, by the requests that it has at once: pure."""

from __future__ import annotations

import collections
import dataclasses
import math

__all__ = ["Autoscaler", "Pace"]

_ALMOST = 0.05
"""Of one replica: an average only comes near to what it is the average of."""


UP_AFTER = 60.0
DOWN_AFTER = 600.0
SMOOTHING = 10.0


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long something has to last until it counts, in seconds."""

    up_after: float = dataclasses.field(default_factory=lambda: UP_AFTER)
    down_after: float = dataclasses.field(default_factory=lambda: DOWN_AFTER)
    smoothing: float = dataclasses.field(default_factory=lambda: SMOOTHING)
    """The time over which requests are averaged: they come and go within it."""


class Autoscaler:
    """Follows the requests of one model. Times are monotonic seconds."""

    def __init__(self, least: int, most: int, target: int, pace: Pace | None = None) -> None:
        """`target`: the requests that each replica should have at once."""
        self._pace = pace or Pace()
        self._least, self._most, self._target = least, most, target
        self.replicas = least
        self._load = 0.0
        """The average of the requests."""
        self._looked: float | None = None
        self._fewest = _Lowest(self._pace.up_after)
        self._most_asked = _Lowest(self._pace.down_after)

    def bound(self, least: int, most: int, target: int) -> None:
        """Goes on within other bounds."""
        self._least, self._most, self._target = least, most, target
        self.begin(self.replicas)

    def begin(self, replicas: int) -> None:
        """Goes on from that many: they are there already."""
        self.replicas = min(max(replicas, self._least), self._most)

    def look(self, requests: int, running: int, now: float) -> int:
        """The replicas that the model should have. `requests`: those that it has now, `running`:
        the replicas that take some.

        There are fewer only where those that stay run: they take over what comes, and those that
        leave only end what they have.
        """
        passed = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        self._load += (requests - self._load) * -math.expm1(-passed / self._pace.smoothing)
        asked = math.ceil(self._load / self._target - _ALMOST)
        fewest, most = self._fewest.of(asked, now), self._most_asked.of(-asked, now)
        if fewest is not None and fewest > self.replicas:
            self.begin(fewest)
        elif most is not None and max(-most, self._least) < self.replicas:
            fewer = max(-most, self._least)
            if running >= fewer:
                self.begin(fewer)
        return self.replicas


class _Lowest:
    """The lowest of the numbers of the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._numbers: collections.deque[tuple[float, int]] = collections.deque()
        """With their times; only those that are lower than all behind them."""

    def of(self, number: int, now: float) -> int | None:
        """With this one; None: there have not been numbers for so long."""
        if self._began is None:
            self._began = now
        while self._numbers and self._numbers[-1][1] >= number:
            self._numbers.pop()
        self._numbers.append((now, number))
        while self._numbers[0][0] < now - self._seconds:
            self._numbers.popleft()
        return self._numbers[0][1] if now - self._began >= self._seconds else None
