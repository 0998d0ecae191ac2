"""The facts of a model, the load that it is asked to carry, and the memory that both come to.

They are documents: a machine that reads a model may be another than the one that places it.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["UNKNOWN", "Estimate", "Format", "Load", "ModelFacts", "Part"]

Format = Literal["safetensors", "gguf"]


class ModelFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the files of a model say. Sizes are bytes, lengths tokens."""

    architecture: str
    """As the files name it: `Qwen3ForCausalLM`; of a GGUF file its `general.architecture`."""
    format: Format
    generates: bool
    """Whether it writes text; False: it embeds, ranks, transcribes and the like."""
    weight_bytes: int
    """Of all weights, as they are loaded when nothing changes their type."""
    parameters: int
    """The number of the weights' values; 0: unknown, as of some quantised files."""
    dtype_bytes: float
    """Of one value of the activations and, unless it is quantised, of the weights."""
    quantization: str = ""
    """`awq`, `gptq`, `fp8`, `Q4_K_M`; empty: none."""
    layers: int
    heads: int
    kv_heads: int
    """The heads of keys and values of the layer that has the most."""
    vocabulary: int
    hidden: int
    context: int
    """The longest context that it was made for; 0: unknown."""
    experts: int = 0
    """Of each mixture-of-experts layer; 0: it is dense."""
    kv_bytes_per_token: float
    """Of keys and values of one token in all layers that keep every token, at `dtype_bytes`."""
    kv_splits_by_heads: bool = True
    """Whether tensor parallelism divides the KV cache, as far as there are heads; MLA's is not."""
    kv_window_bytes_per_token: float = 0.0
    """The same of the layers that keep a window alone."""
    window: int = 0
    """Tokens that those layers keep."""
    window_layers: int = 0
    """How many they are."""
    full_layers: int = 0
    """Layers that keep every token."""
    state_bytes: int = 0
    """Per sequence, whatever its length: of recurrent layers (Mamba and the like)."""
    multimodal: bool = False
    assumptions: list[str] = []
    """What was taken for granted since no file says it, in sentences."""


UNKNOWN = ModelFacts(
    architecture="",
    format="safetensors",
    generates=True,
    weight_bytes=0,
    parameters=0,
    dtype_bytes=2,
    layers=0,
    heads=0,
    kv_heads=0,
    vocabulary=0,
    hidden=0,
    context=0,
    kv_bytes_per_token=0,
)
"""Of files of a kind that nobody here can read: the only facts without weights."""


class Load(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine is asked to carry, and how it is divided."""

    tensor: int = 1
    pipeline: int = 1
    context: int
    """Tokens of the longest request."""
    sequences: int
    """Requests of that length whose KV cache must have room at the same time."""
    batched_tokens: int = 8192
    """The most tokens of one step."""
    dtype_bytes: float | None = None
    """Of one value of the activations; None: that of the model."""
    kv_dtype_bytes: float | None = None
    """Of one value in the KV cache; None: that of the activations."""
    weight_bytes: int | None = None
    """Of all weights, where the engine changes their type at the load; None: as they are."""
    graphs: bool = True
    """Whether CUDA graphs are captured."""


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of an estimate."""

    name: str
    """weights, kv_cache, activations, graphs, runtime."""
    bytes: int
    how: str
    """The reckoning, for a person: `36 layers x 8 heads x 128 x 2 x 2 bytes x 8,192 tokens x 4`."""


class Estimate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The memory of the GPU that takes the most, among those of one instance."""

    parts: list[Part]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(part.bytes for part in self.parts)
