"""The command line.

parser     arguments → Config → the command
check      `gpustack-fast check`
keys       `gpustack-fast keys …`
instances  `gpustack-fast status`, `drain` and `resume`
output     what a command writes, and an output that fails
"""
