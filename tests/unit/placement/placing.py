"""What tests of placement share: devices, demands, and a search that tries everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hypothesis import strategies as st

from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.placement import Claim, Device, Placement, Refusal, Wanted

GIB = 1 << 30
KINDS = ("spread", "binpack")


def device(index: int, total: int = 80 * GIB, **more: object) -> Device:
    fields = {"uuid": f"GPU-{index}", "index": index, "total": total, "foreign": 0, "island": 0}
    return Device(**{**fields, **more})  # type: ignore[arg-type]


def demand(
    least: int, gpus: int = 1, share: float | None = None, tells: bool = True, beside: int = 0
) -> Demand:
    shape = Shape(tensor=gpus)
    return Demand(shape=shape, least=least, share=share, tells_share=tells, beside=beside)


def wanted(model: str, *demands: Demand, number: int = 0, **more: object) -> Wanted:
    return Wanted(model=model, number=number, demands=list(demands), **more)  # type: ignore[arg-type]


def placed(answer: Placement | Refusal) -> Placement:
    assert isinstance(answer, Placement), answer
    return answer


def refused(answer: Placement | Refusal) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.message


def uuids(answer: Placement | Refusal) -> list[str]:
    return [claim.uuid for claim in placed(answer).claims]


def promised(placements: Sequence[Placement | Refusal]) -> dict[str, int]:
    """Bytes by device."""
    sums: dict[str, int] = {}
    for one in placements:
        for claim in one.claims if isinstance(one, Placement) else ():
            sums[claim.uuid] = sums.get(claim.uuid, 0) + claim.bytes
    return sums


def fits_somewhere(one: Wanted, devices: Sequence[Device], kept: Sequence[Placement]) -> bool:
    """Whether any demand fits any set of devices, with any share that may be written."""
    held = promised(kept)
    usable = [
        (this.total, this.total - this.foreign - held.get(this.uuid, 0), this.slice)
        for this in devices
        if not this.problem and (not one.gpu_ids or {this.uuid, str(this.index)} & set(one.gpu_ids))
    ]
    return any(
        _fits(asked, group)
        for asked in one.demands
        for group in itertools.combinations(usable, asked.shape.gpus)
    )


def _fits(asked: Demand, group: Sequence[tuple[int, int, bool]]) -> bool:
    if len(group) > 1 and any(part for _, _, part in group):
        return False
    if not asked.tells_share:
        share = asked.share or 0.0
        return all(max(asked.least, math.ceil(total * share)) <= free for total, free, _ in group)
    smallest = min(total for total, _, _ in group)
    shares = [step / 1000 for step in range(1, 1001)]
    if asked.share is not None:  # the engine has it from the user, and gets no other
        shares = [asked.share]
    return any(
        math.ceil(smallest * share) + asked.beside >= asked.least
        and all(math.ceil(total * share) + asked.beside <= free for total, free, _ in group)
        for share in shares
    )


SIZES = (24 * GIB, 80 * GIB - 12345, 141 * GIB + 77)


@st.composite
def machines(draw: st.DrawFn) -> list[Device]:
    """One to eight GPUs, of one or several sizes, some in use, some broken, some divided."""
    found: list[Device] = []
    sizes = draw(st.sampled_from([SIZES, SIZES[:1], SIZES[1:2]]))
    for index in range(draw(st.integers(1, 8))):
        total = draw(st.sampled_from(sizes))
        island = draw(st.integers(0, 2))
        problem = draw(st.sampled_from(["", "", "", "", "It is lost."]))
        if draw(st.integers(0, 5)) == 0:
            found += [
                device(index, total // 4, uuid=f"MIG-{index}-{n}", slice=True, island=island)
                for n in range(2)
            ]
            continue
        foreign = draw(st.one_of(st.just(0), st.integers(0, total)))
        found.append(device(index, total, foreign=foreign, island=island, problem=problem))
    return found


def demands() -> st.SearchStrategy[Demand]:
    return st.builds(
        demand,
        st.integers(0, 150 * GIB) | st.integers(1, 24 * GIB),
        st.sampled_from([1, 1, 1, 2, 3, 4, 8]),
        st.sampled_from([None, None, 0.3, 0.5, 0.92, 0.3333]),
        st.booleans(),
        st.sampled_from([0, GIB // 2]),
    )


@st.composite
def wishes(draw: st.DrawFn, most: int = 6) -> list[Wanted]:
    ids = st.sampled_from(["0", "1", "2", "GPU-0", "GPU-3", "MIG-1-0"])
    return [
        wanted(
            draw(st.sampled_from("abc")),
            *draw(st.lists(demands(), max_size=3)),
            number=number,
            strategy=draw(st.sampled_from(KINDS)),
            gpu_ids=draw(st.one_of(st.just([]), st.lists(ids, max_size=3))),
        )
        for number in range(draw(st.integers(1, most)))
    ]


@st.composite
def kept_on(draw: st.DrawFn, devices: Sequence[Device]) -> list[Placement]:
    """What runs already, within what there is."""
    found: list[Placement] = []
    for number, one in enumerate(devices):
        if draw(st.booleans()):
            size = draw(st.integers(0, max(0, one.total - one.foreign)))
            claim = Claim(uuid=one.uuid, bytes=size)
            model = draw(st.sampled_from("abz"))
            found.append(
                Placement(
                    model=model, number=100 + number, shape=Shape(), claims=[claim], share=None
                )
            )
    return found
