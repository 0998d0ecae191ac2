"""One file per kind of engine; a new one is a new file with a value `ENGINE`, and nothing else.

    base            an engine as a value, and what it is started with
    demand          what an instance asks of GPUs
    facts           facts of an engine that the data plane needs
    context_length  how long a model's context is, as its engine tells it
    known           the engines of all files, by name
    flags           an engine's flags, as they were recorded from its own program
    parallel        how a model is divided over GPUs
    files           where a model's files are
    external        an engine that somebody else runs: one of the following, or any other
    llama_cpp       llama.cpp through the wheel `xllamacpp`
    vllm            vLLM; beside it vllm_flags (its command line), vllm_memory (what it asks of
                    GPUs), vllm_parsers (of tool calls and reasoning, by family), vllm_log (what it
                    writes, and its metrics)
    tensorrt_llm    TensorRT-LLM                    not run by us
    sglang          SGLang                          not run by us; in an environment of the user's
    vllm_omni       vLLM with pictures and speech   "
    custom          any program, by a command line of the user's
    tei             Text Embeddings Inference       facts alone: somebody else runs it

ENGINES is all that the configuration's `engine` may name, so what may respond at an address: each
with its facts, for the data plane, and with a Backend where this server can run it. BACKENDS is all
that `backend` may name: those Backends, and `external`.

`llama_cpp_main` and `exec_stub` are programs of their own: they are run by path and import nothing
of this package.
"""

from __future__ import annotations

from gpustack_fast.backends.base import (
    Backend,
    BackendError,
    Call,
    Command,
    Engine,
    Model,
    Place,
    Progress,
    Sign,
    Sleep,
    WarmUp,
)
from gpustack_fast.backends.context_length import context_length
from gpustack_fast.backends.demand import Demand, Shape
from gpustack_fast.backends.facts import INFERENCE_PATHS, Dialect, EngineFacts, ReasoningNames
from gpustack_fast.backends.known import (
    BACKENDS,
    ENGINES,
    context_path_of,
    facts_of,
    ready_path_of,
)

__all__ = [
    "BACKENDS",
    "ENGINES",
    "INFERENCE_PATHS",
    "Backend",
    "BackendError",
    "Call",
    "Command",
    "Demand",
    "Dialect",
    "Engine",
    "EngineFacts",
    "Model",
    "Place",
    "Progress",
    "ReasoningNames",
    "Shape",
    "Sign",
    "Sleep",
    "WarmUp",
    "context_length",
    "context_path_of",
    "facts_of",
    "ready_path_of",
]
