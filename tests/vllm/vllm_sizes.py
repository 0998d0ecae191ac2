"""What a real vLLM says of models: parameters, and the room of their KV cache.

    .vllm/venv/bin/python tests/vllm/vllm_sizes.py FOLDER...

vLLM builds each model without memory for its weights, asks its layers what they keep, and reckons
with that as its engine does at the start, without being one. A line of JSON for each folder:
`parameters`, `weight_bytes`, `request_bytes` (KV cache of one request of `CONTEXT` tokens),
`capacity` (tokens in `ROOM` bytes). Where any has experts, the first has: vLLM makes what they
need together with the process group.

It runs in vLLM's own environment, never in the project's. The names of vLLM's parts are those of
0.32.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.attention.backends import utils as backends
from vllm.v1.core import kv_cache_utils
from vllm.v1.worker.worker_base import get_current_attn_backends

CONTEXT = 2048
BATCHED_TOKENS = 256
BLOCK = 32
ROOM = 1 << 30


def sizes(folder: str) -> dict[str, Any]:
    arguments = EngineArgs(
        model=folder,
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=CONTEXT,
        max_num_batched_tokens=BATCHED_TOKENS,
        block_size=BLOCK,
        # Else the tokens of two steps are on their way.
        async_scheduling=False,
    )
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            # Port 0: whichever is free.
            init_distributed_environment(1, 0, "tcp://127.0.0.1:0", 0, "gloo")
            initialize_model_parallel(1, 1)
        with set_default_torch_dtype(torch.bfloat16), torch.device("meta"):
            model = initialize_model(vllm_config=config)
        layers = config.compilation_config.static_forward_context
        kept = {
            name: spec
            for name, layer in layers.items()
            if isinstance(layer, AttentionLayerBase)
            and (spec := layer.get_kv_cache_spec(config)) is not None
        }
        layouts = backends.get_supported_kv_cache_layouts(get_current_attn_backends(config))
        backends.resolve_kv_cache_layout(
            config, [[layout.name for layout in layouts]], kept.values()
        )
        [cache] = kv_cache_utils.get_kv_cache_configs(config, [kept], [ROOM])
        capacity, _ = kv_cache_utils.get_kv_cache_capacity(config, cache)
        request = kv_cache_utils._max_memory_usage_bytes_from_groups(config, cache.kv_cache_groups)
    weights = list(model.parameters())
    return {
        "parameters": sum(one.numel() for one in weights),
        "weight_bytes": sum(one.numel() * one.element_size() for one in weights),
        "request_bytes": request,
        "capacity": capacity,
    }


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(json.dumps(sizes(folder)), flush=True)
