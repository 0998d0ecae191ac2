"""What a model's files say of it, and the memory of a GPU that it takes.

documents     ModelFacts, Load, Estimate
facts         a folder or a GGUF file -> ModelFacts; chooses among the files
memory        ModelFacts and Load -> Estimate, as vLLM reckons
config_json   a config.json -> ModelFacts
layers        what each layer keeps and how it feeds forward
cache         bytes of keys, values and states
parameters    how many values the weights have, by the configuration alone
quantization  what a quantised model's weights come to
families      what a configuration leaves out, by type of model
gguf_facts    the metadata of a GGUF file -> ModelFacts
gguf, safetensors   the heads of such files; anybody may have written them
fields        fields of JSON, read without trust
bounds        no fact is larger than some machine could hold
errors        FactsError
"""

from __future__ import annotations

from gpustack_fast.sizing.documents import UNKNOWN, Estimate, Load, ModelFacts, Part
from gpustack_fast.sizing.errors import FactsError
from gpustack_fast.sizing.facts import gguf_file, missing_weights, read_facts
from gpustack_fast.sizing.memory import estimate, process_bytes

__all__ = [
    "UNKNOWN",
    "Estimate",
    "FactsError",
    "Load",
    "ModelFacts",
    "Part",
    "estimate",
    "gguf_file",
    "missing_weights",
    "process_bytes",
    "read_facts",
]
