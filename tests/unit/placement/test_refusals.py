"""The text of a refusal: what was needed, what there was, the nearest miss, what to change."""

from __future__ import annotations

from placing import GIB, demand, device, placed, refused, wanted

from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.placement import Claim, Placement, Wanted, place
from gpustack_fast.sizing.documents import Estimate, Part


def estimated(gpus: int, **sizes: int) -> Demand:
    parts = [Part(name=name, bytes=size * GIB, how="") for name, size in sizes.items()]
    estimate = Estimate(parts=parts)
    shape = Shape(tensor=gpus)
    return Demand(shape=shape, least=estimate.total, tells_share=True, estimate=estimate)


def kept(uuid: str, size: int, model: str = "other") -> Placement:
    claim = Claim(uuid=uuid, bytes=size)
    return Placement(model=model, number=0, shape=Shape(), claims=[claim], share=None)


def test_it_says_all_that_somebody_needs() -> None:
    asked = Wanted(
        model="a",
        number=0,
        demands=[estimated(1, weights=60, kv_cache=25), estimated(2, weights=30, kv_cache=13)],
    )
    devices = [device(0, foreign=10 * GIB), device(1)]
    (one,) = place([asked], devices, [kept("GPU-1", 50 * GIB)])
    assert refused(one) == (
        "No GPU has room for it. "
        "It needs of one GPU 85.0 GiB (weights 60.0 GiB, KV cache 25.0 GiB); or 2 GPUs (tensor 2), "
        "of each 43.0 GiB (weights 30.0 GiB, KV cache 13.0 GiB). "
        "There is: GPU 0 with 70.0 GiB free of 80.0 GiB (10.0 GiB held by other processes, 0 MiB "
        "promised); GPU 1 with 30.0 GiB free of 80.0 GiB (0 MiB held by other processes, 50.0 GiB "
        "promised). "
        "The nearest miss: of 2 GPUs 1 has room, and GPU 1 lacks 13.0 GiB. "
        "There would be room if the models lay closer: give those that are spread "
        '`placement_strategy = "binpack"`. '
        "Ask for a shorter context or fewer concurrent sequences, take a quantised model, or "
        "another GPU."
    )


def test_of_each_shape_it_tells_the_least() -> None:
    demands = [estimated(1, weights=90, kv_cache=size) for size in (40, 10)]
    (one,) = place([Wanted(model="a", number=0, demands=demands)], [device(0)], [])
    assert "It needs of one GPU 100.0 GiB (weights 90.0 GiB, KV cache 10.0 GiB)." in refused(one)
    assert "GPU 0 lacks 20.0 GiB" in refused(one)


def test_it_says_which_change_would_do() -> None:
    (one,) = place(
        [wanted("a", estimated(1, weights=60, kv_cache=25))], [device(0, foreign=2 * GIB)], []
    )
    assert "GPU 0 lacks 7.0 GiB" in refused(one)
    assert "A shorter context or fewer concurrent sequences would do" in refused(one)
    assert "End the other processes" not in refused(one)


def test_it_names_processes_of_others_where_they_are_in_the_way() -> None:
    (one,) = place([wanted("a", demand(60 * GIB))], [device(0, foreign=30 * GIB)], [])
    assert "Free what others hold of GPU 0: `gpustack-fast gpus` and" in refused(one)
    assert "Lower the memory that is set for it" in refused(one)


def test_it_says_that_other_models_are_in_the_way() -> None:
    devices = [device(0), device(1)]
    others = [kept(f"GPU-{n}", 50 * GIB) for n in range(2)]
    (one,) = place([wanted("a", demand(40 * GIB, 2))], devices, others)
    assert "of 2 GPUs none has room, and GPU 1 lacks 10.0 GiB." in refused(one)
    assert "Other models have what it lacks" in refused(one)


def test_it_says_which_share_would_fit() -> None:
    asked = wanted("a", demand(10 * GIB, share=0.9))
    (one,) = place([asked], [device(0, foreign=20 * GIB)], [])
    assert "It needs of one GPU the share 0.9 that is set, and 10.0 GiB at least" in refused(one)
    assert "A share of 0.75 at most would fit there." in refused(one)


def test_a_users_share_that_does_not_hold_what_it_needs_is_refused_with_one_that_does() -> None:
    """However much is free: its engine is told the user's own share, and no larger one."""
    asked = wanted("a", demand(20 * GIB, share=0.05, beside=GIB // 2))
    (one,) = place([asked], [device(0)], [])
    assert "the share 0.05 that is set with 512 MiB beside it, and 20.0 GiB at least" in refused(
        one
    )
    assert (
        "The share 0.05 of GPU 0 is 4.0 GiB: 15.5 GiB less than it needs. Set a share of 0.244 "
        in (refused(one))
    )
    assert "at least, or none: then it gets what it needs." in refused(one)
    assert "sets GPUSTACK_MODEL_VRAM_CLAIM in its `env`." in refused(one)
    larger = wanted("a", demand(20 * GIB, share=0.244, beside=GIB // 2))
    assert placed(place([larger], [device(0)], [])[0]).share == 0.244
    (small,) = place([wanted("a", demand(20 * GIB, share=0.5))], [device(0, 16 * GIB)], [])
    assert "is 8.0 GiB: 12.0 GiB less than it needs. Not even all of it would do." in refused(small)


def test_it_says_that_others_would_do_where_some_were_named() -> None:
    asked = wanted("a", demand(60 * GIB), gpu_ids=["0"])
    (one,) = place([asked], [device(0, foreign=79 * GIB), device(1)], [])
    assert "GPU 1, which is not among its gpu_ids" in refused(one)
    assert "Other GPUs have room for it: add them to `gpu_ids`, or leave that out." in refused(one)


def test_it_says_where_nothing_was_read() -> None:
    (one,) = place([wanted("a", demand(GIB))], [], [])
    assert refused(one) == (
        "No GPU has room for it. It needs of one GPU 1.0 GiB (as is set). "
        "There is none: `gpustack-fast gpus` says why."
    )


def test_it_stays_readable_on_a_large_machine() -> None:
    slices = [device(n // 7, 10 * GIB, uuid=f"MIG-{n}", slice=True) for n in range(56)]
    (one,) = place([wanted("a", demand(20 * GIB))], slices, [])
    assert "and 40 more" in refused(one)
    assert "slice MIG-0 of GPU 0 lacks 10.0 GiB" in refused(one)
