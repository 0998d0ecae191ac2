"""An engine that somebody else runs: nothing is launched.

What is known of it follows from the model's `engine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpustack_fast.backends.base import Backend, BackendError, Command, Engine, Model, Place
from gpustack_fast.backends.facts import EngineFacts

__all__ = ["EXTERNAL", "any_other"]


def any_other(admin_paths: Iterable[str]) -> Engine:
    """Any server that speaks OpenAI's API, of which nothing more is known.

    `admin_paths`: those of all engines that are known. Whatever it is, what is administrative
    elsewhere does not lie below its inference paths either.
    """
    facts = EngineFacts(
        dialects=("openai",),
        stream_usage=False,
        admin_paths=tuple(sorted(set(admin_paths))),
        inference_paths_only=True,
        cancel_lag=1.0,
    )
    return Engine(name="openai", facts=facts)


def check(_: Model) -> Iterator[tuple[int, str]]:
    """Every external model that the configuration allows is right: nothing of it is ours to set."""
    return iter(())


def command(model: Model, place: Place) -> Command:
    """There is none."""
    raise BackendError(f"The model {model.name} is external: it is not started here.")


EXTERNAL = Backend(name="external", check=check, command=command, ready_path="/health")
