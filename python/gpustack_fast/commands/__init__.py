"""What a person types.

parser  arguments → Config → the command
keys    `gpustack-fast keys …`
"""
