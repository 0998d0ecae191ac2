"""vLLM's sleep mode: its weights go to main memory (level 1) or away (2), its KV cache away.

The calls are those of 0.32.0's and 0.33.0's route tables. The build for CPUs answers them, and its
scheduler stops and goes on, but its workers ignore them, so that no memory is given back. What they
free of a real GPU, and level 2 on one, nobody has measured here.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpustack_fast.backends.base import Call, Sleep
from gpustack_fast.backends.vllm_flags import DEVELOPMENT

__all__ = ["SLEEP"]


def fall_asleep(level: int) -> Sequence[Call]:
    """Behind requests that still run, which there are none of: nobody is cut."""
    return [Call(path=f"/sleep?level={level}&mode=wait")]


def wake_up(level: int) -> Sequence[Call]:
    """With level 2 the weights are loaded before the KV cache takes what is left."""
    if level < 2:
        return [Call(path="/wake_up")]
    return [
        Call(path="/wake_up?tags=weights"),
        Call(path="/collective_rpc", body={"method": "reload_weights"}),
        Call(path="/wake_up?tags=kv_cache"),
    ]


SLEEP = Sleep(fall_asleep=fall_asleep, wake_up=wake_up, variables=(DEVELOPMENT,))
