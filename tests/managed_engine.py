"""The fake engine behind the command lines of vLLM and TensorRT-LLM, with their ways to end.

    made_up_environment.make(FOLDER, "vllm")       # an environment whose `vllm` is this
    FOLDER/bin/python -m vllm.entrypoints.cli.main serve MODEL --uds=/tmp/engine.sock

What it does at its start is in `orders.json` in the model's folder, which its tests write:

    write     lines for its log
    hold      true: it does not get on until there is a file `go` in that folder
    exit      it ends so at once
    once      true: the file goes when it was read, so that the next start has none

Of vLLM (measured on 0.32.0): a core and a worker in its session, which ignore SIGTERM and look
after nobody; the first SIGTERM of a start is lost; with requests open it ends when their clients
leave; when its core dies, `/health` says 503, and then it ends with exit code 0. Of TensorRT-LLM
(read in its source): workers behind a daemon in another session, which it does not look after; it
calls the model by the last part of its path; SIGTERM ends it when the last request has ended; idle
connections last for 5 s. A stall of the fake engine's is a hang of both: the counters stand still,
and the health is good.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_endpoints
from fake_endpoints.asked import Asked, Orders, Said, said
from fake_engine import Connection, Engine
from fake_request import Request

KEPT = 5.0
"""Seconds of an idle connection of TensorRT-LLM's."""
WORKER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
DAEMON = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {WORKER!r}])"


class NamedConnection(Connection):
    """One of an engine that says its own name in responses, whatever it was asked for."""

    def asked(
        self, request: Request, orders: Orders, fields: dict[str, object], files: dict[str, int]
    ) -> Asked:
        named = {**fields, "model": self.engine.name} if "model" in fields else fields
        return super().asked(request, orders, named, files)


class Managed:
    """One engine and its processes."""

    def __init__(self, kind: str, arguments: list[str]) -> None:
        self.is_vllm = kind == "vllm"
        self.model = Path(next(one for one in arguments[1:] if not one.startswith("--")))
        options = dict(one[2:].split("=", 1) for one in arguments if "=" in one)
        self.options = options
        self.engine = Engine(options.get("served-model-name", self.model.name), 0)
        self.children: list[subprocess.Popen[bytes]] = []
        self.sigterms = 0
        self.listens = False

    def begin(self) -> None:
        """What it does before it listens."""
        file = self.model / "orders.json"
        orders = json.loads(file.read_text()) if file.exists() else {}
        if orders.get("once"):
            file.unlink()
        for line in orders.get("write", []):
            print(line, flush=True)
        if "exit" in orders:
            os._exit(orders["exit"])
        signal.signal(signal.SIGTERM, lambda *_: self.on_sigterm())
        if self.is_vllm:
            codes, apart = [WORKER, WORKER], False
        else:
            codes, apart = [DAEMON], True
        self.children = [
            subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=apart)
            for code in codes
        ]
        while orders.get("hold") and not (self.model / "go").exists():
            time.sleep(0.02)

    def on_sigterm(self) -> None:
        self.sigterms += 1
        print(f"SIGTERM {self.sigterms}", flush=True)
        if self.listens:
            self.engine.stopping.set()
        elif self.sigterms > 1 or not self.is_vllm:
            for child in self.children:
                child.kill()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    async def serve(self) -> None:
        """Listens until it is asked to end, or its core is dead."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.on_sigterm)
        fake_endpoints.ENDPOINTS.update(
            {
                "/health": self.health,
                "/health_generate": self.health_generate,
                "/metrics": self.metrics,
                "/sleep": self.sleep,
                "/wake_up": self.wake_up,
            }
        )
        if self.is_vllm:
            server = await loop.create_unix_server(
                lambda: Connection(self.engine), self.options["uds"]
            )
        else:
            self.engine.defaults = {"close_idle": KEPT}
            server = await loop.create_server(
                lambda: NamedConnection(self.engine), "127.0.0.1", int(self.options["port"])
            )
        self.listens = True
        print("It listens.", flush=True)
        watch = loop.create_task(self.watch_core())
        await self.engine.stopping.wait()
        server.close()
        if self.is_vllm:
            self.kill_children()
        while self.running():  # noqa: ASYNC110  (their clients may leave, too)
            await asyncio.sleep(0.02)
        watch.cancel()
        self.kill_children()
        os._exit(0)

    async def watch_core(self) -> None:
        """A vLLM without its core is no more well, and ends soon, as if it had been asked."""
        while not self.is_vllm or self.core_lives():  # noqa: ASYNC110  (as vLLM's own)
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        os._exit(0)

    def core_lives(self) -> bool:
        return all(child.poll() is None for child in self.children)

    def kill_children(self) -> None:
        for child in self.children if self.is_vllm else []:
            child.kill()

    def running(self) -> int:
        entries = [one.entry for one in self.engine.connections if one.entry is not None]
        return sum(1 for entry in entries if entry["method"] == "POST")

    def health(self, _: Asked) -> Said:
        return said("", 503 if self.is_vllm and not self.core_lives() else 200)

    def health_generate(self, _: Asked) -> Said:
        return said("", 200 if self.core_lives() else 500)

    def sleep(self, _: Asked) -> Said:
        return said({"status": "sleeping"})

    def wake_up(self, _: Asked) -> Said:
        return said({"status": "awake"})

    def metrics(self, _: Asked) -> Said:
        hangs = any(name.startswith("fault:stall") for name in self.engine.counters)
        tokens = 0 if hangs else time.monotonic_ns() // 1000
        return said(
            f'vllm:num_requests_running{{engine="0"}} {self.running()}\n'
            f'vllm:generation_tokens_total{{engine="0"}} {tokens}\n'
        )


def main(kind: str) -> None:
    """As `vllm` or `trtllm-serve` with the arguments of this process."""
    _, *arguments = sys.argv
    if "--bogus" in arguments:
        print("vllm: error: unrecognized arguments: --bogus", file=sys.stderr, flush=True)
        sys.exit(2)
    one = Managed(kind, arguments)
    one.begin()
    asyncio.run(one.serve())
