"""The command line.

parser  arguments → Config → the command
keys    `gpustack-fast keys …`
"""
