"""Models and places for tests of backends."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec

from gpustack_fast.backends import Place, Shape
from gpustack_fast.config import ModelConfig
from gpustack_fast.sizing import ModelFacts

__all__ = ["adapter", "config", "facts", "place"]

GIB = 2**30


def config(backend: str, *parameters: str, **more: Any) -> ModelConfig:
    """A model `m` of the repository `org/model`, unless `more` says otherwise."""
    values: dict[str, Any] = {
        "name": "m",
        "backend": backend,
        "source": "huggingface",
        "huggingface_repo_id": "org/model",
        "backend_parameters": list(parameters),
        **more,
    }
    return msgspec.convert(values, ModelConfig)


def place(files: Path, **more: Any) -> Place:
    """A place with everything that an engine may need."""
    found = Place(
        python=Path("/env/bin/python"),
        version="0.32.0",
        socket=Path("/run/m-abcde.sock"),
        port=40_001,
        key="the-engine-key",
        files=files,
        adapters={},
        devices=(),
        shape=Shape(),
        share=None,
        facts=None,
    )
    return dataclasses.replace(found, **more)


def facts(**more: Any) -> ModelFacts:
    """Qwen3-8B's, in short."""
    values: dict[str, Any] = {
        "architecture": "Qwen3ForCausalLM",
        "format": "safetensors",
        "generates": True,
        "weight_bytes": 16 * GIB,
        "parameters": 8 * 10**9,
        "dtype_bytes": 2.0,
        "layers": 36,
        "heads": 32,
        "kv_heads": 8,
        "vocabulary": 151_936,
        "hidden": 4096,
        "context": 40_960,
        "kv_bytes_per_token": 147_456.0,
        "full_layers": 36,
        **more,
    }
    return ModelFacts(**values)


def adapter(folder: Path, rank: object = 16) -> Path:
    """A folder that says it is an adapter (LoRA) of this rank."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder
