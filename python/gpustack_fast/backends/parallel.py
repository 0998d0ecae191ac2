"""How a model can be divided over GPUs: by tensors, by layers (pipeline), or as copies (data)."""

from __future__ import annotations

from collections.abc import Mapping

from gpustack_fast.backends.base import BackendError, Model, Place
from gpustack_fast.backends.demand import Shape
from gpustack_fast.sizing.documents import ModelFacts

__all__ = ["VRAM_CLAIM", "claim", "natural", "shape_given", "shapes", "visible", "whole"]

VRAM_CLAIM = "GPUSTACK_MODEL_VRAM_CLAIM"
"""GPUStack's variable in a model's `env`: bytes of GPU memory of one replica, over all its GPUs."""


def natural(text: str, flag: str, model: Model) -> int:
    """A size of 1 or more. Raises BackendError."""
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 6 and int(text) >= 1):
        raise BackendError(
            f"The model {model.name} has {flag} {text} in backend_parameters, which is no number "
            "of 1 or more. Correct it."
        )
    return int(text)


def whole(text: str | None) -> int | None:
    """A number of bytes or tokens; None: it is none."""
    digits = text is not None and text.isascii() and text.isdecimal() and len(text) <= 18
    return int(text) if text is not None and digits else None


def shape_given(model: Model, given: Mapping[str, str], names: Mapping[str, str]) -> Shape | None:
    """What the user's flags say; None: nothing.

    `names`: the flags of `tensor`, `pipeline` and `data`, as far as the engine has them. Raises
    BackendError.
    """
    sizes = {
        part: natural(given[flag], flag, model) for part, flag in names.items() if flag in given
    }
    return Shape(**sizes) if sizes else None


def shapes(model: Model, facts: ModelFacts, count: int, given: Shape | None) -> list[Shape]:
    """The shapes in which a model may run, those of the fewest GPUs first.

    What the user says (`given`, or `gpus_per_replica`) is the only one, also where there are fewer
    GPUs: nobody else knows what there will be. Raises BackendError.
    """
    wanted = None if model.gpu_selector is None else model.gpu_selector.gpus_per_replica
    if given is not None:
        if wanted is not None and wanted != given.gpus:
            raise BackendError(
                f"The model {model.name} asks for {wanted} GPUs by gpus_per_replica, but its "
                f"backend_parameters divide it over {given.gpus}. Correct one of the two."
            )
        _check(model, facts, given)
        return [given]
    if wanted is not None:
        return [_divided(model, facts, wanted)]
    found = []
    size = 1
    while size <= max(1, count):
        try:
            found.append(_divided(model, facts, size))
        except BackendError:
            break
        size *= 2
    return found


def _divided(model: Model, facts: ModelFacts, size: int) -> Shape:
    """A shape of so many GPUs: by tensors as far as the heads allow, and the rest by layers.

    Not by layers where tensors do, though the KV cache is copied to GPUs beyond its heads: every
    architecture runs divided by tensors, and not every one by layers.
    """
    for tensor in range(size, 0, -1):
        whole_stages = size % tensor == 0 and size // tensor <= max(1, facts.layers)
        if whole_stages and _divides(facts, tensor):
            return Shape(tensor=tensor, pipeline=size // tensor)
    if not facts.heads:
        raise BackendError(
            f"The model {model.name} cannot be divided over {size} GPUs: its files do not tell how "
            "many attention heads it has. Set gpus_per_replica to 1."
        )
    raise BackendError(
        f"The model {model.name} cannot be divided over {size} GPUs: it has {_heads(facts)} and "
        f"{facts.layers} layers. Choose another gpus_per_replica."
    )


def _divides(facts: ModelFacts, tensor: int) -> bool:
    """Whether engines divide the heads over so many GPUs: those of queries evenly, and of keys and
    values evenly, too, or each as copies on equally many.
    """
    pairs = facts.kv_heads or 1
    return (facts.heads or 1) % tensor == 0 and (pairs % tensor == 0 or tensor % pairs == 0)


def _heads(facts: ModelFacts) -> str:
    if facts.kv_heads in (0, facts.heads):
        return f"{facts.heads} attention heads"
    return f"{facts.heads} attention heads ({facts.kv_heads} of keys and values)"


def _check(model: Model, facts: ModelFacts, shape: Shape) -> None:
    if facts.heads and not _divides(facts, shape.tensor):
        fitting = [size for size in (1, 2, 3, 4, 5, 6, 7, 8, 16) if _divides(facts, size)]
        raise BackendError(
            f"The model {model.name} has {_heads(facts)}, which cannot be divided over "
            f"{shape.tensor} GPUs. Choose a tensor-parallel size that divides them, such as "
            f"{fitting[-1]}."
        )
    if facts.layers and shape.pipeline > facts.layers:
        raise BackendError(
            f"The model {model.name} has {facts.layers} layers, which cannot be divided into "
            f"{shape.pipeline} parts. Choose a smaller pipeline-parallel size."
        )


def claim(model: Model, shape: Shape) -> int | None:
    """Bytes of each GPU by the user's own word; None: he has not said it. Raises BackendError."""
    text = model.env.get(VRAM_CLAIM)
    if text is None:
        return None
    claimed = whole(text)
    if not claimed:
        raise BackendError(
            f"The variable {VRAM_CLAIM} of the model {model.name} must be a number of bytes. "
            "Correct it, or remove it."
        )
    return -(-claimed // shape.gpus)


def visible(model: Model, place: Place, *, slices: bool = False) -> dict[str, str]:
    """The variables that show an engine its GPUs, and no others; none where it has none.

    `slices`: whether it is known to take slices (MIG). Raises BackendError.
    """
    if not place.devices:
        return {}
    if not slices and any(name.startswith("MIG-") for name in place.devices):
        raise BackendError(
            f"The engine of the model {model.name} is not known to run on a slice of a GPU (MIG). "
            "Choose whole GPUs with gpu_selector."
        )
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(place.devices),
    }
