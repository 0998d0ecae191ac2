"""The memory of a GPU that an instance takes: pure.

The rules of weights and cache are vLLM's (0.32: `config/model.py`, `v1/kv_cache_interface.py`,
`v1/core/kv_cache_utils.py`); what an engine needs beside them is taken from what it is seen to
take, and meant to be rather too much than too little.
"""

from __future__ import annotations

import math

from msgspec import structs

from gpustack_fast.sizing.documents import Estimate, Load, ModelFacts, Part

__all__ = ["BLOCK", "estimate", "process_bytes"]

GIB = 1 << 30
MIB = 1 << 20

BLOCK = 16
"""Tokens of a block of the cache, vLLM's smallest."""
_CONTEXT = 512 * MIB
"""What CUDA and its libraries take of a GPU for one process."""
_NCCL = 512 * MIB
"""The buffers of GPUs that work together."""
_LOADING = 0.05
"""Of the weights: what rounding, repacking and what every GPU holds whole come to."""
_WIDTHS = 16
"""What is alive at the widest moment of a step, in widths of the model for each token: residual,
norm and attention some 4, a feed-forward part of 4 widths with its gate 12.
"""
_UNDIVIDED = 4
_LARGEST = 1 << 58
"""Bytes that no GPU has: what a file or a flag makes larger stays a number of every document."""
_SAMPLED = 256
"""Sequences for which vLLM keeps room at least when it samples."""


def estimate(facts: ModelFacts, load: Load) -> Estimate:
    """The memory of that GPU which takes the most, among those of one instance."""
    weights = _weights(facts, load)
    parts = [weights, _cache(facts, load), _activations(facts, load)]
    if load.graphs:
        parts.append(_graphs(facts, load))
    parts.append(_runtime(load, weights.bytes))
    return Estimate(
        parts=[structs.replace(part, bytes=min(part.bytes, _LARGEST)) for part in parts]
    )


