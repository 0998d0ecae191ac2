"""The error for a rule that does not hold."""

from __future__ import annotations

from gpustack_fast.config.schema import KeyPath

__all__ = ["RuleBroken"]


class RuleBroken(Exception):
    """A rule does not hold. The text says the fix.

    `path` leads to the value, as in `("models", 0, "name")`.
    """

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message
