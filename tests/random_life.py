"""A server's life at random, under load: edits, scalings, kills, restarts, upgrades, sleeps.

    .venv/bin/python tests/random_life.py --seconds 600 --seed 1

Its engines are made up (`managed_engine`), so that what each request is answered with is known to
the byte. What must hold whatever happens: no response is damaged (it is right, or says that it is
not whole), no request fails but those that a kill has met, and when it is quiet again every lease
was returned, nobody of an engine is left but of those that run, and the server holds as many
descriptors as at the begin and hardly more memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import made_up_environment
from gpustack_fast.control.client import ControlClient
from gpustack_fast.control.documents import ServerStatus
from gpustack_fast.engines.processes import MARK
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.storage.data_directory import DataDirectory
from handovers import Succeeding
from harness import ENDED_WITHIN, KEY, STARTED_WITHIN, alive, cli, short_folder
from load import Load, Outcome
from managed_server import CONFIG, MODEL
from raw_http import eventually

__all__ = ["Life", "unexcused"]

QUIET_WITHIN = 60.0
NEAR = 2.0
"""Seconds behind a kill in which a request may begin that it has met: on a connection of before, or
in the queue of a socket whose process is gone."""
DESCRIPTORS = 12
"""More than at the begin that a quiet server may hold: connections to engines that idle."""
MEGABYTES = 40.0

SETTINGS = """
[server]
drain_timeout = 20
"""
BUSY = """
replicas = {replicas}
env = {{ EDITION = "{edition}" }}
"""
SLEEPY = """
sleep_after = 1
"""


def unexcused(outcomes: list[Outcome], kills: list[float]) -> list[Outcome]:
    """Those whose response was damaged, or that failed without a kill in their time."""

    def was_met(one: Outcome) -> bool:
        return any(one.began - NEAR <= kill <= one.ended for kill in kills)

    return [one for one in outcomes if one.damaged or (one.problem and not was_met(one))]


class Life:
    """One server, its load, and what happens to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills: list[float] = []
        """When something was killed, in monotonic seconds."""
        self.done: list[str] = []
        """What has happened, in its order."""
        self.replicas, self.edition = 2, 0
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
        made_up_environment.make(folder / "environment", "vllm")
        self.server = Succeeding(folder, self._config())
        self.server.wait_until_ready()
        self.loads = [
            Load(self.server.address, KEY, "busy", rate=30, streams=6, frames=20, patient=True),
            Load(self.server.address, KEY, "sleepy", rate=0.4, streams=0, patient=True),
        ]

    def _config(self) -> str:
        places = {
            "kind": "vllm",
            "python": self.folder / "environment" / "bin" / "python",
            "path": self.folder / "model",
        }
        more = BUSY.format(replicas=self.replicas, edition=self.edition)
        busy = MODEL.format(name="busy", more=more, **places)
        return SETTINGS + busy + MODEL.format(name="sleepy", more=SLEEPY, **places)

    # What may happen.

    def edit(self) -> None:
        self.edition += 1
        self._apply()

    def scale(self) -> None:
        self.replicas = self.random.choice([one for one in (1, 2, 3) if one != self.replicas])
        self._apply()

    def hang_up(self) -> None:
        self.edition += self.random.random() < 0.5
        self.server.config.write_text(self._config())
        os.kill(self._pid(), signal.SIGHUP)

    def restart(self) -> None:
        self._command("restart")

    def upgrade(self) -> None:
        self._command("upgrade")

    def kill_server(self) -> None:
        """A moment in which nobody listens; clients try again."""
        pid = self._pid()
        self.kills.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not alive(pid), "the end of the server", ENDED_WITHIN)
        self.kills.append(time.monotonic())
        if self.server.process.poll() is None:
            self.server.process.wait(ENDED_WITHIN)  # a former one, which had streams left
        self.server.start()
        for load in self.loads:
            load.address = self.server.address
        self.server.wait_until_alive()
        self.kills.append(time.monotonic())

    def kill_engine(self) -> None:
        pids = [one.pid for model in self._status().models for one in model.instances if one.pid]
        if pids:
            self.kills.append(time.monotonic())
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(pids), signal.SIGKILL)
            # Its requests learn of it when nobody of its session is left.
            self.kills.append(time.monotonic() + 5)

    def pause(self) -> None:
        time.sleep(self.random.uniform(0.5, 3))

    def settle(self) -> None:
        """All that was asked for is done, without an end of any load."""

        def is_so() -> bool:
            (busy,) = [one for one in self._status().models if one.name == "busy"]
            running = [one for one in busy.instances if one.state == "running"]
            return len(busy.instances) == len(running) == self.replicas

        eventually(is_so, f"{self.replicas} instances run: {self.done[-5:]}", STARTED_WITHIN)

    def run(self, seconds: float) -> None:
        """Lives for so long."""
        happenings: list[tuple[Callable[[], None], int]] = [
            (self.edit, 3),
            (self.scale, 3),
            (self.hang_up, 2),
            (self.restart, 2),
            (self.upgrade, 1),
            (self.kill_server, 1),
            (self.kill_engine, 1),
            (self.pause, 4),
            (self.settle, 2),
        ]
        self.settle()
        before = self._held()
        with self.loads[0], self.loads[1]:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                one = self.random.choices(*zip(*happenings, strict=True))[0]
                self.done.append(one.__name__)
                one()
            self.settle()
            time.sleep(2)
        self.check(before)

    def check(self, before: tuple[int, float]) -> None:
        """Fails where something does not hold. `before`: `_held` at the begin."""
        outcomes = [one for load in self.loads for one in load.outcomes]
        wrong = unexcused(outcomes, self.kills)
        assert not wrong, f"{len(wrong)} of {len(outcomes)}: {wrong[:5]}\n{self.done}"
        self.settle()
        self.check_leases()
        self.check_orphans()
        descriptors, megabytes = self._held()
        assert descriptors <= before[0] + DESCRIPTORS, f"{before[0]} descriptors → {descriptors}"
        assert megabytes <= before[1] + MEGABYTES, f"{before[1]:.0f} MB → {megabytes:.0f} MB"

    def check_leases(self, within: float = QUIET_WITHIN) -> None:
        """Fails where a lease is not returned though nobody asks for anything."""

        def left() -> list[str]:
            found = self._status()
            each = [one for model in found.models for one in model.instances]
            return [f"{one.name}: {one.in_flight}" for one in each if one.in_flight]

        eventually(lambda: not left(), "every lease is returned", within)

    def check_orphans(self) -> None:
        """Fails where a process of an engine is left that the server does not know."""

        def strangers() -> set[int]:
            mark = f"{MARK}={self.server.data_dir}/".encode()
            each = [one.pid for model in self._status().models for one in model.instances]
            found = set()
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, ProcessLookupError):
                    if mark in (folder / "environ").read_bytes():
                        found.add(os.getsid(int(folder.name)))
            return found - set(each)

        eventually(lambda: not strangers(), "no orphan is left", QUIET_WITHIN)

    def close(self) -> None:
        for load in self.loads:
            load.stop()
        self.server.stop()
        for pid in self.server.processes():
            os.kill(pid, signal.SIGKILL)

    # The server.

    def _apply(self) -> None:
        self.server.config.write_text(self._config())
        self._command("apply", str(self.server.config), "--no-wait")

    def _command(self, *arguments: str) -> None:
        command = [*cli(), *arguments, "--data-dir", str(self.server.data_dir)]
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=STARTED_WITHIN, check=False
        )
        said = f"{found.stdout}{found.stderr}"
        assert found.returncode == 0, f"{arguments}: {said}\n{self.done}\n{self.server.output()}"

    def _status(self) -> ServerStatus:
        def ask() -> ServerStatus | None:
            with contextlib.suppress(GpustackFastError, OSError):
                with ControlClient(DataDirectory(self.server.data_dir).control_socket) as control:
                    return control.status()
            return None

        found: ServerStatus = eventually(ask, "the server to respond", STARTED_WITHIN)
        return found

    def _pid(self) -> int:
        return self._status().pid

    def _held(self) -> tuple[int, float]:
        """Descriptors and resident megabytes of the server that serves."""
        pid = self._pid()
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return len(os.listdir(f"/proc/{pid}/fd")), int(found[1]) / 1024


@contextlib.contextmanager
def life(seed: int) -> Iterator[Life]:
    """A life while the block runs."""
    with short_folder() as folder:
        one = Life(folder, seed)
        try:
            yield one
        finally:
            one.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A server's life at random, under load.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with life(options.seed) as one:
        one.run(options.seconds)
        counts = {name: one.done.count(name) for name in sorted(set(one.done))}
        total = sum(len(load.outcomes) for load in one.loads)
        failed = sum(1 for load in one.loads for each in load.outcomes if each.problem)
        print(f"{counts}\n{total} requests, of which {failed} were met by a kill; nothing damaged.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
