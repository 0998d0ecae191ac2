"""Measures gpustack-fast and nginx in front of the same mock engine, in interleaved rounds.

What counts is the CPU time of the proxy's whole process for each request and each frame, as a ratio
to nginx's in the same round; the verdict is the median of the rounds' ratios. bench/README.md tells
how to read the rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "mock"
QUIET = 0.05
"""The share of the proxy's core for others above which a run is called noisy."""
KEY = "bench-key-of-more-than-16-characters"
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORES, OTHER_CORES = set(CORES[:1]), set(CORES[1:])

NGINX_CONF = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_buffer_size 128k;
    client_max_body_size 512m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{
        server {engine};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 3600s;
        }}
    }}
}}
"""

OUR_CONFIG = """\
[server]
host = "127.0.0.1"
port = {port}

[[models]]
name = "{model}"
backend = "external"
urls = ["{engine}"]
"""


class BenchError(Exception):
    """The measurement cannot be made, or is worth nothing. The text says why, and what to do."""


@dataclass(frozen=True)
class Scenario:
    """One shape of traffic, and what its cost is divided by."""

    name: str
    unit: str
    load: dict[str, Any]


SCENARIOS = [
    Scenario("request of 1 KB", "request", {"connections": 32, "body_bytes": 1024}),
    Scenario("request of 32 KB", "request", {"connections": 32, "body_bytes": 32768}),
    Scenario("stream at full speed", "frame", {"connections": 16, "frames": 500}),
    Scenario("stream at 20 ms", "frame", {"connections": 256, "frames": 50, "pause_ms": 20}),
]


@dataclass(frozen=True)
class Target:
    """The target of the load. Straight to the engine there is no proxy to read CPU time of."""

    name: str
    url: str
    pid: int | None


@dataclass(frozen=True)
class Row:
    """One window: one scenario against one target in one round."""

    round: int
    scenario: Scenario
    target: str
    report: dict[str, Any]
    cpu: float
    """Seconds of the proxy's process, all threads, user and system."""
    core: float
    """Seconds that anybody used of the proxy's core."""

    @property
    def cost(self) -> float:
        """Microseconds of CPU for each request or frame."""
        return (
            self.cpu
            * 1e6
            / float(self.report["frames" if self.scenario.unit == "frame" else "requests"])
        )

    @property
    def busy(self) -> float:
        """The share of its core that the proxy used."""
        return self.cpu / float(self.report["seconds"])

    @property
    def others(self) -> float:
        """The share of that core that others used: what makes a window noisy."""
        return max(0.0, self.core - self.cpu) / float(self.report["seconds"])


