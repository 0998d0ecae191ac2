"""What vLLM's log and metrics say, by the names of 0.32.0 and 0.33.0."""

from __future__ import annotations

from gpustack_fast.backends.base import Progress, Sign

__all__ = ["CAUSES", "PROGRESS", "STAGES"]

STAGES = (
    Sign(text="Resolved architecture", meaning="its configuration was read"),
    Sign(text="Initializing a V1 LLM engine", meaning="its processes are started"),
    Sign(text="Loading weights took", meaning="the weights were read"),
    Sign(text="Model loading took", meaning="the model is in memory"),
    Sign(text="torch.compile took", meaning="it was compiled"),
    Sign(text="Available KV cache memory", meaning="its memory was measured"),
    Sign(text="KV cache size:", meaning="the KV cache is made"),
    Sign(text="Graph capturing finished", meaning="the CUDA graphs are captured"),
    Sign(text="Starting vLLM server on", meaning="it begins to listen"),
)

CAUSES = (
    Sign(
        text="is less than desired GPU memory utilization",
        meaning="Something else has taken memory of its GPU. `gpustack-fast gpus` shows what; end "
        "that, or set a smaller --gpu-memory-utilization in backend_parameters.",
    ),
    Sign(
        text="Error in memory profiling",
        meaning="Another program gave memory of the same GPU back while it measured. Another start "
        "may do.",
    ),
    Sign(
        text="No available memory for the cache blocks",
        meaning="The weights leave no room for the KV cache. Set a larger "
        "--gpu-memory-utilization, give it more GPUs, or take a smaller model.",
    ),
    Sign(
        text="is larger than the available KV cache memory",
        meaning="The KV cache is too small for one request of --max-model-len. Set a smaller "
        "--max-model-len, or a larger --gpu-memory-utilization, in backend_parameters.",
    ),
    Sign(
        text="User-specified max_model_len",
        meaning="The model cannot look back as far as --max-model-len. Set a smaller one in "
        "backend_parameters, or leave it out.",
    ),
    Sign(
        text="CUDA out of memory",
        meaning="The memory of a GPU ran out. Set a smaller --max-num-seqs or --max-model-len in "
        "backend_parameters, or give the model more GPUs.",
    ),
    Sign(
        text="Cannot find any model weights",
        meaning="There are no weights among its files. Look into the folder, or let it be "
        "downloaded again (`gpustack-fast models remove`).",
    ),
    Sign(
        text="does not appear to have a file named",
        meaning="A file is missing among the model's, which the log names. Look into the folder, "
        "or let it be downloaded again (`gpustack-fast models remove`).",
    ),
    Sign(
        text="Error while deserializing header",
        meaning="A file of its weights is damaged. Let it be downloaded again (`gpustack-fast "
        "models remove`).",
    ),
    Sign(
        text="are not supported for now",
        meaning="This version of vLLM does not know the model's architecture. Name a newer "
        "backend_version.",
    ),
    Sign(
        text="does not recognize this architecture",
        meaning="This version of vLLM does not know the model's architecture. Name a newer "
        "backend_version.",
    ),
    Sign(
        text="contains custom code which must be executed",
        meaning="The model brings code of its own. If you trust it, add --trust-remote-code to "
        "backend_parameters.",
    ),
    Sign(
        text="NVIDIA driver on your system is too old",
        meaning="The driver of the GPUs is too old for this version. Update the driver, or name an "
        "older backend_version.",
    ),
    Sign(
        text="no kernel image is available for execution on the device",
        meaning="This version was not built for GPUs of this kind. Name another backend_version.",
    ),
    Sign(
        text="Failed to infer device type",
        meaning="It found no GPU. Look whether `gpustack-fast gpus` shows any.",
    ),
    *(
        Sign(
            text=text,
            meaning="Its processes talk through /dev/shm, and that is full. Make it larger (of a "
            "container: `--shm-size`), or remove what fills it.",
        )
        for text in (
            "No space left on device: '/dev/shm",
            "creating shared memory segment /dev/shm",  # NCCL's
            "unable to allocate shared memory",  # torch's
        )
    ),
    Sign(
        text="NCCL error in",
        meaning="Its GPUs cannot talk to each other (NCCL). The reason is in the log with "
        'env = { NCCL_DEBUG = "INFO" }; often it is /dev/shm that is too small, or the driver.',
    ),
    Sign(
        text="error: unrecognized arguments",
        meaning="This version does not know a flag in backend_parameters. Remove it, or name a "
        "backend_version that knows it.",
    ),
    Sign(
        text="Address already in use",
        meaning="Another program listens where it should. Each start takes another place.",
    ),
    Sign(
        text="Cannot access gated repo",
        meaning="It asks for files of a repository that needs an agreement. Agree on its page, and "
        "set HF_TOKEN for this server.",
    ),
    Sign(
        text="outgoing traffic has been disabled",
        meaning="It asks for a file that is not on the disk, and may not fetch it. Name a local "
        'one, or allow it with env = { HF_HUB_OFFLINE = "0", TRANSFORMERS_OFFLINE = "0" }.',
    ),
)
PROGRESS = Progress(
    path="/metrics",
    running="vllm:num_requests_running",
    tokens=(
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        # While a long prompt is read in parts, only these move.
        "vllm:iteration_tokens_total_count",
        "vllm:kv_cache_usage_perc",
    ),
)
