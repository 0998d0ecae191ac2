"""Which models are awake, and with how many replicas."""

from __future__ import annotations

import random
from collections.abc import Collection

import pytest
from msgspec import structs

from gpustack_fast.config import ModelConfig, ReplicasConfig
from gpustack_fast.engines.autoscale import Pace
from gpustack_fast.engines.duties import Change, Duties, Sight


def model(name: str = "m", **fields: object) -> ModelConfig:
    return ModelConfig(name=name, backend="vllm", **fields)  # type: ignore[arg-type]


RUNS = Sight(running=1)


class Looks:
    """Looks once a second at models, each of which takes `size` of a GPU of 100."""

    def __init__(self, *models: ModelConfig, sizes: dict[str, int] | None = None) -> None:
        self.duties = Duties(Pace(up_after=60, down_after=600, smoothing=0.001))
        self.now = 0.0
        self.sizes = sizes or {}
        self.held: set[str] = set()
        self.duties.take(models, 0.0)

    def fits(self, name: str, without: Collection[str]) -> bool:
        kept = sum(self.sizes[one] for one in self.held - set(without))
        return kept + self.sizes[name] <= 100

    def look(self, seconds: int = 1, /, **sights: Sight) -> list[Change]:
        changes = []
        for _ in range(seconds):
            self.now += 1
            changes += self.duties.look(sights, self.fits, self.now)
        return changes


def test_a_model_sleeps_when_its_last_token_is_old_enough() -> None:
    looks = Looks(model(sleep_after="1m"))
    assert looks.look(30, m=RUNS) == []
    assert looks.look(500, m=RUNS._replace(in_flight=1)) == [], "it still produces"
    assert looks.look(59, m=RUNS) == [] and not looks.duties.is_asleep("m")
    (change,) = looks.look(1, m=RUNS)
    assert change == ("m", "asleep", "It has had no request for 60 s.")
    assert looks.duties.reasons() == {"m": change.why}
    assert looks.duties.is_asleep("m") and looks.duties.expected() == {"m"}


def test_a_request_between_two_looks_counts() -> None:
    looks = Looks(model(sleep_after=60))
    for count in range(10):
        assert looks.look(50, m=RUNS._replace(requests=count)) == []


def test_one_that_never_sleeps_is_left_alone() -> None:
    looks = Looks(model(), model("pinned", swap_group="g", pinned=True))
    assert looks.look(5000, m=RUNS, pinned=RUNS) == []


def test_the_time_counts_from_when_it_runs_and_not_while_one_starts() -> None:
    looks = Looks(model(sleep_after=60))
    assert looks.look(500, m=Sight(starting=True)) == []
    assert looks.look(500, m=Sight()) == [], "one that fails is not hidden by sleep"
    assert looks.look(59, m=RUNS) == []
    assert looks.look(100, m=RUNS._replace(starting=True)) == []
    assert [one.what for one in looks.look(1, m=RUNS)] == ["asleep"]


def test_one_wake_for_all_that_wait_and_none_who_leaves_cancels_it() -> None:
    looks = Looks(model(sleep_after=60))
    looks.look(61, m=RUNS)
    assert [one.what for one in looks.duties.wanted("m")] == ["woken"]
    assert looks.duties.wanted("m") == [] and looks.duties.wanted("unknown") == []
    assert looks.duties.expected() == {"m"}, "requests may wait until it runs"
    assert looks.look(300, m=Sight(starting=True)) == [] and not looks.duties.is_asleep("m")
    assert looks.look(59, m=RUNS) == [] and not looks.duties.expected()
    assert [one.what for one in looks.look(2, m=RUNS)] == ["asleep"]


def test_requests_that_wait_wake_it_though_nobody_said_so() -> None:
    looks = Looks(model(sleep_after=60))
    looks.look(61, m=RUNS)
    assert [one.what for one in looks.look(2, m=Sight(waiting=3))] == ["woken"]


def test_a_request_that_comes_while_it_falls_asleep_wakes_it() -> None:
    looks = Looks(model(sleep_after=60))
    looks.look(61, m=RUNS)
    assert looks.look(5, m=RUNS._replace(leaving=True)) == []
    assert [one.what for one in looks.duties.wanted("m")] == ["woken"]


def test_it_wakes_when_it_may_sleep_no_more() -> None:
    looks = Looks(model(sleep_after=60))
    looks.look(61, m=RUNS)
    looks.duties.take([model(sleep_after=60, max_in_flight=3)], looks.now)
    assert looks.duties.is_asleep("m")
    looks.duties.take([model()], looks.now)
    assert not looks.duties.is_asleep("m") and looks.duties.expected() == {"m"}


