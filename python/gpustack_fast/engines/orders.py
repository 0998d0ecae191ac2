"""The operator's orders: which instances are drained, so that they get no requests.

An order is a fact of its replica, beside the state (`Replica.drained`), and outlasts the engine
that is in it now: the next engine, the next run and the next process of this server heed it, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.replicas import Replicas
from gpustack_fast.errors import InstanceNotFound

__all__ = ["Orders"]

log = logging.getLogger(__name__)


class Orders:
    """The orders to the replicas of one server."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    @property
    def drained(self) -> list[tuple[str, str]]:
        """Model and address of each instance that is drained."""
        return [(one.slot.model, one.address) for one in self._replicas.present if one.drained]

    def take(self, drained: Iterable[tuple[str, str]]) -> None:
        """Carries out the orders that an operator has given to another server: of the instances
        that have an address these are drained, and no others.
        """
        ordered = set(drained)
        for replica in self._replicas.present:
            is_ordered = (replica.slot.model, replica.address) in ordered
            if replica.address and replica.drained != is_ordered:
                change = self.resume if replica.drained else self.drain
                change(replica.id)

    def drain(self, which: str) -> list[Replica]:
        """Takes instances out of the choice until `resume`; what runs on them goes on.

        `which` is an instance's id or an address. Returns them; raises InstanceNotFound.
        """
        found = self._find(which)
        for replica in found:
            if not replica.drained:
                if replica.state == "running":
                    replica.idle.clear()
                else:
                    replica.idle.set()
                self._order(replica, drained=True)
        self._replicas.on_change()
        return found

    def resume(self, which: str) -> list[Replica]:
        """Takes `drain` back. Returns the instances; raises InstanceNotFound."""
        found = self._find(which)
        for replica in found:
            if replica.drained:
                replica.idle.clear()
                self._order(replica, drained=False)
        self._replicas.on_change()
        return found

    def _order(self, replica: Replica, *, drained: bool) -> None:
        replica.drained = drained
        if replica.state == "running":
            replica.since = time.time()
        what = "drained" if drained else "resumed"
        if replica.model.external:
            self._replicas.external.remember(replica)
        else:
            self._replicas.remember_drained()
            self._replicas.note(replica, what, "Its operator has ordered it.")
        log.info("%s is %s by its operator.", replica.id, what)

    def _find(self, which: str) -> list[Replica]:
        present, address = self._replicas.present, which.rstrip("/")
        found = [one for one in present if which == one.id or address == one.address]
        if not found:
            known = ", ".join(_shown(one) for one in present) or "none"
            raise InstanceNotFound(
                f"There is no instance or address {which}. `gpustack-fast status` shows what there "
                f"is; now: {known}."
            )
        return found


def _shown(replica: Replica) -> str:
    """Its id, and its address where it has one."""
    return f"{replica.id} ({replica.address})" if replica.address else replica.id
