"""That facts are those of a model which some machine could hold."""

from __future__ import annotations

from gpustack_fast.sizing.documents import ModelFacts
from gpustack_fast.sizing.errors import FactsError

__all__ = ["MOST", "within_bounds"]

MOST = 1 << 62
"""Bytes, parameters and tokens that no model has; it fits the numbers of every document."""


def within_bounds(facts: ModelFacts, where: str) -> ModelFacts:
    """The same facts. Raises FactsError when one of them is larger."""
    largest = max(
        facts.weight_bytes,
        facts.parameters,
        facts.state_bytes,
        facts.kv_bytes_per_token,
        facts.kv_window_bytes_per_token,
        facts.context,
    )
    if largest > MOST:
        raise FactsError(
            f"{where} describes a model that no machine could hold, so it must be damaged. Compare "
            "it with the one that the model's author published, or fetch it again."
        )
    return facts
