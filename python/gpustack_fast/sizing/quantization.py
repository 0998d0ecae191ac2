"""How a model is quantised, and the bytes that its weights come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gpustack_fast.sizing.fields import Fields
from gpustack_fast.sizing.parameters import Parameters

__all__ = ["Quantization", "quantization_of", "weight_bytes"]


@dataclasses.dataclass(frozen=True)
class Quantization:
    """What the file says of it."""

    method: str
    """`awq`, `gptq`, `fp8`, `compressed-tensors`; empty: none."""
    bits: float
    """Of each value of a quantised matrix, its share of scales and zeros included."""
    kept: tuple[str, ...] = ()
    """Parts of names of what is left alone, as the file has them."""
    experts_alone: bool = False
    """Whether nothing but experts is quantised."""

    def keeps(self, *names: str) -> bool:
        """Whether what has one of these in its name is left alone."""
        return any(name in one for one in self.kept for name in names)


_NONE = Quantization("", 0)


def quantization_of(config: Fields, text: Fields) -> Quantization:
    """As the file has it, at its top or beside the text part."""
    found = config.below("quantization_config", "compression_config")
    found = found or text.below("quantization_config", "compression_config")
    if found is None:
        return _NONE
    method = found.text("quant_method", "quant_type").lower().replace("_", "-")
    algorithm = found.text("quant_algo").upper()
    if algorithm and method in ("", "modelopt"):
        method = "modelopt"
    kept = tuple(
        one.lower()
        for name in (
            "modules_to_not_convert",
            "ignore",
            "ignored_layers",
            "ignored_modules",
            "llm_int8_skip_modules",
            "exclude_modules",
        )
        for one in found.texts(name)
    )
    bits = _bits(found, method, algorithm)
    return Quantization(method or "unknown", bits, kept, method == "mxfp4")


def weight_bytes(counted: Parameters, dtype_bytes: float, quantization: Quantization) -> int:
    """Of all weights, when the files are not there to tell."""
    if not quantization.method:
        return round(counted.total * dtype_bytes)
    small = quantization.bits / 8
    takes_all = not quantization.experts_alone
    taken = {
        "attention": takes_all and not quantization.keeps("self_attn", "attention"),
        "dense": takes_all and not quantization.keeps("shared_expert"),
        "experts": True,
        # Who quantises a model that sees leaves alone what sees, and says so or not.
        "vision": False,
    }
    total = 0.0
    for field in dataclasses.fields(counted):
        each = small if taken.get(field.name, False) else dtype_bytes
        total += getattr(counted, field.name) * each
    return round(total)


def _bits(found: Fields, method: str, algorithm: str) -> float:
    """Of one value, with its share of what belongs to a group of them."""
    if method in ("awq", "gptq", "auto-round", "autoround", "gptq-marlin", "awq-marlin"):
        bits = found.count("bits", "w_bit", default=4, largest=16)
        return bits + _of_group(found, 16 + bits, "group_size", "q_group_size")
    if method == "bitsandbytes":
        return 4 + 32 / 64 if found.flag("load_in_4bit", False) else 8.0
    if method == "mxfp4" or "MXFP4" in algorithm:
        return 4 + 8 / 32
    if "NVFP4" in algorithm or "FP4" in algorithm:
        return 4 + 8 / 16
    if method == "compressed-tensors":
        return _compressed(found)
    if method in ("fp8", "fbgemm-fp8", "modelopt"):
        block = found.numbers("weight_block_size")
        return 8 + 32 / (block[0] * block[1]) if len(block) == 2 and all(block) else 8.0
    return float(found.count("bits", "w_bit", "weight_bits", "num_bits", default=8, largest=32))


def _compressed(found: Fields) -> float:
    """The most bits of all groups of compressed-tensors."""
    groups = found.below("config_groups")
    if groups is None:
        return 8.0
    most = 0.0
    for name in groups.content:
        group = groups.below(name)
        weights = group.below("weights") if group is not None else None
        if weights is not None:
            scale = 8 if weights.text("type") == "float" else 16
            bits = weights.count("num_bits", default=8, largest=32)
            most = max(most, bits + _of_group(weights, scale, "group_size"))
    return most or 8.0


def _of_group(found: Fields, bits: int, *names: str) -> float:
    """The share of one value in what its group has; -1, and nothing, stand for a whole channel."""
    for name in names:
        size = found.content.get(name)
        if type(size) is int and 0 < size < 1 << 20:
            return bits / size
    return 0.0


def dtype_bytes(names: Sequence[str]) -> float:
    """Bytes of one value of a type by its name in transformers or safetensors; 0: unknown."""
    for name in names:
        if name:
            return _TYPES.get(name.removeprefix("torch.").lower(), 0.0)
    return 0.0


_TYPES = {
    "float64": 8.0,
    "f64": 8.0,
    "float32": 4.0,
    "float": 4.0,
    "f32": 4.0,
    "float16": 2.0,
    "half": 2.0,
    "f16": 2.0,
    "bfloat16": 2.0,
    "bf16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "f8_e4m3": 1.0,
    "f8_e5m2": 1.0,
    "int8": 1.0,
    "i8": 1.0,
}
