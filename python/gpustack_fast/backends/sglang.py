"""SGLang, as somebody else runs it.

The paths are those of `entrypoints/http_server.py` in the wheel of 0.5.23.
"""

from __future__ import annotations

from gpustack_fast.backends.base import Engine
from gpustack_fast.backends.facts import EngineFacts

__all__ = ["ENGINE"]

ENGINE = Engine(
    name="sglang",
    facts=EngineFacts(
        dialects=("openai", "anthropic"),
        stream_usage=True,
        health_path="/health",
        admin_paths=(
            # It shows its arguments (API keys among them), its load, its weights.
            "/metrics",
            "/server_info",
            "/get_server_info",
            "/v1/loads",
            "/get_weights_by_name",
            "/weights_checker",
            "/list_external_corpora",
            "/get_remote_instance_transfer_engine_info",
            "/remote_instance_transfer_engine_info",
            "/get_hicache_l3_cache_layout",
            # They change it.
            "/flush_cache",
            "/hicache",
            "/add_external_corpus",
            "/remove_external_corpus",
            "/set_internal_state",
            "/set_trace_level",
            "/configure_logging",
            "/dumper",
            "/freeze_gc",
            "/slow_down",
            "/start_profile",
            "/stop_profile",
            "/start_expert_distribution_record",
            "/stop_expert_distribution_record",
            "/dump_expert_distribution_record",
            "/update_weights_from_disk",
            "/update_weights_from_tensor",
            "/update_weights_from_distributed",
            "/update_weights_from_ipc",
            "/update_weight_version",
            "/begin_weight_update",
            "/end_weight_update",
            "/init_weights_update_group",
            "/destroy_weights_update_group",
            "/init_weights_send_group_for_remote_instance",
            "/send_weights_to_remote_instance",
            "/release_memory_occupation",
            "/resume_memory_occupation",
            "/pause_generation",
            "/continue_generation",
            "/pd_role_switch",
            "/scale_elastic_ep",
            "/is_scaling_elastic_ep",
            "/load_lora_adapter",
            "/load_lora_adapter_from_tensors",
            "/unload_lora_adapter",
            # They belong to all of its clients at once.
            "/abort_request",
            "/open_session",
            "/close_session",
            "/v1/responses",
        ),
        cancel_lag=4.0,  # it looks every 4 s whether the client of a whole response is still there
    ),
)
