"""A real vLLM as a child: started by its own command line, and ended with all of its processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

from harness import Router, ServedRouter, read_gauge, serving
from raw_http import Client, Response

HOME = Path(__file__).parents[1] / ".vllm"
"""The folder that `make test-vllm` sets up: `data`, `venv` (see scripts/setup-vllm), `models`."""

KEY = "the-key-that-only-the-engine-and-the-router-know"

START = 500.0
"""Seconds that a start may take: 30 to 60 on two free cores, most of it imports in three processes.
"""

RESPONSE_WITHIN = 120.0
"""Seconds that a response may take on a busy machine."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_API_KEY": KEY,
    "VLLM_CACHE_ROOT": str(HOME / "cache"),
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_DISABLE_LOG_LOGO": "1",
    "VLLM_ENABLE_RESPONSES_API_STORE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Else the first request with log probabilities compiles a kernel for 20 seconds.
    "TORCH_COMPILE_DISABLE": "1",
}


CONFIG = """
[[models]]
name = "tiny"
backend = "external"
engine = "vllm"
urls = ["{address}"]
api_key_env = "TINY_ENGINE_KEY"
served_name = "{served_name}"
categories = ["{category}"]
generic_proxy = true

[[routes]]
name = "team/alias:v1"
targets = [{{ model = "tiny" }}]
"""


class VllmEngine:
    """`vllm serve` with one of the tiny models on a Unix socket, which it calls MODEL-served."""

    def __init__(self, folder: Path, model: str, *flags: str) -> None:
        program = HOME / "venv" / "bin" / "vllm"
        assert program.exists(), (
            f"There is no vLLM at {program}. `make test-vllm` sets it up and runs these tests."
        )
        self.model = f"{model}-served"
        self.socket = folder / f"{model}.sock"
        self.address = f"unix:{self.socket}"
        self.log = folder / f"{model}.log"
        command = [
            str(program),
            "serve",
            str(HOME / "models" / model),
            "--served-model-name",
            self.model,
        ]
        command += ["--uds", str(self.socket), "--enforce-eager", "--dtype", "bfloat16", *flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **ENVIRONMENT},
                # so that one signal reaches its children too, which outlive it otherwise
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Waits until it says so, seldom looking: the processors have enough to do."""
        end = time.monotonic() + START
        while "Application startup complete." not in self.output():
            assert self.process.poll() is None, (
                f"vLLM ended with {self.process.returncode}. It wrote:\n{self.output()}"
            )
            assert time.monotonic() < end, (
                f"vLLM did not start within {START} seconds. It wrote:\n{self.output()}"
            )
            time.sleep(0.5)

    def output(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-8000:]

    def client(self) -> Client:
        return Client(self.address, RESPONSE_WITHIN)

    def request(self, method: str, target: str, body: Any = None, **options: Any) -> Response:
        """One request past the router, with the engine's key."""
        with self.client() as client:
            return client.request(method, target, body, **{"key": KEY, **options})

    def metric(self, name: str) -> float:
        """One of its own metrics, as `num_requests_running`."""
        return read_gauge(self.request("GET", "/metrics").body.decode(), f"vllm:{name}")

    def stop(self) -> None:
        """Ends every process of its session."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(model: str, *flags: str) -> Iterator[VllmEngine]:
    """An engine for as long as the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="gpf-", dir="/tmp"))
    engine = VllmEngine(folder, model, *flags)
    try:
        engine.wait_until_ready()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def behind_router(
    address: str, served_name: str, category: str, more: str = ""
) -> Iterator[ServedRouter]:
    """The whole product in front of an engine: model `tiny`, route `team/alias:v1`, and `more`."""
    config = CONFIG.format(address=address, served_name=served_name, category=category) + more
    with serving(config, environment={"TINY_ENGINE_KEY": KEY}) as server:
        yield server


def ask(router: Router, method: str, target: str, body: Any = None, **options: Any) -> Response:
    """One request on a connection of its own through the router, patient as for a real engine."""
    with Client(router.address, RESPONSE_WITHIN) as client:
        return client.request(method, target, body, **{"key": router.key, **options})


CHANGING = re.compile(
    rb'"(id|item_id|created|created_at|completed_at|model|system_fingerprint)":("[^"]*"|\d+)'
)


def masked(body: bytes) -> bytes:
    """A response's bytes without ids and times, which differ each time, and the model's name."""
    return CHANGING.sub(rb'"\1":0', body)


TIMINGS = ("time_to_first_token_ms", "time_per_output_token_ms", "tokens_per_second")
"""GPUStack's members of the usage of a stream."""


def without_timings(body: bytes) -> bytes:
    """A stream without `TIMINGS`."""
    return re.sub(rb',"(%s)":[\d.]+' % "|".join(TIMINGS).encode(), b"", body)


def without_usage_frame(body: bytes) -> bytes:
    """A stream without its frames that have no choice."""
    return b"".join(
        frame for frame in re.findall(rb".*?\n\n", body, re.DOTALL) if b'"choices":[]' not in frame
    )


def openai_client(router: Router, key: str | None = None) -> openai.OpenAI:
    """The SDK for a router, with its key or another one. It repeats nothing."""
    return openai.OpenAI(
        base_url=f"{router.address}/v1",
        api_key=router.key if key is None else key,
        max_retries=0,
        timeout=RESPONSE_WITHIN,
    )
