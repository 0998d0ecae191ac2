"""Fields of a GPUStack deployment that this version does not have: the reason, and the way out."""

from __future__ import annotations

__all__ = ["REFUSED"]

_ONE_MACHINE = "this version runs engines on one machine alone"
_GIVEN_OUT = "GPUStack gives it out itself"

REFUSED = {
    "cluster_id": f"{_ONE_MACHINE}. Remove it",
    "cpu_offloading": "engines are placed on GPUs whole. Remove it; to offload on purpose write "
    'the engine\'s own flag, such as `backend_parameters = ["--cpu-offload-gb=8"]`',
    "description": "nobody would see it. Write it into `meta`, which clients can ask for",
    "distributable": f"{_ONE_MACHINE}. Remove it",
    "distributed_inference_across_workers": f"{_ONE_MACHINE}. Remove it; over the GPUs of this "
    "machine a model is divided by itself",
    "enable_model_route": "every model has a route of its name. Remove it; a route of that name "
    "under [[routes]] replaces it",
    "extended_kv_cache": "it needs LMCache, which the engines' environments do not hold. Write "
    'vLLM\'s own flag: `backend_parameters = ["--kv-offloading-size=16"]` (GiB of main memory)',
    "gpu_type_selector": "slices are named by their UUID. Write `gpu_selector = { gpu_ids = "
    '["MIG-..."] }` with one that `gpustack-fast gpus` shows',
    "id": f"{_GIVEN_OUT}. Remove it",
    "image_name": "engines run as processes and not in containers. Write `backend_version`, or "
    "`python` with the interpreter of an environment of your own",
    "owner_principal_id": "there are no users here, only keys. Write `allowed_keys`",
    "ready_replicas": f"{_GIVEN_OUT}. Remove it; `gpustack-fast status` shows how many run",
    "scaling_schedule": "this version does not change `replicas` by the clock. Remove it",
    "speculative_config": "it is the engine's own flag. Write `backend_parameters = "
    '[\'--speculative-config={"method": "ngram", "num_speculative_tokens": 4}\']`',
    "worker_selector": f"{_ONE_MACHINE}. Remove it; to choose GPUs write `gpu_selector`",
}
"""Clauses: `` `image_name` is not here: … . ``"""
