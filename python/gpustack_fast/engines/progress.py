"""How far the models of ours are on their way to what is configured, for who asks or waits."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from msgspec import Struct

from gpustack_fast.config import ModelConfig
from gpustack_fast.config.model_fields import makes_same_process
from gpustack_fast.engines.plan import Wanted, is_carried_out
from gpustack_fast.engines.replica import Replica
from gpustack_fast.engines.replicas import Replicas
from gpustack_fast.engines.rest import Rest
from gpustack_fast.engines.rollout import There
from gpustack_fast.engines.wanted import WantedModels

__all__ = ["Outlook", "Progress"]


class Outlook(Struct, frozen=True, kw_only=True):
    """How far a model is on its way to what is configured."""

    settled: bool
    """All that is wanted of it now is carried out, and nothing else is there."""
    given_up: bool
    """A replica of it has failed, and is not started again."""
    retired: list[str]
    """The ids of those that get no more requests, and end when they have ended theirs."""


class Progress:
    """The progress of one supervisor's models."""

    def __init__(self, replicas: Replicas, models: WantedModels, rest: Rest) -> None:
        self._replicas = replicas
        self._models = models
        self._rest = rest

    def settled(self, wanted: Mapping[str, Wanted]) -> list[str]:
        """The models of which all that is wanted is carried out."""
        found = collections.defaultdict[str, list[Replica]](list)
        for replica in self._replicas.ours.values():
            found[replica.slot.model].append(replica)
        return [
            name
            for name, target in wanted.items()
            if is_carried_out(target, [one.status() for one in found[name]])
            and self._models.are_compared(name, found[name])
        ]

    def outlooks(self) -> dict[str, Outlook]:
        """How far each model of ours is on its way to what is configured."""
        ours = self._replicas.ours.values()
        settled = set(self.settled(self._rest.wanted(self._models.values(), ours)))
        given_up, retired = set[str](), collections.defaultdict(list)
        for one in ours:
            if one.retired:
                retired[one.slot.model].append(one.id)
            elif one.state == "error" and one.retry_at == float("inf"):
                given_up.add(one.slot.model)
        return {
            model.name: Outlook(
                settled=model.name in settled,
                given_up=model.name in given_up,
                retired=retired[model.name],
            )
            for model in self._models.values()
        }

    def there(self, name: str, model: ModelConfig | None) -> There:
        """The engines of a model, and what becomes of them when it is this; None: it is gone."""
        found = [
            one
            for one in self._replicas.ours.values()
            if one.slot.model == name and not one.retired
        ]
        return There(
            engines=len(found),
            replaced=sum(
                model is None or one.outdated or not makes_same_process(one.model, model)
                for one in found
            ),
            asleep=not found and self._rest.is_asleep(name),
        )