def test_replicas_follow_requests_and_those_that_are_there_stay() -> None:
    scaled = model(replicas=ReplicasConfig(min=1, max=3), target_in_flight=10)
    looks = Looks(scaled)
    assert looks.duties.replicas("m") == 1
    assert looks.look(61, m=RUNS._replace(in_flight=18, waiting=3)) == []
    (change,) = looks.look(1, m=RUNS._replace(in_flight=18, waiting=3))
    assert change.what == "scaled" and change.why.startswith("1 → 3: ")
    assert looks.duties.replicas("m") == 3
    looks.duties.take([structs.replace(scaled, replicas=ReplicasConfig(min=1, max=2))], 0.0)
    assert looks.duties.replicas("m") == 2
    looks.duties.take([model(replicas=5)], 0.0)
    assert looks.duties.replicas("m") == 5
    adopted = Duties()
    adopted.take([scaled, model("n")], 0.0, there={"m": 3})
    assert adopted.replicas("m") == 3
    assert adopted.goes_by_requests("m") and not adopted.goes_by_requests("n")


def test_requests_that_wait_for_a_start_are_no_reason_for_more_replicas() -> None:
    looks = Looks(model(replicas=ReplicasConfig(min=1, max=3), target_in_flight=10))
    assert looks.look(200, m=Sight(starting=True, waiting=50)) == []
    assert looks.duties.replicas("m") == 1


def test_what_slept_before_sleeps_on_if_it_may() -> None:
    duties = Duties()
    duties.take([model(sleep_after=60), model("n")], 0.0, asleep=["m", "n", "gone"])
    assert duties.reasons() == {"m": "It slept when the server was started."}
    assert [one.what for one in duties.wanted("m")] == ["woken"]
    duties.take([model(sleep_after=60), model("new", sleep_after=60)], 0.0, asleep=["m", "new"])
    assert duties.reasons() == {}, "only at the start"


GROUP = [model(name, swap_group="g") for name in ("a", "b", "c")]
SIZES = {"a": 60, "b": 60, "c": 30}


def test_the_least_recently_used_of_a_group_makes_room() -> None:
    looks = Looks(*GROUP, sizes=SIZES)
    looks.held = {"a", "c"}
    there = {"a": RUNS, "c": RUNS}
    (change,) = looks.look(b=Sight(unplaced=True), **there)
    assert change == ("b", "asleep", "Others of its group have its place on the GPUs.")
    looks.look(c=RUNS._replace(requests=5), a=RUNS)
    assert [one.what for one in looks.duties.wanted("b")] == ["woken"]
    (change,) = looks.look(b=Sight(unplaced=True, waiting=1), c=RUNS._replace(requests=5), a=RUNS)
    assert change == ("a", "asleep", "The model b needs its place on the GPUs.")
    leaving = RUNS._replace(leaving=True)
    waits = Sight(unplaced=True, waiting=1)
    assert looks.look(20, b=waits, c=RUNS._replace(requests=5), a=leaving) == [], "it is on its way"


def test_no_second_one_sleeps_while_what_the_first_gives_back_is_on_its_way() -> None:
    looks = Looks(*GROUP, sizes={"a": 50, "b": 40, "c": 50})
    looks.held = {"a", "c"}
    waits = Sight(unplaced=True, waiting=1)
    (change,) = looks.look(a=RUNS, b=waits, c=RUNS._replace(requests=1))
    assert change.model == "a"
    leaving = Sight(leaving=True)
    assert looks.look(50, a=leaving, b=waits, c=RUNS._replace(requests=1)) == []


def test_two_that_wait_at_one_time_make_one_sleep_at_a_time() -> None:
    looks = Looks(*GROUP, model("d", swap_group="g"), sizes={"a": 50, "b": 50, "c": 50, "d": 50})
    looks.held = {"a", "c"}
    waits = Sight(unplaced=True, waiting=1)
    assert [one.model for one in looks.look(a=RUNS, b=waits, c=RUNS, d=waits)] == ["a"]
    leaving = Sight(leaving=True)
    assert looks.look(a=leaving, b=waits, c=RUNS, d=waits) == []
    looks.held = {"b", "c"}  # nothing is seen of one that sleeps
    assert [one.model for one in looks.look(b=RUNS, c=RUNS, d=waits)] == ["c"]


def test_nobody_waits_for_one_that_is_given_up() -> None:
    looks = Looks(model(sleep_after=60))
    looks.look(61, m=RUNS)
    looks.duties.wanted("m")
    looks.look(m=Sight())
    assert looks.duties.expected() == {"m"}
    looks.look(m=Sight(given_up=True))
    assert looks.duties.expected() == set()


