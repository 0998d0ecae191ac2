"""The whole product over engines of its own that are made up, and what tests ask of both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_up_environment
from gpustack_fast.control.client import ControlClient
from gpustack_fast.control.documents import InstanceStatus
from gpustack_fast.engines.processes import MARK
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.storage.data_directory import DataDirectory
from harness import STARTED_WITHIN, ServedRouter, short_folder
from raw_http import Client, eventually

MODEL = """
[[models]]
name = "{name}"
backend = "{kind}"
python = "{python}"
source = "local_path"
local_path = "{path}"
categories = ["llm"]
{more}
"""
# A small model's; what a real one takes of a GPU does not matter where there is none.
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 259,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}
IMPATIENT = """
import sys
from gpustack_fast.engines import autoscale, liveness, processes
autoscale.UP_AFTER, autoscale.DOWN_AFTER, autoscale.SMOOTHING = 2.0, 4.0, 0.5
liveness.LOOK_EVERY = 0.1
processes.ASK_AGAIN_EVERY = 0.5
processes.ORPHANS_MAY_TAKE = 0.5
from gpustack_fast.__main__ import main
sys.exit(main())
"""
"""The program, which looks more often, and in which few seconds are a steady minute."""


class ManagedServer:
    """A server that runs one made-up engine."""

    def __init__(self, folder: Path, config: str, orders: dict[str, Any]) -> None:
        """`config`: with `{path}` for the folder of the model's files, and `{python}`."""
        self.model = folder / "model"
        self.model.mkdir(exist_ok=True)
        (self.model / "config.json").write_text(json.dumps(CONFIG))
        if orders:
            self.order(**orders)
        config = config.replace("{path}", str(self.model))
        config = config.replace("{python}", str(folder / "environment" / "bin" / "python"))
        self.router = ServedRouter(folder, config, program=[sys.executable, "-c", IMPATIENT])

    def order(self, **orders: Any) -> None:
        """What the next starts do, see `managed_engine`."""
        (self.model / "orders.json").write_text(json.dumps(orders))

    def go(self) -> None:
        """Ends a start that is held."""
        (self.model / "go").touch()

    def instance(self) -> InstanceStatus:
        (found,) = self.instances()
        return found

    def instances(self) -> list[InstanceStatus]:
        """None before the server is up."""
        assert self.router.process.poll() is None, self.router.output()
        try:
            with ControlClient(DataDirectory(self.router.data_dir).control_socket) as control:
                return [one for model in control.status().models for one in model.instances]
        except GpustackFastError:
            return []

    def wait(self, happened: Callable[[InstanceStatus], bool], what: str) -> InstanceStatus:
        """The instance, when it is so."""
        try:
            found = eventually(
                lambda: [one for one in self.instances() if happened(one)], what, STARTED_WITHIN
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\nserve wrote:\n{self.router.output()}") from None
        one: InstanceStatus = found[0]
        return one

    def runs(self, unlike: str = "") -> InstanceStatus:
        """The instance as soon as one runs, of another name."""
        return self.wait(lambda now: now.state == "running" and now.name != unlike, "an engine")

    def ask(self, path: str) -> Any:
        """A question to the engine itself, past the server."""
        with Client(self.instance().address) as client:
            return client.request("GET", path).json()

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The engine's requests of one path."""
        return [one for one in self.ask("/fake/journal") if one["target"] == path]

    def processes(self) -> dict[int, str]:
        """The processes of the server's engines, in whatever session, with their arguments."""
        mark = f"{MARK}={self.router.data_dir}/".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(folder.name)] = line.decode(errors="replace")
        return found

    def log(self) -> str:
        """What its engines have written."""
        return "".join(
            file.read_text() for file in sorted((self.router.data_dir / "logs").rglob("*.log"))
        )

    def left(self) -> list[str]:
        """Files of engines that are there."""
        return [str(path) for path in (self.router.data_dir / "run").glob("*/*")]


@contextlib.contextmanager
def managed(
    kind: str, name: str = "m", more: str = "", version: str | None = None, **orders: Any
) -> Iterator[ManagedServer]:
    """A server with one engine, which may not run yet; behind the block nobody of it is left.

    `version`: of its package. `orders`: of `managed_engine`.
    """
    config = MODEL.replace("{name}", name).replace("{kind}", kind).replace("{more}", more)
    with short_folder() as folder:
        made_up_environment.make(folder / "environment", kind, version)
        with running(folder, config, orders) as one:
            yield one


@contextlib.contextmanager
def running(folder: Path, config: str, orders: dict[str, Any]) -> Iterator[ManagedServer]:
    """A server with this configuration, see `ManagedServer`."""
    one = ManagedServer(folder, config, orders)
    try:
        yield one
        assert one.router.stop() == 0, one.router.output()
        assert one.processes() == {}
        assert one.left() == []
    finally:
        one.router.stop()
        for pid in one.processes():  # of a server that a test has killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
