"""What `gpustack-fast plan` finds: a document for programs, from which the page is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gpustack_fast.backends import Backend, Demand, Model
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.placement import Device, Placement, Refusal, Strategy, Wanted, most_gpus, place
from gpustack_fast.sizing import UNKNOWN, FactsError, ModelFacts

__all__ = ["FactsOf", "Plan", "PlannedModel", "PlannedReplica", "make_plan"]


class Selector(Protocol):
    """See `config.GpuSelectorConfig`."""

    @property
    def gpu_ids(self) -> Sequence[str]: ...
    @property
    def gpus_per_replica(self) -> int | None: ...


class PlannedModel(Model, Protocol):
    """A model's configuration, as far as a plan goes by it; see `config.ModelConfig`."""

    @property
    def external(self) -> bool: ...
    @property
    def placement_strategy(self) -> Strategy: ...
    @property
    def gpu_selector(self) -> Selector | None: ...
    @property
    def swap_group(self) -> str | None: ...
    @property
    def pinned(self) -> bool: ...


M = TypeVar("M", bound=PlannedModel)
FactsOf = Callable[[M], ModelFacts]
"""What the model's files say. Raises GpustackFastError where they cannot be had."""


class PlannedReplica(Struct, frozen=True, kw_only=True):
    """One replica that asks for GPUs."""

    model: str
    number: int
    """From 0 on."""
    placement: Placement | None = None
    refusal: str | None = None
    """Why it has no place, in sentences."""
    takes_turns: bool = False
    """It has none at the start, and has one once others of its `swap_group` sleep."""


class Plan(Struct, frozen=True, kw_only=True):
    """Where everything would go. Memory is bytes."""

    devices: list[Device]
    replicas: list[PlannedReplica]
    not_planned: dict[str, str]
    """Models that could not be sized, or whose GPUs not seen, with the reason and the next step."""
    without_gpu: dict[str, str]
    """Models that would run without a GPU, with the reason."""

    @property
    def complete(self) -> bool:
        """Whether everything that asks for a GPU has its place."""
        return not self.not_planned and all(
            one.placement is not None or one.takes_turns for one in self.replicas
        )


def make_plan(
    models: Sequence[M],
    devices: Sequence[Device],
    facts_of: FactsOf[M],
    backends: Mapping[str, Backend],
    unread: str,
) -> Plan:
    """Sizes and places the models that this server would run.

    `unread`: why there may be devices that could not be seen, in sentences; empty: these are all.
    """
    wanted: list[Wanted] = []
    not_planned: dict[str, str] = {}
    without: dict[str, str] = {}
    for model in models:
        backend = backends[model.backend]
        if model.external or not model.most_replicas:
            continue
        if backend.demands is None:
            without[model.name] = f"the backend {model.backend} asks for none"
            continue
        if unread and not devices:
            not_planned[model.name] = unread  # as a server, which waits until they can be seen
            continue
        if not devices:
            without[model.name] = "there is none, so it starts only if its engine can do without"
            continue
        try:
            facts = _facts(model, facts_of, backend)
            demands = backend.demands(model, facts, most_gpus(devices, _gpu_ids(model)))
        except GpustackFastError as error:
            not_planned[model.name] = str(error)
            continue
        wanted += [_wanted(model, number, demands) for number in range(model.most_replicas)]
    groups = {one.name: one.swap_group for one in models if one.swap_group and not one.pinned}
    answers = _places(wanted, devices, groups)
    waiting = _who_takes_turns(wanted, answers, devices, groups)
    return Plan(
        devices=list(devices),
        replicas=[
            replace(_replica(one), takes_turns=True) if at in waiting else _replica(one)
            for at, one in enumerate(answers)
        ],
        not_planned=not_planned,
        without_gpu=without,
    )


def _places(
    wanted: Sequence[Wanted], devices: Sequence[Device], groups: Mapping[str, str]
) -> list[Placement | Refusal]:
    """The answers in this order. `groups`: of the models that sleep for others, which those that
    do not go before.
    """
    stay = [at for at, one in enumerate(wanted) if one.model not in groups]
    turns = [at for at, one in enumerate(wanted) if one.model in groups]
    found: dict[int, Placement | Refusal] = {}
    for some in (stay, turns):
        kept = [one for one in found.values() if isinstance(one, Placement)]
        answers = place([wanted[at] for at in some], devices, kept)
        found.update(zip(some, answers, strict=True))
    return [found[at] for at in range(len(wanted))]


def _who_takes_turns(
    wanted: Sequence[Wanted],
    answers: Sequence[Placement | Refusal],
    devices: Sequence[Device],
    groups: Mapping[str, str],
) -> set[int]:
    """Which of these have room once the others of their groups sleep: each model's first."""
    placed = [one for one in answers if isinstance(one, Placement)]
    running = {one.model for one in placed}
    found: set[int] = set()
    for at, one in enumerate(wanted):
        if one.model in running or one.model not in groups:
            continue
        kept = [other for other in placed if groups.get(other.model) != groups[one.model]]
        if isinstance(place([one], devices, kept)[0], Placement):
            found.add(at)
            running.add(one.model)
    return found


def _facts(model: M, facts_of: FactsOf[M], backend: Backend) -> ModelFacts:
    """Raises GpustackFastError."""
    try:
        return facts_of(model)
    except FactsError:
        if not backend.any_files:
            raise
        return UNKNOWN


def _wanted(model: PlannedModel, number: int, demands: list[Demand]) -> Wanted:
    return Wanted(
        model=model.name,
        number=number,
        demands=demands,
        strategy=model.placement_strategy,
        gpu_ids=_gpu_ids(model),
    )


def _gpu_ids(model: PlannedModel) -> list[str]:
    return [] if model.gpu_selector is None else list(model.gpu_selector.gpu_ids)


def _replica(answer: Placement | Refusal) -> PlannedReplica:
    if isinstance(answer, Placement):
        return PlannedReplica(model=answer.model, number=answer.number, placement=answer)
    return PlannedReplica(model=answer.model, number=answer.number, refusal=answer.message)
