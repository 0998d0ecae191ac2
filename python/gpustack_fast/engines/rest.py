"""Carries out which models are awake, and with how many replicas: orders for who starts and ends
engines.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterable, Mapping

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.duties import Change, Duties
from gpustack_fast.engines.history import History
from gpustack_fast.engines.nap import Places
from gpustack_fast.engines.plan import ReplicaSlot, Wanted
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.sights import Activity, sights

__all__ = ["Rest"]

log = logging.getLogger(__name__)


class Rest:
    """The sleep of one supervisor's models. Times are monotonic seconds."""

    def __init__(self, places: Places, history: History, duties: Duties | None = None) -> None:
        self._places = places
        self._history = history
        self._duties = duties or Duties()

    @property
    def is_needed(self) -> bool:
        """Whether a model may sleep, or has another number of replicas with more requests."""
        return self._duties.any

    def take(self, models: Iterable[ModelConfig], replicas: Iterable[Replica], now: float) -> None:
        """Sets the models of ours. `replicas`: those that are there already."""
        there = collections.Counter(one.slot.model for one in replicas if not one.retired)
        self._duties.take(models, now, there, self._history.asleep)
        self._history.rest(self._duties.reasons())

    def wanted(
        self, models: Iterable[ModelConfig], replicas: Iterable[Replica]
    ) -> dict[str, Wanted]:
        """What is to be there of each model now; engines that sleep with their process are told."""
        found: collections.defaultdict[str, list[Replica]] = collections.defaultdict(list)
        for replica in replicas:
            if not replica.retired:
                found[replica.slot.model].append(replica)
        return {model.name: self._of(model, found[model.name]) for model in models}

    def _of(self, model: ModelConfig, found: Iterable[Replica]) -> Wanted:
        asleep = self._duties.is_asleep(model.name)
        stay = [one for one in found if one.can_sleep]
        for replica in stay:
            replica.order(asleep=asleep)
        if not asleep:
            return Wanted(self._duties.replicas(model.name), model.max_surge)
        # No other is started in the place of one that is not as it is configured now.
        return Wanted(sum(one.is_up and not one.is_outdated for one in stay), 0)

    def ends_at_leisure(self, model: str) -> bool:
        """Whether engines that are not needed get the time that their requests take: nothing is
        gained by an end that cuts one.
        """
        return self._duties.goes_by_requests(model)

    def waits(self) -> set[str]:
        """The models for which requests wait, where nothing of them runs."""
        return self._duties.expected()

    def is_asleep(self, model: str) -> bool:
        """Whether a model sleeps."""
        return self._duties.is_asleep(model)

    def messages(self) -> dict[str, str]:
        """Of each model that sleeps, that it does and why, in sentences."""
        ending = "It wakes with the next request."
        return {name: f"It sleeps. {why} {ending}" for name, why in self._duties.reasons().items()}

    def wake(self, model: str) -> bool:
        """Wakes a model that sleeps, since a request waits for it; whether it slept."""
        return self._tell(self._duties.wanted(model))

    def look(self, replicas: Mapping[ReplicaSlot, Replica], activity: Activity, now: float) -> bool:
        """Decides anew; whether anything has changed."""
        seen = sights(
            replicas.values(), activity, lambda slot: self._places.is_refused(replicas[slot])
        )
        before = self.waits()
        changes = self._duties.look(seen, self._places.would_fit, now)
        return self._tell(changes) or before != self.waits()

    def _tell(self, changes: list[Change]) -> bool:
        for change in changes:
            log.info("The model %s is %s. %s", change.model, change.what, change.why)
            self._history.note(change.model, "", change.what, change.why)
        self._history.rest(self._duties.reasons())
        return bool(changes)
