"""The command line.

parser     arguments → Config → the command
keys       `gpustack-fast keys …`
instances  `gpustack-fast status`, `drain` and `resume`
"""
