"""The rule that what a model asks of GPUs can be reckoned, by what its start reckons it with."""

from __future__ import annotations

from msgspec.structs import replace

from gpustack_fast.backends import Backend, BackendError
from gpustack_fast.backends.parallel import VRAM_CLAIM
from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import KeyPath, ModelConfig
from gpustack_fast.sizing import UNKNOWN, ModelFacts

__all__ = ["check_demands"]


def check_demands(
    path: KeyPath, model: ModelConfig, backend: Backend, facts: ModelFacts | None = None
) -> RuleBroken | None:
    """What is wrong with a model's settings. `facts`: None: its files were not looked at, and may
    be of a model that is divided as is asked.
    """
    if backend.demands is None:
        return None
    selector = model.gpu_selector
    wanted = (selector.gpus_per_replica if selector is not None else None) or 0
    if facts is None:
        facts = replace(UNKNOWN, heads=wanted, kv_heads=wanted, layers=wanted, weight_bytes=1)
    try:
        backend.demands(model, facts, max(1, wanted))
    except BackendError as error:
        return RuleBroken(_place(path, model, str(error)), str(error))
    return None


def _place(path: KeyPath, model: ModelConfig, told: str) -> KeyPath:
    if VRAM_CLAIM in told:
        return (*path, "env", VRAM_CLAIM) if VRAM_CLAIM in model.env else path
    if "backend_parameters" in told or model.backend_parameters:
        return (*path, "backend_parameters")
    return path if model.gpu_selector is None else (*path, "gpu_selector")
