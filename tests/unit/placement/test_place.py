"""Placing: what holds for every machine and every wish, and what is preferred."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placing import (
    GIB,
    demand,
    device,
    fits_somewhere,
    kept_on,
    machines,
    placed,
    promised,
    refused,
    uuids,
    wanted,
    wishes,
)

from gpustack_fast.backends.demand import Shape
from gpustack_fast.placement import (
    Claim,
    Device,
    Placement,
    Refusal,
    Wanted,
    most_gpus,
    place,
)


@given(st.data(), machines(), wishes())
def test_no_byte_is_promised_twice(
    data: st.DataObject, devices: list[Device], asked: list[Wanted]
) -> None:
    kept = data.draw(kept_on(devices))
    before = msgspec.json.encode(kept)
    answers = place(asked, devices, kept)
    assert msgspec.json.encode(kept) == before
    held = promised([*kept, *answers])
    for one in devices:
        assert held.get(one.uuid, 0) <= one.total - one.foreign
    for wish, answer in zip(asked, answers, strict=True):
        assert (answer.model, answer.number) == (wish.model, wish.number)
        if isinstance(answer, Placement):
            check_placement(wish, answer, devices)


def check_placement(wish: Wanted, answer: Placement, devices: list[Device]) -> None:
    """It is one of the demands, on GPUs that may be taken, and what the engine takes."""
    by_uuid = {one.uuid: one for one in devices}
    on = [by_uuid[claim.uuid] for claim in answer.claims]
    assert len({one.uuid for one in on}) == len(on) == answer.shape.gpus
    assert not any(one.problem for one in on)
    assert len(on) == 1 or not any(one.slice for one in on)
    if wish.gpu_ids:
        assert all({one.uuid, str(one.index)} & set(wish.gpu_ids) for one in on)
    sizes = [claim.bytes for claim in answer.claims]
    assert any(
        this.shape == answer.shape
        and (answer.share is None or sizes == _told(answer.share, on, this.beside))
        and this.tells_share == (answer.share is not None)
        and (not this.tells_share or this.share in (None, answer.share))
        and min(sizes) >= this.least
        and all(
            size >= math.ceil(one.total * (this.share or 0))
            for size, one in zip(sizes, on, strict=True)
        )
        for this in wish.demands
    )


def _told(share: float, on: list[Device], beside: int) -> list[int]:
    return [math.ceil(one.total * float(f"{share}")) + beside for one in on]


@given(st.data(), machines(), wishes())
def test_the_answer_does_not_depend_on_any_order(
    data: st.DataObject, devices: list[Device], asked: list[Wanted]
) -> None:
    kept = data.draw(kept_on(devices))
    answers = place(asked, devices, kept)
    assert place(asked, devices, kept) == answers
    assert place(asked, data.draw(st.permutations(devices)), kept) == answers
    order = data.draw(st.permutations(range(len(asked))))
    assert place([asked[at] for at in order], devices, kept) == [answers[at] for at in order]


@settings(max_examples=400)
@given(st.data(), machines(), wishes(most=1))
def test_one_model_is_refused_only_where_nothing_fits(
    data: st.DataObject, devices: list[Device], asked: list[Wanted]
) -> None:
    kept = data.draw(kept_on(devices))
    (answer,) = place(asked, devices, kept)
    assert isinstance(answer, Placement) == fits_somewhere(asked[0], devices, kept)


def test_two_small_models_share_a_gpu() -> None:
    asked = [wanted("a", demand(10 * GIB)), wanted("b", demand(12 * GIB))]
    a, b = (placed(one) for one in place(asked, [device(0, 24 * GIB, foreign=GIB)], []))
    assert (a.share, b.share) == (0.417, 0.5)
    assert a.claims[0].bytes == math.ceil(24 * GIB * 0.417)


def test_what_an_engine_takes_beside_its_share_is_claimed_and_not_told() -> None:
    asked = [wanted(name, demand(12 * GIB, beside=GIB // 2)) for name in "ab"]
    a, b = (placed(one) for one in place(asked, [device(0, 26 * GIB)], []))
    assert a.share == b.share == 0.443
    assert a.claims[0].bytes == math.ceil(26 * GIB * 0.443) + GIB // 2
    # Nobody can have all of a GPU.
    whole = wanted("a", demand(10 * GIB, share=1.0, beside=GIB // 2))
    (one,) = place([whole], [device(0)], [])
    assert "the share 1 that is set with 512 MiB beside it, and 10.0 GiB at least" in refused(one)
    assert "GPU 0 lacks 512 MiB. A share of 0.993 at most would fit there." in refused(one)


def test_a_users_share_is_told_as_it_was_written() -> None:
    (one,) = place([wanted("a", demand(10 * GIB, share=0.92345))], [device(0)], [])
    assert placed(one).share == 0.92345
    assert placed(one).claims[0].bytes == math.ceil(80 * GIB * 0.92345)


def test_an_engine_that_is_told_nothing_has_what_it_needs_and_no_share() -> None:
    (one,) = place([wanted("a", demand(10 * GIB, 2, tells=False))], [device(0), device(1)], [])
    assert placed(one).share is None
    assert [claim.bytes for claim in placed(one).claims] == [10 * GIB] * 2


def test_the_preferred_way_is_taken_if_it_fits_and_the_next_if_not() -> None:
    asked = [wanted("a", demand(90 * GIB), demand(50 * GIB, 2), demand(30 * GIB, 4))]
    (one,) = place(asked, [device(n) for n in range(4)], [])
    assert placed(one).shape == Shape(tensor=2)


def test_spread_takes_the_gpu_with_the_fewest_instances_and_binpack_the_fullest() -> None:
    devices = [device(n) for n in range(3)]
    small = demand(5 * GIB)
    spread = place([wanted("a", small, number=n) for n in range(3)], devices, [])
    assert sorted(uuid for one in spread for uuid in uuids(one)) == ["GPU-0", "GPU-1", "GPU-2"]
    binpack = place(
        [wanted("a", small, number=n, strategy="binpack") for n in range(3)], devices, []
    )
    assert {uuid for one in binpack for uuid in uuids(one)} == {"GPU-0"}


def test_replicas_of_one_model_part_before_they_join_a_fuller_gpu() -> None:
    kept = [
        Placement(model="a", number=0, shape=Shape(), claims=[claim], share=None)
        for claim in [Claim(uuid="GPU-0", bytes=GIB)]
    ] + [
        Placement(model="b", number=n, shape=Shape(), claims=[claim], share=None)
        for n, claim in enumerate([Claim(uuid="GPU-1", bytes=GIB)] * 3)
    ]
    (one,) = place([wanted("a", demand(GIB), number=1)], [device(0), device(1)], kept)
    assert uuids(one) == ["GPU-1"]


@pytest.mark.parametrize("strategy", ["spread", "binpack"])
def test_an_instance_stays_on_one_island_where_it_can(strategy: str) -> None:
    devices = [device(n, island=n % 2, foreign=n * GIB) for n in range(8)]
    asked = [wanted("a", demand(60 * GIB, 4), strategy=strategy)]
    (one,) = place(asked, devices, [])
    assert {int(uuid[4:]) % 2 for uuid in uuids(one)} == {0 if strategy == "spread" else 1}


def test_one_island_counts_more_than_one_size() -> None:
    devices = [device(0, island=0), device(1, 141 * GIB, island=0), device(2, island=2)]
    (one,) = place([wanted("a", demand(60 * GIB, 2))], devices, [])
    assert uuids(one) == ["GPU-0", "GPU-1"]
    # One share for both: of the larger it is more than is needed, and so it is claimed.
    assert placed(one).share == 0.75
    assert [claim.bytes for claim in placed(one).claims] == [60 * GIB, math.ceil(141 * GIB * 0.75)]


def test_a_gpu_that_is_too_small_sets_no_share_for_others() -> None:
    devices = [device(0, 24 * GIB), device(1), device(2, 141 * GIB)]
    (one,) = place([wanted("a", demand(60 * GIB, 2))], devices, [])
    assert (uuids(one), placed(one).share) == (["GPU-1", "GPU-2"], 0.75)


def test_an_instance_on_two_islands_has_the_gpus_of_each_side_by_side() -> None:
    devices = [device(n, island=n % 2) for n in range(4)]
    (one,) = place([wanted("a", demand(60 * GIB, 4))], devices, [])
    assert uuids(one) == ["GPU-0", "GPU-2", "GPU-1", "GPU-3"]


def test_a_slice_is_for_one_gpu_alone() -> None:
    slices = [device(0, 20 * GIB, uuid=f"MIG-{n}", slice=True) for n in range(2)]
    one, two = place([wanted("a", demand(GIB)), wanted("b", demand(GIB, 2))], slices, [])
    assert uuids(one)[0].startswith("MIG-")
    assert (
        "Of the 2 GPUs that it asks for 0 can be used, for MIG slices cannot be joined"
        in refused(two)
    )


def test_the_index_of_a_divided_gpu_means_its_slices() -> None:
    devices = [
        device(0),
        *(device(1, 20 * GIB, uuid=f"MIG-{n}", slice=True) for n in range(2)),
        device(2),
    ]
    ids = (["1"], ["GPU-2"], ["worker-1:cuda:2"], ["002"], ["00"])
    asked = [wanted(f"m{n}", demand(GIB), gpu_ids=named) for n, named in enumerate(ids)]
    assert [uuids(one) for one in place(asked, devices, [])] == [
        ["MIG-0"],
        *[["GPU-2"]] * 3,
        ["GPU-0"],
    ]


def test_large_ones_come_first_whatever_the_order() -> None:
    devices = [device(n) for n in range(2)]
    asked = [wanted(f"s{n}", demand(20 * GIB)) for n in range(4)]
    asked += [wanted("large", demand(80 * GIB))]
    for _ in range(5):
        random.Random(1).shuffle(asked)
        assert not any(isinstance(one, Refusal) for one in place(asked, devices, []))


def test_one_that_may_have_a_few_gpus_alone_comes_before_all_others() -> None:
    asked = [wanted("large", demand(60 * GIB)), wanted("small", demand(30 * GIB))]
    asked += [wanted("chosen", demand(55 * GIB), gpu_ids=["0"])]
    large, small, chosen = place(asked, [device(n) for n in range(3)], [])
    assert uuids(chosen) == ["GPU-0"]
    assert sorted(uuids(large) + uuids(small)) == ["GPU-1", "GPU-2"]


def test_where_not_all_fit_every_model_has_one_before_any_has_two() -> None:
    asked = [*(wanted("large", demand(70 * GIB), number=n) for n in range(2))]
    asked += [wanted("small", demand(20 * GIB))]
    first, second, small = place(asked, [device(0), device(1)], [])
    assert uuids(first) != uuids(small)
    assert "GPU 1 lacks" in refused(second) or "GPU 0 lacks" in refused(second)


def test_where_not_all_fit_as_few_as_can_be_are_refused() -> None:
    asked = [
        wanted("wide", demand(70 * GIB, 2)),
        *(wanted(f"m{n}", demand(60 * GIB)) for n in (1, 2)),
    ]
    wide, *others = place(asked, [device(0), device(1)], [])
    assert refused(wide) and sorted(uuids(one) for one in others) == [["GPU-0"], ["GPU-1"]]


def test_a_gpu_that_has_a_problem_is_left_out_and_named() -> None:
    (one,) = place([wanted("a", demand(GIB))], [device(3, problem="It fell off the bus.")], [])
    assert "GPU 3, which cannot be used (It fell off the bus)" in refused(one)


def test_what_others_hold_stays_theirs_whatever_is_promised() -> None:
    asked = [wanted(name, demand(20 * GIB, tells=False)) for name in "abc"]
    a, b, c = place(asked, [device(0, foreign=30 * GIB)], [])
    assert uuids(a) == uuids(b) == ["GPU-0"]
    assert "GPU 0 with 10.0 GiB free of 80.0 GiB (30.0 GiB held by other processes" in refused(c)


def test_a_gpu_without_memory_is_none() -> None:
    for share in (None, 0.5):
        (one,) = place([wanted("a", demand(0, share=share))], [device(0, 0)], [])
        assert "GPU 0, which cannot be used (it has no memory)" in refused(one)


def test_over_how_many_gpus_one_could_be_divided_goes_by_whole_ones_that_are_well() -> None:
    slices = [device(4, 20 * GIB, uuid=f"MIG-{n}", slice=True) for n in range(2)]
    machine = [device(0), device(1), device(2, problem="It is lost."), device(3, 0), *slices]
    assert most_gpus(machine, []) == 2
    assert most_gpus(machine, ["1", "2", "MIG-0"]) == 1
    assert most_gpus(slices, []) == most_gpus([], []) == 1, "one is always tried"


def test_what_is_kept_on_a_gpu_that_has_gone_stands_in_nobodys_way() -> None:
    claim = Claim(uuid="GPU-9", bytes=80 * GIB)
    gone = Placement(model="a", number=0, shape=Shape(), claims=[claim], share=None)
    (one,) = place([wanted("b", demand(80 * GIB))], [device(0)], [gone])
    assert placed(one).share == 1.0