# -- processes ---------------------------------------------------------------


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Binds to some cores; processes started inside inherit them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(argv: list[str], cores: set[int], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child on some cores, stopped politely and then firmly."""
    with log.open("wb") as output, pinned(cores):
        child = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until_serving(
    url: str, child: subprocess.Popen[bytes], log: Path, patience: float = 30
) -> None:
    """Returns when a chat request through `url` gets 200."""
    body = json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "ready?"}]}
    ).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(url + "/v1/chat/completions", body, headers)
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError as error:
            last = error
        if child.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise BenchError(f"Nothing responds at {url} ({last}). The end of its output:\n{tail}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mock_engine(kit: Path, folder: Path, over: str) -> Iterator[str]:
    """Its address, as our configuration and the load generator write it."""
    address = f"unix:{folder}/engine.sock" if over == "unix" else f"http://127.0.0.1:{free_port()}"
    argv = [str(kit / "mock_engine"), json.dumps({"listen": address, "model": MODEL})]
    with running(argv, OTHER_CORES, folder / "engine.log") as child:
        deadline = time.monotonic() + 10
        while subprocess.run(
            load_argv(kit, address, {"requests": 1, "connections": 1}), capture_output=True
        ).returncode:
            if child.poll() is not None or time.monotonic() > deadline:
                raise BenchError(
                    "The mock engine does not start: " + (folder / "engine.log").read_text()
                )
            time.sleep(0.05)
        yield address


@contextmanager
def nginx(engine: str, folder: Path) -> Iterator[Target]:
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(
        NGINX_CONF.format(folder=folder, port=port, engine=engine.removeprefix("http://"))
    )
    try:
        with running(
            ["nginx", "-p", str(folder), "-c", str(conf)], PROXY_CORES, folder / "nginx.out"
        ) as child:
            url = f"http://127.0.0.1:{port}"
            wait_until_serving(url, child, folder / "nginx.out")
            yield Target("nginx", url, child.pid)
    except FileNotFoundError:
        raise BenchError(
            "There is no nginx here. Install it: scripts/install-system-packages bench"
        ) from None


@contextmanager
def ours(program: Path, engine: str, folder: Path) -> Iterator[Target]:
    port = free_port()
    config = folder / "gpustack-fast.toml"
    config.write_text(OUR_CONFIG.format(port=port, model=MODEL, engine=engine))
    argv = [str(program), "serve", "--config", str(config), "--workers", "1"]
    argv += ["--data-dir", str(folder / "data"), "--bootstrap-key", KEY]
    with running(argv, PROXY_CORES, folder / "ours.out") as child:
        url = f"http://127.0.0.1:{port}"
        wait_until_serving(url, child, folder / "ours.out")
        yield Target("ours", url, child.pid)


# -- measuring ---------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of a whole process, ended threads included, to the nanosecond.

    The same sum as utime + stime in /proc/PID/stat, which counts in steps of 10 ms. The clock's
    number is what clock_getcpuclockid(3) computes.
    """
    return time.clock_gettime((~pid << 3) | 2)


def core_seconds() -> float:
    """CPU time used on the proxy's core since the machine started, in steps of 10 ms."""
    text = Path("/proc/stat").read_text()
    core = re.search(rf"^cpu{min(PROXY_CORES)} (\d+) (\d+) (\d+) ", text, re.MULTILINE)
    return sum(int(ticks) for ticks in core.groups()) / os.sysconf("SC_CLK_TCK") if core else 0.0


def load_argv(kit: Path, url: str, settings: dict[str, Any]) -> list[str]:
    return [str(kit / "load"), json.dumps({"target": url, "key": KEY, "model": MODEL, **settings})]


def load(kit: Path, url: str, settings: dict[str, Any]) -> dict[str, Any]:
    with pinned(OTHER_CORES):
        done = subprocess.run(load_argv(kit, url, settings), capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{done.stderr.strip()} (load against {url} with {settings})")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def window(kit: Path, number: int, scenario: Scenario, target: Target, seconds: float) -> Row:
    def clocks() -> tuple[float, float]:
        return cpu_seconds(target.pid) if target.pid else 0.0, core_seconds()

    cpu, core = clocks()
    report = load(kit, target.url, {**scenario.load, "seconds": seconds})
    cpu_after, core_after = clocks()
    return Row(number, scenario, target.name, report, cpu_after - cpu, core_after - core)


def measure(kit: Path, targets: list[Target], rounds: int, seconds: float) -> Iterator[Row]:
    """Measures each target in each round. Round 0 warms up and is not yielded.

    The order turns with every round, so that drift hits all alike.
    """
    for number in range(rounds + 1):
        for scenario in SCENARIOS:
            for target in targets[number % len(targets) :] + targets[: number % len(targets)]:
                row = window(
                    kit, number, scenario, target, seconds if number else min(seconds, 1.0)
                )
                if number:
                    yield row


def system_calls(kit: Path, scenario: Scenario, target: Target, folder: Path) -> str:
    """The proxy's system calls for each request or frame, counted by strace in a run of its own."""
    out = folder / "strace.txt"
    counter = subprocess.Popen(
        ["strace", "-f", "-c", "-U", "calls,name", "-o", str(out), "-p", str(target.pid)],
        stderr=subprocess.PIPE,
    )
    assert counter.stderr is not None
    counter.stderr.readline()  # "strace: Process N attached": from here on it counts.
    report = load(kit, target.url, {**scenario.load, "seconds": 2.0})
    counter.send_signal(signal.SIGINT)
    counter.communicate(timeout=20)
    units = report["frames" if scenario.unit == "frame" else "requests"]
    counts = {
        name: int(calls)
        for calls, name in re.findall(r"^\s*(\d+)\s+(\w+)$", out.read_text(), re.MULTILINE)
    }
    total = counts.pop("total", sum(counts.values()))
    most = sorted(counts.items(), key=lambda pair: -pair[1])[:6]
    each = ", ".join(f"{name} {calls / units:.2f}" for name, calls in most)
    return (
        f"{scenario.name:<22}  {target.name:<6} system calls per {scenario.unit}: "
        f"{total / units:.2f} ({each})"
    )


# -- telling -----------------------------------------------------------------


def ratios(rows: list[Row], scenario: Scenario) -> list[float]:
    """Ours to nginx, round by round."""
    cost = {(row.round, row.target): row.cost for row in rows if row.scenario == scenario}
    return [
        cost[number, "ours"] / cost[number, "nginx"]
        for number, name in sorted(cost)
        if name == "ours"
    ]


def summary(rows: list[Row]) -> list[str]:
    lines = []
    for scenario in SCENARIOS:
        line = f"{scenario.name:<22}"
        for name in ("nginx", "ours"):
            mine = [row for row in rows if row.scenario == scenario and row.target == name]
            if mine:
                cost, busy = (
                    statistics.median(values)
                    for values in ([r.cost for r in mine], [r.busy for r in mine])
                )
                line += f"  {name} {cost:7.2f} us CPU per {scenario.unit} (core {busy:4.0%} busy)"
        if {"nginx", "ours"} <= {row.target for row in rows}:
            each = ratios(rows, scenario)
            line += f"  ratio {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        lines.append(line)
    others = statistics.median(row.others for row in rows)
    if others > QUIET:
        lines.append(
            f"The machine was not quiet: others used {others:.0%} of the proxy's core. Take no "
            "figure from this run."
        )
    return lines


def output_of(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout or done.stderr).strip()


def machine() -> list[str]:
    """Facts of the machine that place the figures; nothing that names this very machine."""
    models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return [
        f"cpu: {models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        f"kernel: Linux {re.match(r'[0-9.]*', platform.release()).group()}",  # type: ignore[union-attr]
        f"nginx: {output_of('nginx', '-v').rpartition('/')[2]}",
        f"rustc: {output_of('rustc', '--version')}",
        f"python: {platform.python_version()}",
    ]


def commit() -> str:
    name = output_of("git", "rev-parse", "--short=12", "HEAD")
    return name + (
        "+changes" if output_of("git", "status", "--porcelain", "--untracked-files=no") else ""
    )


def write_record(rows: list[Row], notes: list[str]) -> Path:
    """A CSV file whose leading `#` lines say where, when and how it was made."""
    now = datetime.now(UTC)
    path = ROOT / "bench" / "record" / f"{now:%Y-%m-%d-%H%M}-{commit()}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(
            f"# {line}\n"
            for line in [f"date: {now:%Y-%m-%d %H:%M} UTC", f"commit: {commit()}", *notes]
        )
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS + TIMES)
        for row in rows:
            report = row.report
            counts = [
                report["requests"],
                report["frames"],
                f"{report['seconds']:.3f}",
                f"{row.cpu:.4f}",
            ]
            times = [
                (report[kind] or {}).get(rank, "")
                for kind, _, rank in (name.rpartition("_") for name in TIMES)
            ]
            cost = [f"{row.cost:.3f}", row.scenario.unit, f"{row.busy:.3f}", f"{row.others:.3f}"]
            table.writerow([row.round, row.scenario.name, row.target, *counts, *cost, *times])
    return path


