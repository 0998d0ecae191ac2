"""What a model needs → an environment that is there: found, or built."""

from __future__ import annotations

from pathlib import Path

from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.building import build, work_for
from gpustack_fast.engines.environments.documents import (
    BuildError,
    Environment,
    Report,
    check_version,
    version_order,
)
from gpustack_fast.engines.environments.places import (
    environment_path,
    folder_of,
    holding,
    interpreter,
    is_complete,
    kept_lock,
)
from gpustack_fast.engines.environments.preconditions import check
from gpustack_fast.engines.environments.recipes import Pin, Recipe
from gpustack_fast.engines.environments.registered import Registered, read_all, still
from gpustack_fast.engines.environments.resolving import resolve
from gpustack_fast.faults import reason_of, run_in_thread

__all__ = ["choose", "default_interpreter", "prepare"]


async def prepare(
    data_dir: Path, backend: str, version: str | None, report: Report, variant: str | None = None
) -> Environment:
    """Returns an environment of the backend; builds it first where it is missing.

    `version`: None is the one that comes with this program. `variant`: None is the one for this
    machine. Safe to interrupt (a cancelled build ends uv and removes what it began) and to repeat;
    two builders wait for each other. Raises BuildError.
    """
    try:
        chosen = await run_in_thread(choose, data_dir, backend, version, variant)
        if isinstance(chosen, Registered):
            return await still(backend, chosen)
        return await _built(chosen, data_dir, report)
    except OSError as error:
        raise BuildError(
            f"The environment of {backend} in {folder_of(data_dir, backend)} cannot be made: "
            f"{reason_of(error)}. Then try again."
        ) from error


async def default_interpreter(data_dir: Path, backend: str, report: Report) -> Path:
    """The interpreter of the backend's own version, for this machine. Raises BuildError."""
    return (await prepare(data_dir, backend, None, report)).python


def choose(
    data_dir: Path, backend: str, version: str | None, variant: str | None
) -> Pin | Registered:
    """The environment that is meant. Raises BuildError where there can be none, OSError."""
    recipe = recipes.read(backend)
    if version is not None:
        check_version(version)
    wanted = variant or recipe.default_variant()
    own = recipe.variants.get(wanted or "")

    def fits(record: Registered) -> bool:
        """Who has registered this very version wants it; any will do where none of ours is sure."""
        if variant not in (None, record.variant):
            return False
        if version is None and own is not None and own.lock is not None:
            return (record.version, record.variant) == (own.version, wanted)
        return version in (None, record.version)

    records = [record for _, record in read_all(data_dir, backend) if fits(record)]
    if records:
        return max(
            records, key=lambda record: (record.variant == wanted, version_order(record.version))
        )
    if wanted is None or own is None:
        raise BuildError(_nothing_to_build(backend, recipe, variant))
    return _pin(data_dir, backend, wanted, recipe, version)


def _pin(data_dir: Path, backend: str, variant: str, recipe: Recipe, version: str | None) -> Pin:
    chosen = recipe.variants[variant]
    pin = Pin(
        backend=backend,
        variant=variant,
        version=version or chosen.version,
        recipe=chosen,
        lock=None,
    )
    kept = kept_lock(data_dir, pin)
    lock = kept if kept.exists() else None
    if chosen.lock is not None and pin.version == chosen.version:
        lock = recipes.LOCKS / chosen.lock
    return Pin(backend=backend, variant=variant, version=pin.version, recipe=chosen, lock=lock)


def _nothing_to_build(backend: str, recipe: Recipe, variant: str | None) -> str:
    if recipe.variants:
        return (
            f"{backend} has no variant {variant!r}. It has: {', '.join(sorted(recipe.variants))}."
        )
    return (
        f"This program does not build environments of {backend}. Make one yourself, and name its "
        f"interpreter: `gpustack-fast engines install {backend} --python PATH`, or `python` of the "
        "model."
    )


async def _built(pin: Pin, data_dir: Path, report: Report) -> Environment:
    """The environment of a pin. Raises BuildError, OSError."""
    is_new = pin.lock is None
    if is_new:
        pin = await _locked(pin, data_dir, report)
    target = await run_in_thread(environment_path, data_dir, pin)
    if not await run_in_thread(is_complete, target):
        waits = f"Another process is building or removing {pin}; waiting for it ..."
        async with holding(target, waits, report) as handle:
            # Whoever held the lock before may have built it.
            if not await run_in_thread(is_complete, target):
                if pin.recipe.note and not is_new:
                    report(f"note: {pin.recipe.note}")
                python = await run_in_thread(check, pin, data_dir)
                work = work_for(pin, "building", "the environment", target.parent, handle, report)
                await build(pin, target, python, data_dir, work)
    return Environment(python=interpreter(target), version=pin.version, variant=pin.variant)


async def _locked(pin: Pin, data_dir: Path, report: Report) -> Pin:
    """The pin with a lock: the one that is kept, or a new one. Raises BuildError, OSError."""
    target = kept_lock(data_dir, pin)
    waits = f"Another process resolves the packages of {pin}; waiting for it ..."
    async with holding(target, waits, report) as handle:
        if pin.recipe.note:
            report(f"note: {pin.recipe.note}")
        python = await run_in_thread(check, pin, data_dir)
        work = work_for(pin, "resolving", "the packages", target.parent, handle, report)
        return await resolve(pin, data_dir, python, work)
