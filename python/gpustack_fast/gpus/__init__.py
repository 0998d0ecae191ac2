"""The GPUs of this machine.

documents   Gpu, MigSlice, GpuReport
"""
