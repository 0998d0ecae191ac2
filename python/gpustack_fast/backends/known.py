"""The engines of all files in this package, by name: nobody enters them anywhere else."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpustack_fast.backends.base import Backend, Engine, Model
from gpustack_fast.backends.external import EXTERNAL, any_other
from gpustack_fast.backends.facts import EngineFacts

__all__ = ["BACKENDS", "ENGINES", "context_path_of", "facts_of", "ready_path_of"]


def _files() -> Iterator[Engine]:
    """The value `ENGINE` of each file that has one."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"{__package__}.{found.name}")
        engine = getattr(module, "ENGINE", None)
        if isinstance(engine, Engine):
            yield engine


def _engines() -> dict[str, Engine]:
    known = list(_files())
    other = any_other(path for engine in known for path in engine.facts.admin_paths)
    return {engine.name: engine for engine in sorted([*known, other], key=lambda one: one.name)}


ENGINES = _engines()
"""All that `engine` may name in the configuration."""

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (*(engine.backend for engine in ENGINES.values()), EXTERNAL)
    if backend is not None
}
"""All that `backend` may name in the configuration: engines that run here, and `external`."""


def ready_path_of(model: Model) -> str:
    """The path that gets 200 when one of ours can serve."""
    backend = BACKENDS[model.backend]
    return backend.ready_path if backend.ready_path_for is None else backend.ready_path_for(model)


def context_path_of(model: Model) -> str | None:
    """The path at which a model's engines tell how long its context is; None: none is known."""
    engine = ENGINES.get(model.engine if model.backend == EXTERNAL.name else model.backend)
    return None if engine is None else engine.facts.context_path


def facts_of(model: Model) -> EngineFacts:
    """The facts of a model's engines; its own `dialects` and `stream_usage` win."""
    engine = ENGINES[model.engine if model.backend == EXTERNAL.name else model.backend]
    facts = engine.facts if engine.facts_for is None else engine.facts_for(model)
    if facts.inference_paths_only and not facts.admin_paths:
        # Nothing is known of it: whatever it is, it may be one of those that are known.
        facts = dataclasses.replace(facts, admin_paths=ENGINES["openai"].facts.admin_paths)
    own: dict[str, Any] = {}
    if model.dialects is not None:
        own["dialects"] = tuple(model.dialects)
    if model.stream_usage is not None:
        own["stream_usage"] = model.stream_usage
    return dataclasses.replace(facts, **own) if own else facts
