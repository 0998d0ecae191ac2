"""How a rule that does not hold is told."""

from __future__ import annotations

from gpustack_fast.config.schema import KeyPath

__all__ = ["RuleBroken"]


class RuleBroken(Exception):
    """A rule does not hold. `path` leads to the value, as in `("models", 0, "name")`; the text says
    the fix.
    """

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message
