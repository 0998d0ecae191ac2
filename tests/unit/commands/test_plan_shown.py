"""`plan`: what is printed, and the exit status; with models, facts and a backend of the test's."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpustack_fast.backends import BACKENDS, Backend, BackendError, Demand, Shape
from gpustack_fast.commands.plan import emptied, plan, report_in
from gpustack_fast.commands.planning import Plan
from gpustack_fast.errors import GpustackFastError, UsageError
from gpustack_fast.gpus.documents import Gpu, GpuReport, MigSlice
from gpustack_fast.sizing.documents import Estimate, ModelFacts, Part

GIB = 1 << 30


@dataclasses.dataclass
class Selector:
    gpu_ids: list[str]
    gpus_per_replica: int | None = None


@dataclasses.dataclass
class Model:
    """As much of a model's configuration as is read; `size` is for the backend below."""

    name: str
    size: int = 10
    gpus: int = 1
    backend: str = "sized"
    most_replicas: int = 1
    external: bool = False
    placement_strategy: str = "spread"
    gpu_selector: Selector | None = None
    swap_group: str | None = None
    pinned: bool = False


def sized(model: Any, facts: ModelFacts, count: int) -> list[Demand]:
    if model.size <= 0:
        raise BackendError("Its flags contradict each other. Correct one.")
    weights = Part(name="weights", bytes=model.size * GIB, how="\x1b[31m36 layers")
    cache = Part(name="kv_cache", bytes=GIB, how=f"of at most {count} GPUs")
    estimate = Estimate(parts=[weights, cache])
    shape = Shape(tensor=model.gpus)
    return [Demand(shape=shape, least=estimate.total, tells_share=True, estimate=estimate)]


SIZED = Backend(
    name="sized",
    check=lambda _: iter(()),
    command=BACKENDS["llama_cpp"].command,
    ready_path="/health",
    demands=sized,
)
PLAIN = dataclasses.replace(SIZED, name="plain", demands=None)


def gpu(index: int, **more: Any) -> Gpu:
    fields: dict[str, Any] = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA L4",
        "memory_total": 24 * GIB,
        "memory_used": GIB,
        "utilization": None,
        "temperature": None,
        "power": None,
        "power_limit": None,
        "compute_capability": "8.9",
        "pci_bus_id": f"00000000:0{index}:00.0",
        "numa_node": None,
        "nvlinks": [],
        "mig": False,
        "slices": [],
        "processes": None,
    }
    return Gpu(**{**fields, **more})


def report(*gpus: Gpu, problem: str = "") -> GpuReport:
    return GpuReport(driver_version="580", cuda_version="13.0", gpus=list(gpus), problem=problem)


def no_facts(_: object) -> Any:
    return None  # the backend above needs none


def run(models: list[Any], found: GpuReport, facts_of: Any = no_facts, json: bool = False) -> int:
    backends = {"sized": SIZED, "plain": PLAIN}
    return plan(models, found, facts_of, as_json=json, backends=backends)


def test_it_says_where_each_replica_would_go(capsys: pytest.CaptureFixture[str]) -> None:
    models = [Model("qwen", most_replicas=2), Model("wide", size=9, gpus=2)]
    models += [Model("none", most_replicas=0, size=0)]  # whatever is wrong with it
    assert run(models, report(gpu(0), gpu(1))) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.splitlines() == [
        "GPU 0: NVIDIA L4, 24.0 GiB: 1.0 GiB in use now, 21.0 GiB planned, 2.0 GiB free",
        "GPU 1: NVIDIA L4, 24.0 GiB: 1.0 GiB in use now, 21.0 GiB planned, 2.0 GiB free",
        "",
        "qwen, replica 1 of 2: GPU 0, 11.0 GiB, the share 0.459",
        "  tensor 1 x pipeline 1 x data 1",
        "  weights    10.0 GiB  \\x1b[31m36 layers",
        "  KV cache    1.0 GiB  of at most 2 GPUs",
        "",
        "qwen, replica 2 of 2: GPU 1, 11.0 GiB, the share 0.459",
        "  tensor 1 x pipeline 1 x data 1",
        "  weights    10.0 GiB  \\x1b[31m36 layers",
        "  KV cache    1.0 GiB  of at most 2 GPUs",
        "",
        "wide, replica 1 of 1: GPU 0 + GPU 1, 10.0 GiB each, the share 0.417",
        "  tensor 2 x pipeline 1 x data 1",
        "  weights     9.0 GiB  \\x1b[31m36 layers",
        "  KV cache    1.0 GiB  of at most 2 GPUs",
    ]


def test_a_refusal_is_told_once_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([Model("large", size=40, most_replicas=2)], report(gpu(0))) == 1
    told = capsys.readouterr().out
    assert "large, replica 1 of 2: no place. No GPU has room for it. It needs of one GPU" in told
    assert told.endswith("large, replica 2 of 2: no place, for the same reason.\n")


def test_models_that_take_turns_need_no_room_at_one_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    group = [Model(name, size=15, swap_group="one") for name in ("a", "b")]
    assert run(group, report(gpu(0))) == 0
    turn = "it sleeps until it is asked for, and then others of its swap_group do."
    assert f"b, replica 1 of 1: {turn}" in capsys.readouterr().out
    # But none of a pinned one's, nor of one of no group.
    for other in (Model("p", size=15, swap_group="one", pinned=True), Model("x", size=15)):
        assert run([other, group[0]], report(gpu(0))) == 1
    assert run([group[0], Model("b", size=40, swap_group="one")], report(gpu(0))) == 1


