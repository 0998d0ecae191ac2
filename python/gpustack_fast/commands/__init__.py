"""The command line.

parser     `main`, over arguments: each group of commands declares and runs itself
apply      `gpustack-fast apply`
check      `gpustack-fast check`
plan       `gpustack-fast plan`, over planning (the document) and model_facts (what is here)
keys       `gpustack-fast keys …`
models     `gpustack-fast models …`
instances  `gpustack-fast status`, `drain` and `resume`
handover   `gpustack-fast restart` and `upgrade`
logs       `gpustack-fast logs`
gpus       `gpustack-fast gpus`
engines    `gpustack-fast engines …`
running_server  the server of a data directory | interruption  a command that a person ends
output     what a command writes, and an output that fails
"""
