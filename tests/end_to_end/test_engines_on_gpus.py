"""Engines on GPUs, behind the whole product: the driver is a stand-in, all else is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import ENDED_WITHIN, STARTED_WITHIN, ServedRouter, alive, cli, serving
from nvml.stand_in import GIB, StandIn, StandInGpu, StandInSlice, joined
from raw_http import eventually

ENGINE = Path(__file__).parents[1] / "gpu_engine.py"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, as far as its size goes by it."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    (folder / "model.safetensors").write_bytes(data)
    return folder


def model(files: Path, name: str, claim: int, *orders: str, more: str = "") -> str:
    """A model whose engine claims, and holds, so many GiB of its GPU."""
    settings = {
        "name": name,
        "backend": "custom",
        "source": "local_path",
        "local_path": str(files),
        "run_command": f"{sys.executable} {ENGINE} {{{{port}}}}",
        "backend_parameters": [str(claim), *orders],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    claims = f'env = {{ GPUSTACK_MODEL_VRAM_CLAIM = "{claim * GIB}" }}'
    return "\n".join(["[[models]]", *lines, claims, more, ""])


@contextmanager
def machine(nvml: StandIn, *models: str) -> Iterator[ServedRouter]:
    with serving("\n".join(models), wait=False, environment=nvml.environment) as server:
        until_shown(server)
        yield server
        assert server.stop() == 0, server.output()
        assert [pid for pid in holders(nvml) if alive(pid)] == [], "no process is left behind"
        assert list((server.data_dir / "run" / "instances").iterdir()) == []
        assert not any(size for size in used(server).values()), "no memory is left behind"


def instances(server: ServedRouter) -> dict[str, dict[str, Any]]:
    """The instances by their models, which have one each."""
    return {one["name"]: instance for one in server.models() for instance in one["instances"]}


def until_shown(server: ServedRouter) -> None:
    """Until there are instances to be asked for."""
    server.wait_until_alive()

    def shown() -> bool:
        return server.request("GET", "/v2/models").status == 200 and bool(instances(server))

    eventually(shown, "instances are shown", ENDED_WITHIN)


def state(server: ServedRouter, name: str) -> str:
    one = instances(server).get(name)
    return "" if one is None else one["state"]


def message(server: ServedRouter, name: str) -> str:
    said: str = instances(server)[name]["state_message"]
    return said


def until(server: ServedRouter, name: str, wanted: str, text: str = "") -> None:
    def there() -> bool:
        return state(server, name) == wanted and text in message(server, name)

    try:
        eventually(there, f"{name} is {wanted} ({text})", STARTED_WITHIN)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{instances(server)}\n{server.output()}") from None


def run(server: ServedRouter, *arguments: str) -> str:
    """What a command prints beside the server."""
    environment = {**server.environment, "GPUSTACK_FAST_DATA_DIR": str(server.data_dir)}
    done = subprocess.run(
        [*cli(), *arguments],
        capture_output=True,
        text=True,
        timeout=ENDED_WITHIN,
        env=environment,
        check=True,
    )
    return done.stdout


def gpus(server: ServedRouter) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(server, "gpus", "--json"))["gpus"]
    return found


def used(server: ServedRouter) -> dict[int, int]:
    """GiB that processes hold, by the index of the GPU; without those whose GPU is lost."""
    return {
        one["index"]: sum(process["memory"] for process in one["processes"]) // GIB
        for one in gpus(server)
        if one["processes"] is not None
    }


def holders(nvml: StandIn) -> dict[int, str]:
    """The processes that have ever booked memory, each with the last of its devices."""
    lines = Path(f"{nvml.state}.procs").read_text().splitlines()
    return {int(line.split()[1]): line.split()[0] for line in lines}


def test_models_share_gpus_and_slices_and_what_finds_no_room_waits(
    nvml: StandIn, files: Path
) -> None:
    slices = [StandInSlice(0), StandInSlice(1, gi=2)]
    whole, divided = StandInGpu(0, total=80 * GIB), StandInGpu(1, mig=1, slices=slices)
    nvml.write([whole, divided])
    on_slices = 'gpu_selector = { gpu_ids = ["1"] }'
    models = [
        model(files, "large", 50, "freed-after=2", more="restart_on_error = false"),
        model(files, "early", 30),
        model(files, "late", 30),
        model(files, "m", 12, more=on_slices),
        model(files, "n", 12, more=on_slices),
    ]
    with machine(nvml, *models) as server:
        for name in ("large", "early", "m", "n"):
            until(server, name, "running")
        until(server, "late", "pending", "No GPU has room for it. It needs of one GPU 30.0 GiB")
        assert "No GPU has room for it" in run(server, "status")
        assert "Not ready: late; the lines above say why." in server.output()
        first = {name: one["pid"] for name, one in instances(server).items()}
        assert_shown(server, whole, divided, first)

        # What a dead engine held is not free at once, and nobody is started on it before.
        os.kill(first["large"], signal.SIGKILL)
        until(server, "late", "pending", "50.0 GiB held by other processes, 30.0 GiB promised")
        until(server, "late", "running")
        until(server, "large", "error", "not started again")
        assert used(server) == {0: 60, 1: 24}

        # The next start after a `kill -9` of the server promises no byte twice: what runs goes on
        # at its place, and what has ended finds none: it was given to another meanwhile.
        names = ("late", "early", "m", "n")
        before = {name: instances(server)[name]["pid"] for name in names}
        server.process.kill()
        server.process.wait()
        server.start()
        until_shown(server)
        for name in names:
            until(server, name, "running")
        until(server, "large", "pending", "0 MiB held by other processes, 60.0 GiB promised")
        assert {name: instances(server)[name]["pid"] for name in names} == before
        assert used(server) == {0: 60, 1: 24}
        (holder,) = [one["instances"] for one in gpus(server) if one["index"] == 0]
        assert sorted(holder) == sorted(instances(server)[name]["name"] for name in names[:2])


def assert_shown(
    server: ServedRouter, whole: StandInGpu, divided: StandInGpu, pids: dict[str, int]
) -> None:
    """That `gpustack-fast gpus` shows which instance holds what, and CUDA is told the same."""
    names = {name: one["name"] for name, one in instances(server).items()}
    shared, parted = gpus(server)
    assert sorted(shared["instances"]) == sorted([names["large"], names["early"]])
    assert {one["pid"] for one in shared["processes"]} == {pids["large"], pids["early"]}
    given = [one["instances"] for one in parted["slices"]]
    assert sorted(given) == sorted([[names["m"]], [names["n"]]])
    seen = {name: environment(pid)["CUDA_VISIBLE_DEVICES"] for name, pid in pids.items() if pid}
    assert seen["large"] == seen["early"] == "0"
    assert sorted([seen["m"], seen["n"]]) == sorted(one.uuid for one in divided.slices)
    assert names["m"] in run(server, "gpus")


def environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def test_engines_are_spread_and_go_with_their_gpu(nvml: StandIn, files: Path) -> None:
    four = joined(4)
    for one in four:
        one.total = 80 * GIB
    nvml.write(four)
    large = model(files, "large", 70, "escape")
    small = [model(files, name, 30) for name in "abc"]
    with machine(nvml, large, *small) as server:
        for name in ("large", *"abc"):
            until(server, name, "running")
        assert sorted(used(server).values()) == [30, 30, 30, 70], "each has a GPU of its own"

        # Memory that a process outside of its session holds goes before its GPU counts as free.
        escaped, uuid = holder_of(server, nvml, "large")
        leader = instances(server)["large"]["pid"]
        assert escaped != leader and os.getsid(escaped) == escaped
        os.kill(leader, signal.SIGKILL)
        eventually(
            lambda: instances(server)["large"]["pid"] not in (leader, None), "it starts again"
        )
        assert not alive(escaped)
        until(server, "large", "running")
        assert holder_of(server, nvml, "large")[1] == uuid

        # A GPU that reports its failure: there is no other with room.
        nvml.xid(uuid, 79)
        until(server, "large", "pending", "fallen off the bus (Xid 79)")
        ended = f"The engine is ended: its GPU {uuid} has failed. The GPU has reported"
        assert ended in server.output() and ended in run(server, "status")
        assert used(server)[index_of(four, uuid)] == 0
        failed = gpus(server)[index_of(four, uuid)]
        assert "Xid 79" in failed["problem"], "though the driver calls it well"

        # One that is lost without a word: its engine goes to another with room.
        before = instances(server)["a"]
        lost = index_of(four, holder_of(server, nvml, "a")[1])
        four[lost].lost = True
        nvml.write(four)
        eventually(
            lambda: instances(server)["a"]["name"] != before["name"], "it ends", ENDED_WITHIN
        )
        until(server, "a", "running")
        assert "does not respond any more" in run(server, "status")
        other = index_of(four, holder_of(server, nvml, "a")[1])
        assert other not in (lost, index_of(four, uuid)) and not alive(before["pid"])
        assert used(server)[other] == 60


def change(server: ServedRouter, *models: str) -> None:
    before = len(server.output())
    server.config.write_text("\n".join(models))
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "Reloaded. Changed: " in server.output()[before:], "the reload")


def running(server: ServedRouter) -> list[int]:
    """The processes of the instances that run."""
    return [
        one["pid"]
        for each in server.models()
        for one in each["instances"]
        if one["state"] == "running"
    ]


def test_an_edit_goes_one_at_a_time_where_there_is_no_room_for_a_surge(
    nvml: StandIn, files: Path
) -> None:
    nvml.write([StandInGpu(0, total=80 * GIB)])

    def edited(number: int, claim: int = 30) -> str:
        text = model(files, "m", claim, more="replicas = 2")
        return text.replace("env = {", f'env = {{ EDIT = "{number}",')

    def edits(server: ServedRouter) -> set[str]:
        return {environment(pid)["EDIT"] for pid in running(server)}

    with machine(nvml, edited(1)) as server:
        eventually(lambda: len(running(server)) == 2, "both run", STARTED_WITHIN)
        first = running(server)
        change(server, edited(2))
        seen = set()

        def rolled() -> bool:
            seen.add(len(running(server)))
            return len(running(server)) == 2 and edits(server) == {"2"}

        eventually(rolled, "both are replaced", STARTED_WITHIN)
        assert seen == {1, 2}, "one at a time"
        assert not any(map(alive, first))

        # What could have no place, whoever goes, takes nobody's.
        second = running(server)
        change(server, edited(3, claim=90))
        eventually(
            lambda: any(
                "No GPU has room for it" in one["state_message"]
                for one in server.models()[0]["instances"]
            ),
            "the new one waits",
            STARTED_WITHIN,
        )
        assert running(server) == second
        change(server, edited(4))
        eventually(lambda: len(running(server)) == 2 and edits(server) == {"4"}, "all is well")


def holder_of(server: ServedRouter, nvml: StandIn, name: str) -> tuple[int, str]:
    """The process that holds an instance's memory, and the device that this is on."""
    record = f"{instances(server)[name]['name']}.json"
    found = [
        (pid, uuid)
        for pid, uuid in holders(nvml).items()
        if alive(pid) and environment(pid).get("GPUSTACK_FAST_INSTANCE", "").endswith(record)
    ]
    assert len(found) == 1, found
    return found[0]


def index_of(gpus: list[StandInGpu], uuid: str) -> int:
    return next(one.index for one in gpus if one.uuid == uuid)
