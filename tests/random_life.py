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
import collections
import contextlib
import faulthandler
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import made_up_environment
from gpustack_fast.control.client import ControlClient
from gpustack_fast.control.documents import InstanceStatus, ModelStatus, ServerStatus
from gpustack_fast.engines.processes import mark_of
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.storage.data_directory import DataDirectory
from handovers import Succeeding
from harness import ENDED_WITHIN, KEY, STARTED_WITHIN, alive, cli, short_folder
from load import Load, Outcome
from managed_server import CONFIG, MODEL
from raw_http import eventually

__all__ = ["Held", "Kill", "Life", "life", "unexcused"]

QUIET_WITHIN = 60.0
NEAR = 2.0
"""Seconds behind a kill's time in which a request may begin that it has met: on a connection of
before, or in the queue of a socket whose process is gone."""
DESCRIPTORS = 16
"""More than at the begin that a quiet server may hold: idle connections to four engines."""
MEGABYTES = 40.0
LATE = 120.0
"""Seconds behind the planned end after which a run by hand says where it is."""

LATER = ("Wait until it serves", "Repeat the command")
"""What a server says that cannot do something at this moment."""

SETTINGS = """
[server]
drain_timeout = 20
limits.idle_connections = 3
"""
BUSY = """
replicas = {replicas}
env = {{ EDITION = "{edition}" }}
"""
SLEEPY = """
sleep_after = 1
"""


@dataclass
class Kill:
    """Something was killed; monotonic seconds."""

    began: float
    ended: float = math.inf
    """When all was served again without it."""


def unexcused(outcomes: list[Outcome], kills: list[Kill]) -> list[Outcome]:
    """Those whose response was damaged, or that failed without a kill in their time."""

    def was_met(one: Outcome) -> bool:
        return any(one.began <= kill.ended + NEAR and kill.began <= one.ended for kill in kills)

    return [one for one in outcomes if one.damaged or (one.problem and not was_met(one))]


def is_served(model: ModelStatus) -> bool:
    """Whether requests for a model are served, or wait until it has woken."""
    sleeps = not model.instances and "It sleeps." in model.state_message
    return sleeps or any(one.state == "running" for one in model.instances)


class Held(NamedTuple):
    """What a server's process holds."""

    descriptors: int
    megabytes: float
    """Resident."""