def test_a_wake_makes_room_though_its_client_has_left() -> None:
    looks = Looks(*GROUP, sizes=SIZES)
    looks.held = {"a"}
    looks.look(a=RUNS, b=Sight(unplaced=True))
    looks.duties.wanted("b")
    busy = RUNS._replace(in_flight=1)
    assert looks.look(5, a=busy, b=Sight(unplaced=True)) == [], "it waits for its turn"
    (change,) = looks.look(a=RUNS, b=Sight(unplaced=True))
    assert (change.model, change.what) == ("a", "asleep")
    assert looks.look(a=RUNS, b=Sight(unplaced=True, waiting=1)) == [], "it is told once"


def test_a_pinned_model_makes_room_for_itself_and_for_nobody_else() -> None:
    pinned = model("p", swap_group="g", pinned=True)
    looks = Looks(*GROUP, pinned, sizes={**SIZES, "p": 90})
    looks.held = {"a"}
    (change,) = looks.look(a=RUNS, p=Sight(unplaced=True))
    assert change.model == "a"
    looks.held = {"p"}
    looks.duties.wanted("a")
    waits = Sight(unplaced=True, waiting=2)
    assert looks.look(300, a=waits, p=RUNS) == [] and not looks.duties.is_asleep("p")
    (change,) = looks.look(a=Sight(unplaced=True), p=RUNS)
    assert (change.model, change.what) == ("a", "asleep"), "nobody waits any more"


def test_one_with_requests_makes_room_after_its_turn_and_one_without_at_once() -> None:
    looks = Looks(*GROUP, sizes=SIZES)
    looks.held = {"a"}
    busy, waits = RUNS._replace(in_flight=2), Sight(unplaced=True, waiting=1)
    assert looks.look(5, a=RUNS._replace(waiting=2), b=waits) == [], "they will be its own"
    assert looks.look(5, a=busy, b=waits) == []
    assert [one.model for one in looks.look(1, a=busy, b=waits)] == ["a"]


def test_models_of_other_groups_and_further_replicas_make_nobody_sleep() -> None:
    other = model("o", swap_group="h")
    looks = Looks(*GROUP, other, sizes={**SIZES, "o": 90})
    looks.held = {"o"}
    assert looks.look(50, a=Sight(unplaced=True, waiting=1), o=RUNS) == []
    looks.held = {"b"}
    assert looks.look(50, a=Sight(running=1, unplaced=True, waiting=1), b=RUNS) == []


@pytest.mark.parametrize("seed", range(10))
def test_whoever_waits_has_its_turn_and_nobody_who_works_is_cut(seed: int) -> None:
    """A group of which one or two run at a time, for an hour, with requests at random."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d", "e"]
    sizes = {"a": 60, "b": 60, "c": 30, "d": 90, "e": 40}
    models = [model(name, swap_group="g", sleep_after=300) for name in names[:-1]]
    looks = Looks(*models, model("e", swap_group="g", pinned=True), sizes=sizes)
    sizes["d"] = 55
    state = dict.fromkeys(names, "waits")
    """waits for its place, starts, runs, leaves, sleeps"""
    begun = dict.fromkeys(names, 0.0)
    flight, waiting = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    total, longest = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    slept = 0
    for _ in range(3600):
        for name in names:
            # What carries it out.
            asleep = looks.duties.is_asleep(name)
            if state[name] in ("waits", "starts") and asleep:
                state[name] = "sleeps"
                looks.held.discard(name)
            elif state[name] == "waits" and looks.fits(name, ()):
                state[name], begun[name] = "starts", looks.now + chance.randint(1, 20)
                looks.held.add(name)
            elif state[name] == "starts" and looks.now >= begun[name]:
                state[name], flight[name], waiting[name] = "runs", waiting[name], 0
            elif state[name] == "runs" and asleep:
                state[name] = "leaves"
            elif state[name] == "leaves" and not flight[name]:
                state[name], slept = "sleeps", slept + 1
                looks.held.discard(name)
            elif state[name] == "sleeps" and not asleep:
                state[name] = "waits"
            # Its clients.
            if chance.random() < 0.01:
                total[name] += 1
                (flight if state[name] == "runs" else waiting)[name] += 1
            if flight[name] and chance.random() < 0.2:
                flight[name] -= 1
            longest[name] = longest[name] + 1 if waiting[name] else 0
            assert longest[name] < 300, f"{name} waits for ever"
        sights = {
            name: Sight(
                running=int(state[name] == "runs"),
                in_flight=flight[name],
                requests=total[name],
                waiting=waiting[name],
                starting=state[name] == "starts",
                unplaced=state[name] == "waits",
                leaving=state[name] == "leaves",
            )
            for name in names
        }
        looks.look(**sights)
        assert not looks.duties.is_asleep("e")
        assert sum(sizes[name] for name in looks.held) <= 100
    assert slept > 5