def test_a_model_that_cannot_be_sized_says_why_and_ends_with_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def facts_of(model: Any) -> Any:
        if model.name == "absent":
            raise GpustackFastError("Nothing is known here of it. Fetch it.")

    models = [Model("absent"), Model("wrong", size=0), Model("good")]
    assert run(models, report(gpu(0)), facts_of) == 1
    told = capsys.readouterr().out
    assert "absent: not planned. Nothing is known here of it. Fetch it." in told
    assert "wrong: not planned. Its flags contradict each other. Correct one." in told
    assert "good, replica 1 of 1: GPU 0" in told


def test_it_warns_of_models_that_run_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    models = [Model("small", backend="plain"), Model("theirs", backend="plain", external=True)]
    assert run(models, report(gpu(0))) == 0
    told = capsys.readouterr()
    assert told.err == (
        "warning: The model `small` runs without a GPU: the backend plain asks for none.\n"
    )
    assert told.out.endswith("\nWithout a GPU: small.\n") and "theirs" not in told.out


def test_without_any_gpu_it_says_why_and_asks_for_no_facts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def facts_of(_: object) -> Any:
        raise AssertionError

    assert run([Model("a")], report(problem="There is no driver. Install it."), facts_of) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "warning: There is no driver. Install it.",
        "warning: The model `a` runs without a GPU: there is none, so it starts only if its engine "
        "can do without.",
    ]
    assert told.out.startswith("No GPU.\n")


def test_while_a_driver_cannot_be_asked_nothing_is_planned_and_the_reason_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hangs = "The NVIDIA driver has not answered for 15 s (its start)."
    there = msgspec.structs.replace(report(problem=hangs), driver_version=None, unread=True)
    assert run([Model("a"), Model("small", backend="plain")], there) == 1
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        f"warning: {hangs}",
        "warning: The model `small` runs without a GPU: the backend plain asks for none.",
    ]
    assert told.out.startswith("No GPU could be read.\n")
    assert f"a: not planned. {hangs}\n" in told.out and "there is none" not in told.out
    assert run([Model("a")], there, json=True) == 1
    assert msgspec.json.decode(capsys.readouterr().out, type=Plan).not_planned == {"a": hangs}
    partly = msgspec.structs.replace(there, gpus=[gpu(0)])
    assert run([Model("a")], partly) == 0, "what can be seen is planned with"
    assert hangs in capsys.readouterr().err


def test_the_gpus_that_a_model_may_have_bound_how_it_is_divided(
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = [Model("a", gpu_selector=Selector(["1", "GPU-2"]))]
    assert run(models, report(*(gpu(n) for n in range(4)))) == 0
    assert "a, replica 1 of 1: GPU 1, 11.0 GiB" in (told := capsys.readouterr().out)
    assert "of at most 2 GPUs" in told


def test_slices_and_broken_gpus_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    part = MigSlice(uuid="MIG-7", name="1g.12gb", memory_total=12 * GIB, memory_used=0)
    divided = gpu(0, name="NVIDIA H100", mig=True, slices=[part])
    assert run([Model("a")], report(divided, gpu(1, problem="It fell off the bus."))) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == (
        "slice MIG-7 of GPU 0: NVIDIA H100 1g.12gb, 12.0 GiB: 0 MiB in use now, 11.0 GiB planned, "
        "1020 MiB free"
    )
    assert second == "GPU 1: NVIDIA L4, 24.0 GiB. It cannot be used: It fell off the bus."


def test_the_json_has_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    models = [Model("a"), Model("large", size=40), Model("b", backend="plain"), Model("c", size=0)]
    assert run(models, report(gpu(0)), json=True) == 1
    found = msgspec.json.decode(capsys.readouterr().out, type=Plan)
    assert [one.uuid for one in found.devices] == ["GPU-0"]
    a, large = found.replicas
    assert a.placement is not None and a.placement.claims[0].uuid == "GPU-0"
    assert a.placement.estimate is not None and a.refusal is None
    assert large.placement is None and "GPU 0 lacks" in (large.refusal or "")
    assert list(found.without_gpu) == ["b"] and list(found.not_planned) == ["c"]


def test_gpus_come_from_a_file_from_standard_input_or_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = report(gpu(0, slices=[]))
    written = msgspec.json.encode(there)
    (tmp_path / "gpus.json").write_bytes(written)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written)))
    for given in (str(tmp_path / "gpus.json"), "-", written.decode()):
        assert report_in(given) == there


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("/nowhere/gpus.json", "cannot be read: No such file"),
        ('{"gpus": 1}', "is not what `gpustack-fast gpus --json` prints"),
        ("{", "is not what `gpustack-fast gpus --json` prints"),
    ],
)
def test_wrong_gpus_are_a_mistake_of_whoever_types(given: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        report_in(given)


def test_emptied_gpus_are_as_if_nothing_ran() -> None:
    part = MigSlice(uuid="MIG-7", name="1g.12gb", memory_total=12 * GIB, memory_used=None)
    found = emptied(report(gpu(0, memory_used=None), gpu(1, mig=True, slices=[part])))
    assert found.gpus[0].memory_used == 0
    assert found.gpus[1].slices[0].memory_used == 0