COLUMNS = [
    "round",
    "scenario",
    "target",
    "requests",
    "frames",
    "seconds",
    "cpu_s",
    "cpu_us_per_unit",
    "unit",
    "busy",
    "others",
]
TIMES = ["latency_p50", "latency_p99", "first_frame_p50", "first_frame_p99", "gap_p50", "gap_p99"]
"""Microseconds, as the client saw them."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one window")
    parser.add_argument(
        "--engine", choices=["tcp", "unix"], default="tcp", help="how the proxies reach the engine"
    )
    parser.add_argument(
        "--targets", default="nginx,ours,direct", help="which of them, separated by commas"
    )
    parser.add_argument(
        "--system-calls", action="store_true", help="count them with strace, after the rounds"
    )
    parser.add_argument(
        "--program",
        type=Path,
        default=Path(sys.executable).parent / "gpustack-fast",
        help="the gpustack-fast to measure (default: that of this environment)",
    )
    parser.add_argument(
        "--kit",
        type=Path,
        help="the folder with mock_engine and load (default: cargo's release folder)",
    )
    parser.add_argument(
        "--no-record", action="store_true", help="print only; write nothing under bench/record"
    )
    return parser.parse_args()


def start(options: argparse.Namespace, kit: Path, folder: Path, stack: ExitStack) -> list[Target]:
    engine = stack.enter_context(mock_engine(kit, folder, options.engine))
    targets = []
    for name in options.targets.split(","):
        if name == "nginx":
            targets.append(stack.enter_context(nginx(engine, folder)))
        elif name == "ours":
            targets.append(stack.enter_context(ours(options.program, engine, folder)))
        elif name == "direct":
            targets.append(Target("direct", engine, None))
        else:
            raise BenchError(f"There is no target `{name}`. Choose among nginx, ours and direct.")
    return targets


def tell(row: Row) -> None:
    line = f"round {row.round}  {row.scenario.name:<22} {row.target:<7}"
    line += f"{row.report['requests'] / row.report['seconds']:10.1f} requests/s"
    if row.target != "direct":
        line += f"{row.cost:9.2f} us CPU per {row.scenario.unit}"
    print(line, flush=True)


def run(options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
    kit = options.kit or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    targets = start(options, kit, folder, stack)
    rows = []
    for row in measure(kit, targets, options.rounds, options.seconds):
        rows.append(row)
        tell(row)
    told = summary(rows)
    if options.system_calls:
        told += [
            system_calls(kit, scenario, one, folder)
            for scenario in SCENARIOS
            for one in targets
            if one.pid
        ]
    print("\n" + "\n".join(told))
    if not options.no_record:
        how = (
            f"how: {options.rounds} rounds of {options.seconds:g} s, engine over "
            f"{options.engine}, proxy on one core"
        )
        print(f"\nWritten to {write_record(rows, [*machine(), how, *told]).relative_to(ROOT)}")


def main() -> int:
    options = arguments()
    if not OTHER_CORES:
        print("The proxy needs a core of its own: at least two cores are needed.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="gpustack-fast-bench-") as name, ExitStack() as stack:
        try:
            run(options, Path(name), stack)
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
