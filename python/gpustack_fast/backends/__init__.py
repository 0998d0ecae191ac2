"""One file per kind of engine; a new one is a new file and a row here.

    base            what the supervisor must know of an engine
    facts           what the data plane must know of one
    llama_cpp       llama.cpp through the wheel `xllamacpp`
    external        an engine that somebody else runs: one of the following, llama.cpp, or any other
    vllm            vLLM                  what is known of it
    tensorrt_llm    TensorRT-LLM          "
    sglang          SGLang                "
    tei             Text Embeddings Inference

`llama_cpp_main` and `exec_stub` are programs of their own: they are run by path and import nothing
of this package.
"""

from __future__ import annotations

from gpustack_fast.backends.base import Backend, BackendError, Command, Place
from gpustack_fast.backends.external import EXTERNAL
from gpustack_fast.backends.facts import INFERENCE_PATHS, EngineFacts
from gpustack_fast.backends.llama_cpp import LLAMA_CPP

__all__ = [
    "BACKENDS",
    "INFERENCE_PATHS",
    "Backend",
    "BackendError",
    "Command",
    "EngineFacts",
    "Place",
]

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (LLAMA_CPP, EXTERNAL)}