class Life:
    """One server, its load, and what happens to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self._killed: dict[int, Kill] = {}
        """By the process, until all models are served again."""
        self.done: list[str] = []
        """What has happened, in its order."""
        self.replicas, self.edition = 2, 0
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
        made_up_environment.make(folder / "environment", "vllm")
        self.loads: list[Load] = []
        self.server = Succeeding(folder, self._config())

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
        self._kill(pid)
        eventually(lambda: not alive(pid), "the end of the server", ENDED_WITHIN)
        if self.server.process.poll() is None:
            self.server.process.wait(ENDED_WITHIN)  # a former one, which had streams left
        self.server.start()
        for load in self.loads:
            load.address = self.server.address
        self.server.wait_until_alive()

    def kill_engine(self) -> None:
        """Its requests learn of it when nobody of its session is left."""
        pids = [one.pid for model in self._status().models for one in model.instances if one.pid]
        if pids:
            self._kill(self.random.choice(pids))

    def _kill(self, pid: int) -> None:
        if pid not in self._killed:
            self._killed[pid] = Kill(time.monotonic())
            self.kills.append(self._killed[pid])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def pause(self) -> None:
        time.sleep(self.random.uniform(0.5, 3))

    def settle(self) -> None:
        """All that was asked for is done, without an end of any load."""

        def is_so() -> bool:
            busy = self.busy()
            running = [one for one in busy if one.state == "running"]
            return len(busy) == len(running) == self.replicas

        eventually(is_so, f"{self.replicas} instances run: {self.done[-5:]}", STARTED_WITHIN)

    def run(self, seconds: float) -> None:
        """Lives for so long, and checks it; 0: nothing happens but load."""
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
        before = self.held()
        address = self.server.address
        busy = Load(address, KEY, "busy", rate=30, streams=6, frames=20, patient=True)
        sleepy = Load(address, KEY, "sleepy", rate=0.4, streams=0, patient=True)
        self.loads = [busy, sleepy]
        with busy, sleepy:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                one = self.random.choices(*zip(*happenings, strict=True))[0]
                self.done.append(one.__name__)
                one()
                self._look_after_the_killed()
            self.settle()
            eventually(self._look_after_the_killed, "all is served again", STARTED_WITHIN)
            time.sleep(2)
        self.check_responses()
        self.check_leases()
        self.check_orphans()
        self.check_held(before)

    def _look_after_the_killed(self) -> bool:
        """Notes of the killed whether all is served again without them; whether it is, without all
        of them. A model that was awake is not, until its engine runs.
        """
        if self._killed:
            models = self._status().models
            each = [one for model in models for one in model.instances]
            if all(is_served(one) for one in models):
                for pid in self._killed.keys() - {one.pid for one in each}:
                    self._killed.pop(pid).ended = time.monotonic()
        return not self._killed

    def check_responses(self) -> None:
        """Fails where one was damaged, or has failed without a kill in its time."""
        outcomes = [one for load in self.loads for one in load.outcomes]
        wrong = unexcused(outcomes, self.kills)
        told = f"{len(wrong)} of {len(outcomes)}: {wrong[:5]}\n{self.kills}\n{self.done}"
        assert not wrong, told

    def check_leases(self, within: float = QUIET_WITHIN) -> None:
        """Fails where a lease is not returned though nobody asks for anything."""

        def left() -> list[str]:
            found = self._status()
            each = [one for model in found.models for one in model.instances]
            return [f"{one.name}: {one.in_flight}" for one in each if one.in_flight]

        eventually(lambda: not left(), "every lease is returned", within)

    def check_orphans(self, within: float = QUIET_WITHIN) -> None:
        """Fails where a process is left of an engine that the server does not know, or of a former
        server.
        """

        def strangers() -> set[int]:
            status = self._status()
            known = {one.pid for model in status.models for one in model.instances}
            first = self.server.process
            servers = {*self.server.processes(), *([first.pid] if first.poll() is None else [])}
            sessions = set()
            for pid in self._marked():
                with contextlib.suppress(ProcessLookupError):
                    sessions.add(os.getsid(pid))
            return (sessions - known) | (servers - {status.pid})

        eventually(lambda: not strangers(), "no orphan is left", within)

    def check_held(self, before: Held, within: float = QUIET_WITHIN) -> None:
        """Fails where the server holds more than it held before, and does not give it back."""
        limit = Held(before.descriptors + DESCRIPTORS, before.megabytes + MEGABYTES)

        def excess() -> list[str]:
            now = self.held()
            each = zip(now._fields, now, limit, strict=True)
            return [f"{what}: {held:.0f} of {most:.0f}" for what, held, most in each if held > most]

        try:
            eventually(lambda: not excess(), "it is given back", within)
        except AssertionError as error:
            raise AssertionError(f"{error}; {excess()}, {self.kinds()}") from None

    def kinds(self) -> dict[str, int]:
        """How many descriptors of which kinds the server holds."""
        found: collections.Counter[str] = collections.Counter()
        for one in Path(f"/proc/{self._pid()}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[os.readlink(one).partition("[")[0]] += 1
        return dict(found)

    def close(self) -> None:
        """Ends everything, whatever state it is in."""
        for load in self.loads:
            load.begin_no_more()
        try:
            self.server.stop()
        finally:
            for pid in {*self.server.processes(), *self._marked()}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for load in self.loads:
            load.stop()

    # The server.

    def _apply(self) -> None:
        self.server.config.write_text(self._config())
        self._command("apply", str(self.server.config), "--no-wait")

    def _command(self, *arguments: str) -> None:
        command = [*cli(), *arguments, "--data-dir", str(self.server.data_dir)]

        def is_done() -> bool:
            found = subprocess.run(
                command, capture_output=True, text=True, timeout=STARTED_WITHIN, check=False
            )
            said = f"{found.stdout}{found.stderr}"
            if found.returncode and any(one in said for one in LATER):
                return False
            told = f"{arguments}: {said}\n{self.done}\n{self.server.output()}"
            assert found.returncode == 0, told
            return True

        eventually(is_done, f"{arguments}: {self.done}", STARTED_WITHIN)

    def _status(self) -> ServerStatus:
        def ask() -> ServerStatus | None:
            with contextlib.suppress(GpustackFastError, OSError):
                with ControlClient(DataDirectory(self.server.data_dir).control_socket) as control:
                    return control.status()
            return None

        found: ServerStatus = eventually(ask, "the server to respond", STARTED_WITHIN)
        return found

    def busy(self) -> list[InstanceStatus]:
        """The instances of the busy model."""
        return next(one.instances for one in self._status().models if one.name == "busy")

    def _pid(self) -> int:
        return self._status().pid

    def _marked(self) -> set[int]:
        """The processes of its engines, in whatever session."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            mark = mark_of(int(folder.name))
            if mark is not None and mark.startswith(f"{self.server.data_dir}/"):
                found.add(int(folder.name))
        return found

    def held(self) -> Held:
        """What the server holds that serves."""
        pid = self._pid()
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return Held(len(os.listdir(f"/proc/{pid}/fd")), int(found[1]) / 1024)


@contextlib.contextmanager
def life(seed: int) -> Iterator[Life]:
    """A life while the block runs."""
    with short_folder() as folder:
        one = Life(folder, seed)
        try:
            one.server.wait_until_ready()
            yield one
        finally:
            one.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A server's life at random, under load.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # Where it hangs.
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    faulthandler.dump_traceback_later(options.seconds + LATE, repeat=True)
    with life(options.seed) as one:
        one.run(options.seconds)
        outcomes = [each for load in one.loads for each in load.outcomes]
        problems = collections.Counter(each.problem[:60] for each in outcomes if each.problem)
        seconds = sum(kill.ended - kill.began for kill in one.kills)
        print(f"It happened: {dict(collections.Counter(one.done))}")
        print(f"{len(outcomes)} requests; nothing damaged.")
        print(f"{problems.total()} were met by kills, whose times are {seconds:.0f} s together:")
        for problem, count in problems.most_common():
            print(f"{count:7} {problem}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
