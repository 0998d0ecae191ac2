"""The error for a rule that does not hold."""

from __future__ import annotations

from gpustack_fast.config.schema import KeyPath

__all__ = ["RuleBroken"]


class RuleBroken(Exception):
    """A rule does not hold. The text says the fix.

    `path` leads to the value, as in `("models", 0, "name")`. Rules yield it, so that all that are
    broken can be told at once.
    """

    def __init__(self, path: KeyPath, message: str, lacks: KeyPath | None = None) -> None:
        """`lacks`: the table that lacks something, for a rule about what is not there.

        Beside another mistake in that table the rule says nothing of use: a misspelt `source` is
        no missing one.
        """
        super().__init__(message)
        self.path = path
        self.message = message
        self.lacks = lacks
