"""The GPUs of this machine.

reader      reads them in a thread of its own, within a deadline
driver      the NVIDIA driver, asked through pynvml
faults      waits for what they report by themselves: Xids, memory errors
xids        NVIDIA's numbers of errors: which eject, and what to do
words       what an error of the driver means, and the next step
documents   Gpu, MigSlice, GpuReport
"""

from gpustack_fast.gpus.documents import Gpu, GpuProcess, GpuReport, MigSlice
from gpustack_fast.gpus.reader import Reader
from gpustack_fast.gpus.xids import eject_reason

__all__ = ["Gpu", "GpuProcess", "GpuReport", "MigSlice", "Reader", "eject_reason"]
