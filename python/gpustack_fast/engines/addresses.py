"""The addresses of somebody else's engines: each is a replica, which is watched and never started.

Their states: pending → running ⇄ unreachable.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

from gpustack_fast.backends import Backend
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.replica import Replica
from gpustack_fast.storage.engine_paths import safe

__all__ = ["Addresses", "ExternalReplicas"]

FIRST_TRY_WITHIN = 5.0
"""Seconds that a reload waits for the first try of addresses that are new."""


@dataclasses.dataclass
class Addresses:
    """The addresses as a reload wants them: a replica for each, with its model as it will be."""

    replicas: dict[ReplicaSlot, tuple[Replica, ModelConfig]] = dataclasses.field(
        default_factory=dict
    )
    fresh: list[Replica] = dataclasses.field(default_factory=list)
    """Those of them that are new. They are watched already."""

    def discard(self) -> None:
        """Ends the watch on the new ones, where nobody adopts them."""
        for replica in self.fresh:
            if replica.running is not None:
                replica.running.cancel()


class ExternalReplicas:
    """The replicas of somebody else's engines that are there."""

    def __init__(self, backend: Backend, watch: Callable[[Replica], asyncio.Task[None]]) -> None:
        """`watch` begins to try a replica's address now and then, and to give it its states."""
        self._backend = backend
        self._watch = watch
        self._replicas: dict[ReplicaSlot, Replica] = {}
        self._drained: set[tuple[str, str]] = set()
        """Model and URL of those that are drained, for the replicas that follow."""
        self._numbers: collections.Counter[str] = collections.Counter()
        """The addresses that models ever had here, by `safe` name: they give them ids."""
        self._state_changed = asyncio.Event()

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def __contains__(self, replica: Replica) -> bool:
        return self._replicas.get(replica.slot) is replica

    def want(self, models: Iterable[ModelConfig]) -> None:
        """Makes a new replica for each address, in place of all that are there."""
        self.cancel()
        for model, url in _addresses(models):
            replica = self._make(model, url)
            self._replicas[replica.slot] = replica

    def cancel(self) -> None:
        """Ends the watch on all of them; none is there any more."""
        for replica in self._replicas.values():
            assert replica.running is not None
            replica.running.cancel()
        self._replicas.clear()

    async def try_once(self, models: Iterable[ModelConfig]) -> Addresses:
        """The replicas for `adopt`: those here, and new ones.

        The new addresses were tried once, so that those where somebody responds get requests from
        the first moment on. Nothing else has changed yet.
        """
        known = {(one.slot.model, one.address): one for one in self._replicas.values()}
        addresses = Addresses()
        for model, url in _addresses(models):
            replica = known.get((model.name, url))
            if replica is None:
                replica = self._make(model, url)
                addresses.fresh.append(replica)
            addresses.replicas[replica.slot] = (replica, model)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_TRY_WITHIN):
                    while any(replica.state == "pending" for replica in addresses.fresh):
                        self._state_changed.clear()
                        await self._state_changed.wait()
        except asyncio.CancelledError:
            addresses.discard()
            raise
        return addresses

    def adopt(self, addresses: Addresses) -> None:
        """Replaces those that are there."""
        for slot, replica in self._replicas.items():
            if slot not in addresses.replicas and replica.running is not None:
                replica.running.cancel()
        self._replicas = {}
        for slot, (replica, model) in addresses.replicas.items():
            replica.model = model
            self._replicas[slot] = replica

    def state_changed(self) -> None:
        """Notes that a replica has another state, also one that is only tried."""
        self._state_changed.set()

    def remember(self, replica: Replica) -> None:
        """Remembers the order of the operator about a replica, for those that follow it there."""
        change = self._drained.add if replica.drained else self._drained.discard
        change((replica.slot.model, replica.address))

    def _make(self, model: ModelConfig, url: str) -> Replica:
        """A new replica, whose address is tried from now on."""
        # Not by the name itself: several may be the same as a part of an id, which is unique.
        name = safe(model.name)
        number = self._numbers[name]
        self._numbers[name] += 1
        replica = Replica(
            slot=ReplicaSlot(model.name, number),
            model=model,
            backend=self._backend,
            id=f"{name}-{number}",
            created=time.time(),
            address=url,
            since=time.time(),
            drained=(model.name, url) in self._drained,
        )
        replica.idle.set()
        replica.running = self._watch(replica)
        return replica


def _addresses(models: Iterable[ModelConfig]) -> Iterator[tuple[ModelConfig, str]]:
    return ((model, url) for model in models if model.external for url in model.urls)
