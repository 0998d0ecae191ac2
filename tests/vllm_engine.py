"""A real vLLM, seen from outside, and a router in front of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

from gpustack_fast.control.documents import InstanceStatus
from harness import Router, ServedRouter, read_gauge, serving
from raw_http import Client, Response

HOME = Path(__file__).parents[1] / ".vllm"
"""The folder that `make test-vllm` sets up: `data`, `venv` (see scripts/setup-vllm), `models`."""

START = 900.0
"""Seconds that a start may take: 30 to 60 on two free cores, most of it imports in three processes.
Four start at once.
"""

RESPONSE_WITHIN = 120.0
"""Seconds that a response may take on a busy machine."""

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
    """A vLLM that a `VllmServer` has started: reached past every router, with its own key."""

    def __init__(self, model: str, status: InstanceStatus, log: Path) -> None:
        """`model`: what it calls its model. `status`: of one that runs."""
        assert status.pid is not None
        self.model = model
        self.status = status
        self.address = status.address
        self.pid = status.pid
        self.log = log
        variables = Path(f"/proc/{self.pid}/environ").read_bytes().decode().split("\0")
        [self.key] = [one.partition("=")[2] for one in variables if one.startswith("VLLM_API_KEY=")]

    def client(self) -> Client:
        return Client(self.address, RESPONSE_WITHIN)

    def request(self, method: str, target: str, body: Any = None, **options: Any) -> Response:
        """One request past the router, with the engine's key."""
        with self.client() as client:
            return client.request(method, target, body, **{"key": self.key, **options})

    def metric(self, name: str) -> float:
        """One of its own metrics, as `num_requests_running`."""
        return read_gauge(self.request("GET", "/metrics").body.decode(), f"vllm:{name}")

    def processes(self) -> dict[str, int]:
        """The processes of its session, by name; its leader, which speaks HTTP, is `leader`."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name, fields = (folder / "stat").read_text().rsplit(")", 1)
            except OSError:
                continue
            if int(fields.split()[3]) == self.pid and fields.split()[0] != "Z":
                pid = int(folder.name)
                found["leader" if pid == self.pid else name.partition("(")[2]] = pid
        return found


@contextlib.contextmanager
def behind_router(
    engine: VllmEngine, category: str, more: str = "", address: str | None = None
) -> Iterator[ServedRouter]:
    """The whole product in front of an engine: model `tiny`, route `team/alias:v1`, and `more`.

    To this router the engine is somebody else's. `address`: the way to it; None: its own.
    """
    config = CONFIG.format(
        address=address or engine.address, served_name=engine.model, category=category
    )
    with serving(config + more, environment={"TINY_ENGINE_KEY": engine.key}) as server:
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
    """A stream as it is written unasked: what stands beside the usage in the frame without a choice
    is in the frame before it.
    """
    frames = re.findall(rb".*?\n\n", body, re.DOTALL)
    (at,) = [at for at, frame in enumerate(frames) if b'"choices":[]' in frame]
    fingerprint = re.search(rb'"system_fingerprint":"[^"]*"', frames.pop(at))
    if fingerprint and b'"system_fingerprint"' not in frames[at - 1]:
        frames[at - 1] = frames[at - 1].removesuffix(b"}\n\n") + b"," + fingerprint[0] + b"}\n\n"
    return b"".join(frames)


def openai_client(router: Router, key: str | None = None) -> openai.OpenAI:
    """The SDK for a router, with its key or another one. It repeats nothing."""
    return openai.OpenAI(
        base_url=f"{router.address}/v1",
        api_key=router.key if key is None else key,
        max_retries=0,
        timeout=RESPONSE_WITHIN,
    )
