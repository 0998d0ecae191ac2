"""What a change of a model of ours will do to its engines, in words: for who asks before it."""

from __future__ import annotations

from msgspec import Struct

from gpustack_fast.config.comparison import ModelChange

__all__ = ["Rollout", "There", "rollout_of"]


class There(Struct, frozen=True, kw_only=True):
    """The engines of a model, before it is changed."""

    engines: int
    """Those that are not retired."""
    replaced: int
    """Of these, those that the change makes another engine of."""
    asleep: bool = False
    """The model sleeps."""


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
    change: ModelChange,
    there: There,
    *,
    max_surge: int,
    no_room: str,
    generation: int | None,
    drain_timeout: float,
    wake_queue: int,
) -> Rollout:
    """`no_room`: why one more engine finds no place on the GPUs, in sentences; empty: it would, or
    needs none, or nobody knows. `drain_timeout`: seconds. `wake_queue`: the requests that may wait.
    """
    steps, interrupts = _steps(change, there), ""
    count = 0 if there.asleep else min(change.after, there.replaced)
    if change.kind == "edited" and count:
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
                    f"before its successor starts. {reason} Up to {wake_queue} requests wait for "
                    "it (`wake_queue`), and further ones get a 503."
                )
    leaves = there.engines > change.after and not there.asleep
    if leaves or (change.kind == "edited" and count):
        steps.append(
            f"A retired one has {drain_timeout:g} s for its last requests (`drain_timeout`)."
            if drain_timeout
            else "The requests of a retired one are cut (`drain_timeout` is 0)."
        )
    return Rollout(change=change, steps=steps, interrupts=interrupts, generation=generation)


def _steps(change: ModelChange, there: There) -> list[str]:
    before, after = change.before, change.after
    if change.kind == "gone":
        steps = ["Its route is gone at once."]
        return [*steps, f"Retires {_engines(there.engines)}."] if there.engines else steps
    if there.asleep and change.kind != "new":
        return ["It sleeps, and this holds when it wakes."]
    if after > before:
        return [f"Starts {_engines(after - before)}."]
    if after < before:
        return [f"Retires {_engines(before - after)}."]
    if after == 0:
        return ["It has no engines, and starts none."]
    if change.kind == "edited" and there.replaced:
        return []
    return ["Holds for the engines that run."]


def _engines(count: int) -> str:
    return f"{count} engine{'' if count == 1 else 's'}"
