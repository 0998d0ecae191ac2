"""gpustack-fast: a native router for GPUStack's inference APIs, and a manager of engines."""
