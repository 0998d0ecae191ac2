"""The command line.

parser     arguments → Config → the command
check      `gpustack-fast check`
plan       `gpustack-fast plan`, over planning (the document) and model_facts (what is here)
keys       `gpustack-fast keys …`
models     `gpustack-fast models …`
instances  `gpustack-fast status`, `drain` and `resume`
engines    `gpustack-fast engines …`
output     what a command writes, and an output that fails
"""
