"""TensorRT-LLM (`trtllm-serve`), as somebody else runs it.

The paths are those of `serve/openai_server.py` of 1.2 and later, read in the source; no such server
was asked.
"""

from __future__ import annotations

from gpustack_fast.backends.base import Engine
from gpustack_fast.backends.facts import EngineFacts

__all__ = ["ENGINE"]

ENGINE = Engine(
    name="tensorrt_llm",
    facts=EngineFacts(
        dialects=("openai",),
        stream_usage=True,
        health_path="/health",
        admin_paths=(
            # Reading these empties them: they belong to whoever watches the engine.
            "/metrics",
            "/perf_metrics",
            "/energy_metrics",
            "/kv_cache_events",
            "/prometheus",
            # For training and for disaggregated serving.
            "/release_memory",
            "/resume_memory",
            "/update_weights",
            "/server_info",
            "/cluster_info",
            "/steady_clock_offset",
            "/v1/kv_cache_hints",
            "/v1/data_transceiver_state",
            # Its store of responses is on by default: everybody's can be read and deleted here.
            "/v1/responses",
            # So can everybody's videos.
            "/v1/videos",
        ),
        cancel_lag=1.0,  # it looks once a second whether the client is still there
    ),
)
