"""The facts of a model from its config.json, as transformers writes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from gpustack_fast import plain_files
from gpustack_fast.errors import printable
from gpustack_fast.sizing.bounds import within_bounds
from gpustack_fast.sizing.cache import Cache, cache_of, heads_of
from gpustack_fast.sizing.documents import ModelFacts
from gpustack_fast.sizing.errors import FactsError
from gpustack_fast.sizing.families import Family, family_of
from gpustack_fast.sizing.fields import Fields
from gpustack_fast.sizing.layers import experts_of, layers_of
from gpustack_fast.sizing.parameters import Parameters, parameters_of, vision_parameters
from gpustack_fast.sizing.quantization import (
    Quantization,
    dtype_bytes,
    quantization_of,
    weight_bytes,
)

__all__ = ["Weights", "facts_of_config", "read_json"]

_LARGEST_FILE = 16 * 1024 * 1024
_PLAIN = Family()
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_OTHER_PARTS = (
    "vision_config",
    "visual",
    "vision_tower_config",
    "audio_config",
    "speech_config",
    "encoder_config",
)
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_LENGTHENED = ("linear", "dynamic", "ntk")
"""Kinds of rope scaling whose factor is not in the length already (vLLM, `config/model.py`)."""
_POOLS = (
    "Classification",
    "ClassificationModel",
    "EmbeddingModel",
    "ForMaskedLM",
    "ForRewardModeling",
    "ForTextEncoding",
    "Model",
    "RewardModel",
)
"""Ends of the names of architectures that write nothing (vLLM, `config/model.py`)."""
_WRITES = ("ChatGLMModel", "ChatModel", "LMHeadModel")
"""Those that do, in spite of their end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What the files of the weights tell, or their sizes alone."""

    bytes: int
    parameters: int = 0
    """0: unknown, or packed."""
    dtype: str = ""
    """Of most of them; empty: unknown."""
    assumptions: tuple[str, ...] = ()


def read_json(path: Path) -> dict[str, object]:
    """An object from a file. Raises FactsError, whose sentences name the file."""
    where = printable(str(path))
    try:
        content: object = json.loads(plain_files.read_bytes(path, _LARGEST_FILE, pipes=False))
    except OSError as error:
        raise FactsError(
            f"{where} cannot be read: {error.strerror}. Fetch the model again, or name its folder."
        ) from error
    except (ValueError, RecursionError) as error:
        raise FactsError(
            f"{where} is no JSON that can be read. It may have been fetched in part: fetch the "
            "model again."
        ) from error
    if not isinstance(content, dict):
        raise FactsError(f"{where} must be a JSON object. Fetch the model again.")
    return content


def facts_of_config(
    content: Mapping[str, object],
    where: str,
    weights: Weights | None = None,
    *,
    embeds: bool = False,
) -> ModelFacts:
    """`weights` None: their files are unknown, and their size is reckoned. `embeds`: a file beside
    the configuration says that the model makes embeddings.

    Raises FactsError for fields that contradict their meaning, and without a number of layers.
    """
    config = Fields(content, where)
    assumptions: list[str] = list(weights.assumptions) if weights is not None else []
    text, family = _text_part(config, assumptions)
    layers = layers_of(text, family)
    architecture = _architecture(config)
    quantization = quantization_of(config, text)
    each = _dtype(config, text, weights, quantization, assumptions)
    counted = _count(config, text, family, architecture)
    if weights is None:
        assumptions.append(
            "No file of its weights is known: their size is reckoned from the configuration."
        )
    whole = weight_bytes(counted, each, quantization) if weights is None else weights.bytes
    heads = heads_of(text, "full")
    kept = _kept(text, family, each)
    facts = ModelFacts(
        architecture=architecture or text.text("model_type"),
        format="safetensors",
        generates=not embeds and _generates(architecture, text, family),
        weight_bytes=whole,
        parameters=_parameters(counted, weights, quantization),
        dtype_bytes=each,
        quantization=quantization.method,
        layers=len(layers),
        heads=heads.queries,
        kv_heads=kept.kv_heads,
        vocabulary=text.count("vocab_size", "padded_vocab_size", largest=1 << 28),
        hidden=text.count("hidden_size", "n_embd", "d_model", largest=1 << 24),
        context=_context(text),
        experts=experts_of(text),
        kv_bytes_per_token=kept.kv_bytes_per_token,
        kv_splits_by_heads=kept.splits_by_heads,
        kv_window_bytes_per_token=kept.kv_window_bytes_per_token,
        window=kept.window,
        window_layers=kept.window_layers,
        full_layers=kept.full_layers,
        state_bytes=kept.state_bytes,
        multimodal=config.has(*_OTHER_PARTS),
        assumptions=assumptions,
    )
    return within_bounds(facts, where)


def _text_part(config: Fields, assumptions: list[str]) -> tuple[Fields, Family]:
    """The part of the configuration that is about text, with the defaults of its family."""
    text = config
    for _ in range(2):  # Qwen's Omni: the text part of the part that thinks
        if (below := text.below(*_TEXT_PARTS)) is not None:
            text = below
    if text is not config and not text.has("tie_word_embeddings"):
        tied = config.content.get("tie_word_embeddings")
        text = text.with_defaults({"tie_word_embeddings": tied} if tied is not None else {})
    model_type = text.text("model_type") or config.text("model_type")
    family = family_of(model_type)
    if family is None:
        family = _PLAIN
        assumptions.append(
            f"The type of model {printable(model_type) or 'that the file names'} is not known "
            "here: its memory is reckoned from the usual fields, as of most models."
            if model_type
            else "The configuration does not name a type of model: its memory is reckoned from the "
            "usual fields, as of most models."
        )
    text = text.with_defaults({"model_type": model_type, **family.defaults})
    if model_type == "whisper":
        width, layers = text.count("d_model"), text.count("decoder_layers")
        text = text.with_defaults({"hidden_size": width})
        text = Fields({**text.content, "num_hidden_layers": layers}, text.where)
    return text, family


def _architecture(config: Fields) -> str:
    names = config.texts("architectures")
    return names[0][:200] if names else ""


def _generates(architecture: str, text: Fields, family: Family) -> bool:
    if family.encoder or text.text("model_type") == "whisper":
        return False
    return architecture.endswith(_WRITES) or not architecture.endswith(_POOLS)


def _dtype(
    config: Fields,
    text: Fields,
    weights: Weights | None,
    quantization: Quantization,
    assumptions: list[str],
) -> float:
    """Bytes of one value of the activations."""
    names = [config.text("dtype", "torch_dtype"), text.text("dtype", "torch_dtype")]
    if (vision := config.below("vision_config")) is not None:
        names.append(vision.text("dtype", "torch_dtype"))
    if weights is not None and not quantization.method:
        names.append(weights.dtype)
    found = dtype_bytes(names)
    if found >= 2:
        return found
    if not quantization.method:
        assumptions.append(
            "No file says the type of its values: two bytes each are taken for granted."
        )
    return 2.0


def _count(config: Fields, text: Fields, family: Family, architecture: str) -> Parameters:
    counted = parameters_of(text, family, layers_of(text, family), architecture)
    hidden = text.count("hidden_size", "d_model", largest=1 << 24)
    for name in _OTHER_PARTS:
        if (part := config.below(name)) is not None:
            counted += vision_parameters(part, hidden)
    return counted


def _parameters(counted: Parameters, weights: Weights | None, quantization: Quantization) -> int:
    """Those of the files are right, unless values are packed in them."""
    if weights is not None and weights.parameters and not quantization.method:
        return weights.parameters
    return counted.total


def _kept(text: Fields, family: Family, each: float) -> Cache:
    if family.encoder:
        heads = heads_of(text, "full")
        return Cache(0, 0, True, heads.pairs, 0, 0, 0, 0)
    kept = cache_of(text, layers_of(text, family), each)
    if text.text("model_type") != "whisper":
        return kept
    # Each sequence keeps the keys and values of what was heard, whatever it writes.
    heard = text.count("max_source_positions", default=1500, largest=1 << 24)
    return dataclasses.replace(kept, state_bytes=round(kept.kv_bytes_per_token * heard))


def _context(text: Fields) -> int:
    """0: unknown."""
    lengths = [found for name in _LENGTHS if (found := text.number(name)) is not None and found > 0]
    if not lengths:
        return 0
    rope = text.below("rope_parameters", "rope_scaling")
    if rope is not None and rope.text("rope_type", "type") in _LENGTHENED:
        factor = rope.content.get("factor")
        if isinstance(factor, int | float) and 1 <= factor <= 1 << 20:
            return int(min(lengths) * factor)
    return min(lengths)