def _stage(facts: ModelFacts, load: Load) -> tuple[int, int]:
    """The layers of the longest stage of a pipeline, and of all."""
    return -(-facts.layers // load.pipeline), facts.layers


def _weights(facts: ModelFacts, load: Load) -> Part:
    """The first and last stage hold an embedding beside their layers."""
    whole = facts.weight_bytes if load.weight_bytes is None else load.weight_bytes
    how = f"{_size(whole)}"
    share = float(whole)
    longest, layers = _stage(facts, load)
    if load.pipeline > 1 and layers:
        embedding = min(share, facts.vocabulary * facts.hidden * facts.dtype_bytes)
        share = (share - embedding) * longest / layers + embedding
        how += f" x {longest} of {layers} layers and an embedding"
    if load.tensor > 1:
        share /= load.tensor
        how += f" / {load.tensor} GPUs"
    return Part(name="weights", bytes=math.ceil(share), how=how)


def _computed(facts: ModelFacts, load: Load) -> float:
    """Bytes of one value of what the engine computes with."""
    return facts.dtype_bytes if load.dtype_bytes is None else load.dtype_bytes


def _cache(facts: ModelFacts, load: Load) -> Part:
    """Keys and values of all sequences at their longest, and their states."""
    longest, layers = _stage(facts, load)
    stage = longest / layers if layers else 1.0
    heads, shared = 1.0, ""
    if facts.kv_splits_by_heads and facts.kv_heads and load.tensor > 1:
        each = -(-facts.kv_heads // load.tensor)
        heads = each / facts.kv_heads
        shared = f" x {each} of {facts.kv_heads} heads"
    elif load.tensor > 1 and facts.kv_bytes_per_token:
        shared = ", whole on each GPU"
    if load.pipeline > 1 and layers:
        shared += f" x {longest} of {layers} layers"
    computed = _computed(facts, load)
    kept = computed if load.kv_dtype_bytes is None else load.kv_dtype_bytes
    scale = stage * heads * kept / facts.dtype_bytes
    pieces, one = [], 0.0
    if facts.kv_bytes_per_token:
        tokens = _blocks(load.context) * BLOCK
        padded, groups = _padded(facts, facts.full_layers, facts.kv_bytes_per_token)
        one += padded * scale * tokens
        pieces.append(f"{_bytes(padded)} x {tokens:,} tokens{groups}")
    if facts.kv_window_bytes_per_token:
        tokens = _window_tokens(facts, load)
        padded, groups = _padded(facts, facts.window_layers, facts.kv_window_bytes_per_token)
        one += padded * scale * tokens
        pieces.append(f"{_bytes(padded)} x {tokens:,} tokens of a window{groups}")
    if facts.state_bytes:
        # Not less for a narrower type: a file may want 32 bits for a state whatever computes.
        one += facts.state_bytes * max(1.0, computed / facts.dtype_bytes) * stage / load.tensor
        pieces.append(f"{_size(facts.state_bytes)} of state")
    if not pieces:
        return Part(name="kv_cache", bytes=0, how="none: it keeps nothing of a sequence")
    how = f"({' + '.join(pieces)}) x {load.sequences:,} sequences{shared}"
    if kept != facts.dtype_bytes:
        how += f" x {kept:g} of {facts.dtype_bytes:g} bytes"
    return Part(name="kv_cache", bytes=math.ceil(one * load.sequences), how=how)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def _window_tokens(facts: ModelFacts, load: Load) -> int:
    """Tokens that a layer keeps of a window while a step's tokens come on top of it."""
    tokens = min(facts.window - 1 + load.batched_tokens, load.context)
    return (_blocks(tokens) + 1) * BLOCK  # a window need not begin where a block does


def _padded(facts: ModelFacts, layers: int, size: float) -> tuple[float, str]:
    """Bytes of one token in so many layers of a kind, which take `size`: vLLM puts layers of one
    kind in groups of one size, the last of which may have gaps.
    """
    full, narrow = facts.full_layers, facts.window_layers
    if not full or not narrow:
        return size, ""
    group = min(full, narrow)
    if max(full, narrow) < group * 1.5:
        group = max(full, narrow)
    padded = -(-layers // group) * group
    if padded == layers:
        return size, ""
    return size * padded / layers, f" ({layers} layers in groups of {group})"


def _activations(facts: ModelFacts, load: Load) -> Part:
    """What one step needs, and the logits of those that write."""
    widths = float(_WIDTHS)
    if load.tensor > 1 and not facts.experts:
        widths = _UNDIVIDED + (_WIDTHS - _UNDIVIDED) / load.tensor
    if facts.multimodal:
        widths += 2  # what was seen waits for its tokens
    each = _computed(facts, load)
    total = load.batched_tokens * facts.hidden * each * widths
    how = f"{load.batched_tokens:,} tokens x {facts.hidden:,} x {each:g} bytes x {widths:g}"
    if facts.generates:
        sampled = max(load.sequences, _SAMPLED)
        total += facts.vocabulary * sampled * 4
        how += f" + {facts.vocabulary:,} logits x {sampled:,} sequences x 4 bytes"
    return Part(name="activations", bytes=math.ceil(total), how=how)


def _graphs(facts: ModelFacts, load: Load) -> Part:
    """Between 0.25 and 3 GiB; 1 GiB for 32 layers that are 4,096 wide."""
    longest, _ = _stage(facts, load)
    share = longest * facts.hidden / (32 * 4096)
    amount = math.ceil(min(3.0, max(0.25, share)) * GIB)
    return Part(
        name="graphs",
        bytes=amount,
        how=f"CUDA graphs of {longest} layers that are {facts.hidden:,} wide",
    )


def process_bytes(gpus: int) -> int:
    """What a process has of each GPU before it loads anything. `gpus`: those that work together."""
    return _CONTEXT if gpus == 1 else _CONTEXT + _NCCL


def _runtime(load: Load, weights: int) -> Part:
    total, how = process_bytes(load.tensor * load.pipeline), "the driver's part of a process"
    if load.tensor * load.pipeline > 1:
        how += ", buffers between GPUs"
    extra = math.ceil(weights * _LOADING)
    return Part(
        name="runtime",
        bytes=total + extra,
        how=f"{how}, {_LOADING:.0%} of the weights for rounding and repacking",
    )


def _size(amount: float) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
        if amount >= unit:
            return f"{amount / unit:.2f} {name}"
    return f"{amount:,.0f} bytes"


def _bytes(amount: float) -> str:
    return f"{amount:,.0f} bytes"
