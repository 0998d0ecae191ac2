"""Which models are awake, and with how many replicas: pure. `supervisor` carries it out.

A model sleeps when its last token is older than its `sleep_after`, or when another one of its
`swap_group` needs the room; it is awake again as soon as a request waits for it. Times are
monotonic seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import turns
from gpustack_fast.engines.autoscale import Autoscaler, Pace
from gpustack_fast.engines.turns import Awake, who_sleeps

__all__ = ["Change", "Duties", "Sight"]


class Sight(NamedTuple):
    """What there is of a model at one look."""

    running: int = 0
    """Replicas that take requests."""
    in_flight: int = 0
    """Requests that they have, those that still produce among them."""
    requests: int = 0
    """All that they ever had: it moves where one came and went between two looks."""
    waiting: int = 0
    """Requests that wait for one to run."""
    starting: bool = False
    """One is on its way."""
    unplaced: bool = False
    """One finds no room on the GPUs."""
    leaving: bool = False
    """One still ends, or falls asleep."""
    given_up: bool = False
    """None runs, and none is started again."""


class Change(NamedTuple):
    """What was decided of a model, and why: a sentence."""

    model: str
    what: Literal["asleep", "woken", "scaled"]
    why: str


@dataclasses.dataclass
class _Duty:
    model: ModelConfig
    last_token: float
    asleep: bool = False
    waking: bool = False
    """It is to run again, and has not yet."""
    since: float | None = None
    """When it began to run; None: it does not."""
    requests: int = 0
    busy: bool = False
    scale: Autoscaler | None = None
    why: str = ""
    """Why it sleeps, or slept last: a sentence."""

    def sleep(self, why: str) -> Change:
        """It is to sleep from now on."""
        self.asleep, self.waking, self.why = True, False, why
        return Change(self.model.name, "asleep", why)


class Duties:
    """Decides at each look. `pace`, `turn`: see there."""

    def __init__(self, pace: Pace | None = None, turn: float | None = None) -> None:
        self._pace = pace
        self._turn = turns.TURN if turn is None else turn
        self._duties: dict[str, _Duty] = {}

    @property
    def any(self) -> bool:
        """Whether there is anything to look for."""
        return any(one.model.may_sleep or one.model.pinned or one.scale for one in self._each())

    def _each(self) -> Iterable[_Duty]:
        return self._duties.values()

    def take(
        self,
        models: Iterable[ModelConfig],
        now: float,
        there: Mapping[str, int] | None = None,
        asleep: Collection[str] = (),
    ) -> None:
        """Sets the models of ours. `there`: replicas that are there already, by model; `asleep`:
        those that slept before it was told of any.
        """
        before, self._duties = self._duties, {}
        for model in models:
            duty = before.get(model.name)
            if duty is None:
                duty = _Duty(model, now)
                if model.name in asleep and not before:
                    duty.sleep("It slept when the server was started.")
            duty.model = model
            self._duties[model.name] = duty
            if duty.asleep and not model.may_sleep:
                duty.asleep, duty.waking = False, True
            least, most = model.replica_bounds
            if model.target_in_flight is None:
                duty.scale = None
            elif duty.scale is None:
                duty.scale = Autoscaler(least, most, model.target_in_flight, self._pace)
                duty.scale.begin((there or {}).get(model.name, least))
            else:
                duty.scale.bound(least, most, model.target_in_flight)

    def is_asleep(self, model: str) -> bool:
        """Whether its engines are to sleep."""
        return model in self._duties and self._duties[model].asleep

    def reasons(self) -> dict[str, str]:
        """Why those sleep that do, a sentence each."""
        return {name: one.why for name, one in self._duties.items() if one.asleep}

    def expected(self) -> set[str]:
        """The models for which requests may wait: they sleep, or have not run since they did."""
        return {name for name, one in self._duties.items() if one.asleep or one.waking}

    def goes_by_requests(self, model: str) -> bool:
        """Whether a model has fewer replicas, or none, only because it has fewer requests."""
        duty = self._duties.get(model)
        return duty is not None and (duty.asleep or duty.scale is not None)

    def replicas(self, model: str) -> int:
        """The replicas that it has while it is awake."""
        duty = self._duties[model]
        return duty.model.replica_bounds[0] if duty.scale is None else duty.scale.replicas

    def wanted(self, model: str) -> list[Change]:
        """Wakes a model that sleeps: a request waits for it."""
        duty = self._duties.get(model)
        if duty is None or not duty.asleep:
            return []
        duty.asleep, duty.waking = False, True
        return [Change(model, "woken", "A request waits for it.")]

    def look(
        self,
        sights: Mapping[str, Sight],
        fits: Callable[[str, Collection[str]], bool],
        now: float,
    ) -> list[Change]:
        """Decides anew. `sights`: of each model; `fits`: whether a model would find room, if all of
        these slept.
        """
        changes: list[Change] = []
        for name, duty in self._duties.items():
            sight = sights.get(name, Sight())
            self._see(duty, sight, now)
            if sight.waiting:
                changes += self.wanted(name)  # whoever should have said so has been lost
            elif _is_idle(duty, sight, now):
                changes.append(duty.sleep(_idle_for(duty.model)))
            if duty.scale is not None and not duty.asleep and duty.since is not None:
                changes += _scaled(duty, sight, now)
        served = set[str]()
        """Groups in which somebody makes room from now on: what that comes to is seen next time."""
        for name, duty in self._duties.items():
            sight, group = sights.get(name, Sight()), duty.model.swap_group
            if group is None or group in served or not sight.unplaced or sight.running:
                continue
            found = self._make_room(duty, sight, sights, fits, now)
            if any(change.model != name for change in found):
                served.add(group)
            changes += found
        return changes

    def _see(self, duty: _Duty, sight: Sight, now: float) -> None:
        duty.busy = bool(sight.in_flight or sight.waiting) or sight.requests != duty.requests
        duty.requests = sight.requests
        if sight.running and duty.since is None and not duty.asleep:
            duty.since, duty.waking = now, False
            duty.last_token = now
        if not sight.running:
            duty.since = None
        if sight.given_up:
            duty.waking = False  # nobody shall wait for it
        if duty.busy:
            duty.last_token = now

    def _make_room(
        self,
        duty: _Duty,
        sight: Sight,
        sights: Mapping[str, Sight],
        fits: Callable[[str, Collection[str]], bool],
        now: float,
    ) -> list[Change]:
        """For a model of a group that finds none: others sleep, or it does."""
        name = duty.model.name
        if duty.asleep:
            return []
        group = [
            other
            for other in self._each()
            if other is not duty and other.model.swap_group == duty.model.swap_group
        ]
        if any(one.asleep and sights.get(one.model.name, Sight()).leaving for one in group):
            return []  # what it needs is on its way
        if sight.waiting or duty.waking or duty.model.pinned:
            awake = [
                Awake(
                    other.model.name,
                    other.last_token,
                    other.busy,
                    other.since,
                    other.model.pinned,
                )
                for other in group
                if other.since is not None and not other.asleep
            ]
            chosen = who_sleeps(awake, lambda without: fits(name, without), now, self._turn)
            if chosen or sight.waiting or duty.model.pinned or any(one.busy for one in awake):
                why = f"The model {name} needs its place on the GPUs."
                return [self._duties[one].sleep(why) for one in chosen]
        return [duty.sleep("Others of its group have its place on the GPUs.")]


def _is_idle(duty: _Duty, sight: Sight, now: float) -> bool:
    return (
        not duty.asleep
        and duty.since is not None
        and not sight.starting
        and now - duty.last_token >= duty.model.idle_limit
    )


def _idle_for(model: ModelConfig) -> str:
    return f"It has had no request for {model.idle_limit:g} s."


def _scaled(duty: _Duty, sight: Sight, now: float) -> list[Change]:
    assert duty.scale is not None
    before = duty.scale.replicas
    after = duty.scale.look(sight.in_flight + sight.waiting, sight.running, now)
    if after == before:
        return []
    lasting = "more" if after > before else "fewer"
    return [
        Change(
            duty.model.name,
            "scaled",
            f"{before} → {after}: for a while it has had {lasting} requests at once than "
            f"{duty.model.target_in_flight} for each replica.",
        )
    ]
