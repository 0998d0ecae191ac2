"""What a change of a model of ours will do to its engines, in words: for who asks before it."""

from __future__ import annotations

from msgspec import Struct

from gpustack_fast.config.comparison import ModelChange

__all__ = ["Rollout", "rollout_of"]


class Rollout(Struct, frozen=True, kw_only=True):
    """A change of a model, and its steps."""

    change: ModelChange
    steps: list[str]
    """Sentences."""
    interrupts: str
    """Why nothing of the model serves for a while, in sentences; empty: something always does."""
    generation: int | None
    """Of the model, when it is carried out; None: the model is gone."""


def rollout_of(
    change: ModelChange, *, max_surge: int, no_room: str, generation: int | None
) -> Rollout:
    """`no_room`: why one more engine finds no place on the GPUs, in sentences; empty: it would, or
    needs none, or nobody knows.
    """
    steps, interrupts = _steps(change), ""
    if change.kind == "edited" and change.before and change.after:
        count = min(change.before, change.after)
        if max_surge and not no_room:
            steps.append(
                f"Replaces {_engines(count)}: each new one starts beside the others (up to "
                f"{max_surge} at a time), and an old one is retired when it runs."
            )
        else:
            steps.append(
                f"Replaces {_engines(count)} one at a time: an old one is retired, then its "
                "successor starts."
            )
            reason = (
                "`max_surge` is 0." if not max_surge else f"There is no room beside it. {no_room}"
            )
            if change.before == 1:
                interrupts = (
                    f"The edit of the model `{change.name}` interrupts it: its only replica ends "
                    f"before its successor starts. {reason}"
                )
    return Rollout(change=change, steps=steps, interrupts=interrupts, generation=generation)


def _steps(change: ModelChange) -> list[str]:
    before, after = change.before, change.after
    steps = []
    if change.kind == "gone":
        steps.append(
            f"Its route is gone at once, and {_engines(before)} end when their requests have ended."
        )
    elif after > before:
        steps.append(f"Starts {_engines(after - before)}.")
    elif after < before:
        steps.append(f"Retires {_engines(before - after)}.")
    elif change.kind == "changed":
        steps.append("Holds for the engines that run.")
    return steps


def _engines(count: int) -> str:
    return f"{count} engine{'' if count == 1 else 's'}"
