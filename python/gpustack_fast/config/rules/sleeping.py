"""Rules of when a model's engines sleep, and of how many there are."""

from __future__ import annotations

from collections.abc import Iterator

from gpustack_fast.backends import Backend
from gpustack_fast.config.durations import seconds_of
from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import KeyPath, ModelConfig, ReplicasConfig
from gpustack_fast.config.sentences import quoted

__all__ = ["check_sleeping"]

_LONGEST = 365 * 24 * 3600.0


def check_sleeping(path: KeyPath, model: ModelConfig, backend: Backend) -> Iterator[RuleBroken]:
    """Every rule of these fields that does not hold. `backend`: the model's."""
    yield from _check_replicas(path, model)
    yield from _check_idle_time(path, model)
    yield from _check_level(path, model, backend)
    yield from _check_group(path, model, backend)


def _check_replicas(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    if not isinstance(model.replicas, ReplicasConfig):
        if model.target_in_flight is not None:
            yield RuleBroken(
                (*path, "target_in_flight"),
                f"The model `{model.name}` has a fixed number of replicas, so that "
                "`target_in_flight` does nothing. Write `replicas = { min = ..., max = ... }`, or "
                "remove it.",
            )
        return
    if model.replicas.min > model.replicas.max:
        yield RuleBroken(
            (*path, "replicas"),
            f"`min` of `replicas` is {model.replicas.min}, and `max` only {model.replicas.max}. "
            "Exchange the two, or raise `max`.",
        )
    if model.target_in_flight is None:
        yield RuleBroken(
            path,
            f"The replicas of the model `{model.name}` have bounds, but nothing says when there "
            "are more of them. Write `target_in_flight`, the requests that each should have at "
            "the same time.",
            lacks=path,
        )


def _check_idle_time(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    seconds = seconds_of(model.sleep_after)
    if seconds is None:
        yield RuleBroken(
            (*path, "sleep_after"),
            f"`sleep_after` cannot be {quoted(model.sleep_after)}. Write seconds in digits, or a "
            'text such as "90s", "30m" or "2h".',
        )
    elif seconds > _LONGEST:
        yield RuleBroken(
            (*path, "sleep_after"), "`sleep_after` is longer than a year. Leave it out for never."
        )


def _check_level(path: KeyPath, model: ModelConfig, backend: Backend) -> Iterator[RuleBroken]:
    if not model.sleep_level:
        return
    here = (*path, "sleep_level")
    if backend.sleep is None:
        yield RuleBroken(
            here,
            f"The engines of the backend `{model.backend}` can only be stopped. Write "
            "`sleep_level = 0`, or leave it out.",
        )
        return
    if not model.may_sleep and seconds_of(model.sleep_after) is not None:
        yield RuleBroken(
            here,
            f"Nothing makes the model `{model.name}` sleep, so that `sleep_level` does nothing. "
            "Write `sleep_after` or `swap_group`, or remove it.",
            lacks=path,
        )
    for name in backend.sleep.variables:
        if name in model.env:
            yield RuleBroken(
                (*path, "env", name),
                f"With `sleep_level = {model.sleep_level}` the server itself decides the variable "
                f"`{name}` of the model `{model.name}`. Remove it.",
            )


def _check_group(path: KeyPath, model: ModelConfig, backend: Backend) -> Iterator[RuleBroken]:
    if model.swap_group is not None and backend.demands is None:
        yield RuleBroken(
            (*path, "swap_group"),
            f"The engines of the backend `{model.backend}` take no GPU, so that there is nothing "
            "to take turns on. Remove `swap_group`.",
        )
    if not model.pinned:
        return
    if model.swap_group is None:
        yield RuleBroken(
            (*path, "pinned"),
            f"The model `{model.name}` is in no `swap_group`, so that no other could make it "
            "sleep. Name its group, or remove `pinned`.",
            lacks=path,
        )
    if model.idle_limit < float("inf"):
        yield RuleBroken(
            (*path, "pinned"),
            f"The model `{model.name}` is pinned, and has a `sleep_after`. Remove one of the two.",
        )
