"""gpustack-fast: GPUStack's inference APIs as a fast native router, and the manager of the engines
behind it.
"""
