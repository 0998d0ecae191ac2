"""The error of this room."""

from __future__ import annotations

from gpustack_fast.errors import GpustackFastError

__all__ = ["FactsError"]


class FactsError(GpustackFastError):
    """The files of a model do not say what is asked of them. The text names the next step."""
