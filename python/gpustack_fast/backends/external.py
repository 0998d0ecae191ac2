"""An engine that somebody else runs: nothing is launched; what is known of it follows from the
model's `engine`.
"""

from __future__ import annotations

import dataclasses

from gpustack_fast.backends import vllm
from gpustack_fast.backends.base import Backend, BackendError, Command, Place
from gpustack_fast.backends.facts import EngineFacts
from gpustack_fast.backends.llama_cpp import LLAMA_CPP_FACTS
from gpustack_fast.backends.sglang import SGLANG
from gpustack_fast.backends.tei import TEI
from gpustack_fast.backends.tensorrt_llm import TENSORRT_LLM
from gpustack_fast.config import Engine, ModelConfig

__all__ = ["EXTERNAL", "FACTS"]

_KNOWN: dict[Engine, EngineFacts] = {
    "vllm": vllm.VLLM,
    "tensorrt_llm": TENSORRT_LLM,
    "sglang": SGLANG,
    "llama_cpp": LLAMA_CPP_FACTS,
    "tei": TEI,
}
_UNKNOWN = EngineFacts(
    dialects=("openai",),
    stream_usage=False,
    # Whatever it is, what is administrative elsewhere does not lie below its inference paths
    # either.
    admin_paths=tuple(sorted({path for facts in _KNOWN.values() for path in facts.admin_paths})),
    inference_paths_only=True,
    cancel_lag=1_000,
)
FACTS: dict[Engine, EngineFacts] = {"openai": _UNKNOWN, **_KNOWN}
"""What is known of each engine that a model's `engine` may name."""


def check(_: ModelConfig) -> None:
    """Every external model that the configuration allows is right: nothing of it is ours to
    decide.
    """


def command(model: ModelConfig, place: Place) -> Command:
    """There is none."""
    raise BackendError(f"The model {model.name} is external: it is not started here.")


def facts(model: ModelConfig) -> EngineFacts:
    """What is known of the model's engine; its own `dialects` win."""
    known = vllm.facts(model.env) if model.engine == "vllm" else FACTS[model.engine]
    return (
        known
        if model.dialects is None
        else dataclasses.replace(known, dialects=tuple(model.dialects))
    )


EXTERNAL = Backend(name="external", check=check, command=command, facts=facts, ready_path="/health")
