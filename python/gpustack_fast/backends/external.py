"""An engine that somebody else runs: nothing is launched, and its connection facts are unknown, so they are careful."""

from __future__ import annotations

from gpustack_fast.backends.base import Backend, BackendError, Command, Place
from gpustack_fast.config import ModelConfig

__all__ = ["EXTERNAL"]


def check(_: ModelConfig) -> None:
    """Every external model that the configuration allows is right: nothing of it is ours to decide."""


def command(model: ModelConfig, place: Place) -> Command:
    """There is none."""
    raise BackendError(f"The model {model.name} is external: it is not started here.")


EXTERNAL = Backend(
    name="external",
    check=check,
    command=command,
    ready_path="/health",
    dialects=("openai",),
    # vLLM, TensorRT-LLM and llama.cpp all close after 5 s by default. A `Keep-Alive` header of the engine overrides it.
    idle_timeout=4_000,
    requests_per_connection=0,
    # vLLM stops within 30 ms, TensorRT-LLM within 1 s; which of them it is, is not known here.
    cancel_lag=1_000,
)
