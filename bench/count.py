"""Counts the cost of a request and a frame against bench/count.toml.

Instructions, system calls and heap allocations; bench/README.md says what is counted, and how
exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lock_step import LockStepError, Plane, plane_under

ROOT = Path(__file__).resolve().parent.parent
BOUNDS = ROOT / "bench" / "count.toml"
PLANE = ROOT / "target" / "release" / "plane"
ALLOWED = 0.03
"""The margin of a figure above its bound, as a share."""

FEW, MANY = 100, 2100
"""Repetitions in the two runs whose difference is the cost of one."""
POLL_EVERY = 50
"""Requests between two polls of the records."""


class CountError(Exception):
    """Nothing can be counted. The text says why, and what to do."""


# -- counting ------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The work of one run: whole requests, one stream, and nothing for some seconds."""

    requests: int
    frames: int
    rest: float = 0.0

    def do(self, plane: Plane) -> int:
        """Returns the allocations."""
        for number in range(self.requests):
            if number % POLL_EVERY == 0:
                plane.allocations()
            plane.request()
        plane.stream(self.frames)
        time.sleep(self.rest)
        return plane.allocations()


BASE = Work(FEW, FEW)
RESTED = Work(FEW, FEW, rest=3.0)
CASES = {"request": Work(MANY, FEW), "frame": Work(FEW, MANY)}
"""By name, the work that has so many more of it than `BASE`."""


@dataclass(frozen=True)
class Run:
    """The counts of one run."""

    counts: Counter[str]
    seconds: float


def under_callgrind(work: Work, folder: Path) -> Run:
    """Instructions and allocations of all threads but the main one, which only polls."""
    out = folder / f"callgrind-{work.requests}-{work.frames}-{work.rest}"
    tool = [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--separate-threads=yes",
        f"--callgrind-out-file={out}",
    ]
    with plane_under([*tool, str(PLANE)]) as plane:
        start = time.monotonic()
        allocations = work.do(plane)
        seconds = time.monotonic() - start
    totals = [
        re.search(r"^totals: (\d+)$", path.read_text(), re.MULTILINE)
        for path in folder.glob(out.name + "-0*")
        if not path.name.endswith("-01")
    ]
    instructions = sum(int(total[1]) for total in totals if total)
    return Run(Counter(instructions=instructions, allocations=allocations), seconds)


def under_strace(work: Work, folder: Path) -> Run:
    """The worker's system calls by name, but for waits that end with nothing: see `costs`."""
    out = folder / f"strace-{work.requests}-{work.frames}-{work.rest}"
    with plane_under(["strace", "--quiet=all", "-f", "-o", str(out), str(PLANE)]) as plane:
        start = time.monotonic()
        work.do(plane)
        seconds = time.monotonic() - start
    # A call that another thread's interrupts has its result in a second line, which begins
    # with `<...`.
    of_worker = re.findall(rf"^{plane.worker} +(.*)$", out.read_text(), re.MULTILINE)
    calls = Counter(call[1] for line in of_worker if (call := re.match(r"(\w+)\(", line)))
    calls["epoll_wait"] -= sum(
        bool(re.search(r"epoll_wait.*\[\], \d+, [1-9]\d*\) += 0$", line)) for line in of_worker
    )
    return Run(calls, seconds)


def costs(run: Callable[[Work, Path], Run], folder: Path) -> dict[str, dict[str, float]]:
    """The counts of a request and a frame, by what is counted."""
    base, rested = run(BASE, folder), run(RESTED, folder)

    def by_clock(what: str) -> float:
        return max(0.0, (rested.counts[what] - base.counts[what]) / (rested.seconds - base.seconds))

    def each(more: Run, what: str) -> float:
        clock = by_clock(what) * (more.seconds - base.seconds)
        return (more.counts[what] - base.counts[what] - clock) / (MANY - FEW)

    runs = {name: run(work, folder) for name, work in CASES.items()}
    return {name: {what: each(more, what) for what in more.counts} for name, more in runs.items()}


@dataclass(frozen=True)
class Figures:
    """The cost of one request or one frame."""

    instructions: float
    system_calls: float
    allocations: float


def count(folder: Path) -> Iterator[tuple[str, Figures, str]]:
    """The cases with their figures, and with a word on the system calls."""
    callgrind, strace = costs(under_callgrind, folder), costs(under_strace, folder)
    for name, calls in strace.items():
        figures = Figures(system_calls=sum(calls.values()), **callgrind[name])
        if figures.instructions < 1 or figures.system_calls < 1:
            raise CountError(f"What valgrind or strace wrote was not understood: {figures}.")
        told = sorted(
            ((call, value) for call, value in calls.items() if value >= 0.005),
            key=lambda pair: -pair[1],
        )
        yield name, figures, ", ".join(f"{call} {value:.2f}" for call, value in told)


