"""How long a model's context is, as its engine tells it.

vLLM, SGLang                 /v1/models   data[].max_model_len
llama.cpp                    /v1/models   data[].meta.n_ctx (since December 2025)
text-embeddings-inference    /info        max_input_length
others                       /v1/models   data[].context_length (OpenRouter, Together),
                                          .context_window (Groq), .max_context_length (Mistral)

An older llama.cpp tells there only how long the context was in training, which may be far more than
it serves: that is not taken for it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["context_length"]

_OF_A_MODEL = ("max_model_len", "context_length", "context_window", "max_context_length")
_OF_ITS_META = ("n_ctx",)
_OF_THE_SERVER = ("max_input_length",)
_LONGEST = 2**53
"""Beyond it, JSON readers round."""


def context_length(document: object, name: str) -> int | None:
    """The tokens of the model that the engine calls `name`; None: it does not tell.

    `document`: what the engine answers at the path of its facts.
    """
    if not isinstance(document, dict):
        return None
    models = document.get("data")
    if not isinstance(models, list):
        return _first(document, _OF_THE_SERVER)
    found = [model for model in models if isinstance(model, dict)]
    named = [model for model in found if model.get("id") == name]
    # An engine of one model may know it by another name than it lists.
    model = named[0] if named else found[0] if len(found) == 1 else {}
    length = _first(model, _OF_A_MODEL)
    meta = model.get("meta")
    if length is None and isinstance(meta, dict):
        return _first(meta, _OF_ITS_META)
    return length


def _first(of: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these members that is a number of tokens."""
    for name in names:
        value = of.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LONGEST:
            return value
    return None
