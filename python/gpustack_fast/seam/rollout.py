"""A model whose instances differ, as they do while it is edited: an entry for each kind of them.

What the data plane must know of an engine belongs to its model's entry. So instances of which it
must know something else get an entry of their own, under a name that no model can have, and each
target of a route that leads to the model is divided among them by the instances that run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from gpustack_fast.backends import EngineFacts, facts_of
from gpustack_fast.config import ModelConfig, TargetConfig
from gpustack_fast.engines.replica import Replica
from gpustack_fast.seam.documents import TargetEntry

__all__ = ["Part", "divided", "parts_of"]

LARGEST_WEIGHT = 2**31
"""What the weights of one route may come to."""


class Part(NamedTuple):
    """The instances of a model of which the same is known."""

    name: str
    """The model's own for those that are as it is configured now."""
    model: ModelConfig
    """As those engines were started."""
    facts: EngineFacts
    replicas: list[Replica]

    @property
    def running(self) -> int:
        return sum(one.published_state == "running" for one in self.replicas)

    def has(self, adapter: str) -> bool:
        """Whether its engines have an adapter of this name."""
        return any(one.lora_name == adapter for one in self.model.lora_list)


def parts_of(model: ModelConfig, replicas: Sequence[Replica]) -> list[Part]:
    """The parts of a model; the first is that of now, and may have no instance."""
    first = Part(model.name, model, facts_of(model), [])
    if model.external:
        # Of somebody else's engines that is known which is written now.
        return [first._replace(replicas=[*replicas])]
    parts = [first]
    for replica in replicas:
        facts = first.facts if replica.model is model else facts_of(replica.model)
        for part in parts:
            if part.facts == facts and _adapters(part.model) == _adapters(replica.model):
                part.replicas.append(replica)
                break
        else:
            # `@` is in no name of a configuration.
            name = f"{model.name}@{replica.generation}"
            parts.append(Part(name, replica.model, facts, [replica]))
    return parts


def _adapters(model: ModelConfig) -> list[str]:
    return sorted(one.lora_name for one in model.lora_list)


def divided(
    targets: Sequence[TargetConfig], parts: Mapping[str, Sequence[Part]]
) -> list[TargetEntry]:
    """The targets of a route, those of models with several parts among these. `parts`: by model.

    A target keeps its share of the route. Nobody is led to engines without the adapter that it
    asks for.
    """
    found = [(target, _serving(target, parts[target.model])) for target in targets]
    factor = math.prod(sum(part.running for part in each) for _, each in found if len(each) > 1)
    entries = [
        _entry(target, part, _share(target.share * factor, part, each))
        for target, each in found
        for part in each
    ]
    total = sum(one.weight for one in entries)
    if total <= LARGEST_WEIGHT:
        return entries
    return [
        replace(one, weight=max(1, one.weight * LARGEST_WEIGHT // total)) if one.weight else one
        for one in entries
    ]


def _serving(target: TargetConfig, parts: Sequence[Part]) -> list[Part]:
    """The parts that a target leads to: those that can serve it, at least that of now."""
    adapter = target.overridden_model_name
    if adapter is not None and any(part.has(adapter) for part in parts):
        parts = [part for part in parts if part.has(adapter)]
    return [part for part in parts if part.running] or [*parts][:1]


def _share(whole: int, part: Part, parts: Sequence[Part]) -> int:
    if len(parts) == 1:
        return whole
    return whole * part.running // sum(one.running for one in parts)


def _entry(target: TargetConfig, part: Part, weight: int) -> TargetEntry:
    return TargetEntry(
        model=part.name,
        weight=weight,
        served_name=target.overridden_model_name,
        fallback=list(target.fallback),
    )