# -- telling -------------------------------------------------------------------


def over(name: str, figures: Figures, bounds: dict[str, float]) -> Iterator[str]:
    """A sentence for each figure that lies too far above its bound."""
    for figure, value in dataclasses.asdict(figures).items():
        bound = bounds[figure]
        if value > bound * (1 + ALLOWED):
            yield (
                f"A {name} takes {value:,.2f} {figure.replace('_', ' ')}; its bound is "
                f"{bound:,.2f}, and {ALLOWED:.0%} above it is allowed."
            )


def far_below(name: str, figures: Figures, bounds: dict[str, float]) -> Iterator[str]:
    """A sentence for each bound that a dearer change could hide under."""
    for figure, value in dataclasses.asdict(figures).items():
        if value < bounds[figure] * (1 - ALLOWED):
            yield (
                f"A {name} takes fewer {figure.replace('_', ' ')} than its bound of "
                f"{bounds[figure]:,.2f}: keep that, with `.venv/bin/python bench/count.py --write`."
            )


def made_with() -> str:
    """Facts besides our code that move the figures: libraries choose loops by the processor."""
    vectors = "AVX2" if " avx2 " in Path("/proc/cpuinfo").read_text() else "no AVX2"
    rustc = output_of("rustc", "--version").split(" (")[0]
    return f"{rustc}, {output_of('valgrind', '--version')}, {platform.machine()} with {vectors}"


def output_of(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


def write_bounds(found: dict[str, Figures]) -> None:
    commit = output_of("git", "rev-parse", "--short=7", "HEAD")
    lines = [
        "# What `make count` holds each figure against: it fails when one lies more than 3 % "
        "above. Written by",
        "# `.venv/bin/python bench/count.py --write`; a commit that raises a bound says in its "
        "message what for.",
        f'commit = "{commit}"',
        f'made_with = "{made_with()}"',
    ]
    for name, figures in found.items():
        lines += ["", f"[{name}]"]
        lines += [
            f"{figure} = {value:.1f}" for figure, value in dataclasses.asdict(figures).items()
        ]
    BOUNDS.write_text("\n".join([*lines, ""]))


def need(program: str) -> None:
    if shutil.which(program) is None:
        raise CountError(
            f"There is no {program} here. Install it: scripts/install-system-packages count"
        )


def print_figures(folder: Path) -> dict[str, Figures]:
    """Counts, with what the tools write in `folder`; returns what it prints."""
    need("valgrind")
    need("strace")
    if not PLANE.exists():
        raise CountError(f"There is no {PLANE.relative_to(ROOT)} yet: `make count` builds it.")
    found = {}
    for name, figures, calls in count(folder):
        found[name] = figures
        values = dataclasses.asdict(figures).items()
        columns = "  ".join(f"{value:9,.2f} {figure.replace('_', ' ')}" for figure, value in values)
        print(f"{name:<8} {columns}  ({calls})", flush=True)
    return found


def held_against_bounds(found: dict[str, Figures]) -> list[str]:
    """Returns what is wrong, in sentences."""
    bounds = tomllib.loads(BOUNDS.read_text())
    for name, figures in found.items():
        for sentence in far_below(name, figures, bounds[name]):
            print(sentence)
    wrong = [
        sentence
        for name, figures in found.items()
        for sentence in over(name, figures, bounds[name])
    ]
    if wrong:
        wrong.append(
            "Find what the change made dearer (bench/README.md tells how), and mend it. If the "
            "cost is wanted, run "
            "`.venv/bin/python bench/count.py --write` and say in the commit what it buys."
        )
        if bounds["made_with"] != made_with():
            wrong.append(
                f"The bounds were made with {bounds['made_with']}, here is {made_with()}: that may "
                "be all."
            )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="make what is counted the new bounds")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep there what valgrind and strace wrote"
    )
    arguments = parser.parse_args()
    wrong = []
    try:
        with ExitStack() as stack:
            folder = arguments.keep or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="count-"))
            )
            folder.mkdir(parents=True, exist_ok=True)
            found = print_figures(folder)
        if arguments.write:
            write_bounds(found)
        else:
            wrong = held_against_bounds(found)
    except (CountError, LockStepError) as error:
        wrong = [str(error)]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
