"""Locks for versions that have none in the package: made when somebody asks, and then kept.

They lie in the data directory, so that the next installation of the version is the same.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.documents import BuildError
from gpustack_fast.engines.environments.places import kept_lock
from gpustack_fast.engines.environments.recipes import Pin, Variant
from gpustack_fast.engines.environments.uv_runs import Work, run_uv
from gpustack_fast.faults import run_in_thread

__all__ = ["index_flags", "resolve"]


async def resolve(pin: Pin, data_dir: Path, python: str, work: Work) -> Pin:
    """Returns the pin with a lock: the one that is kept, or a new one, with a warning.

    The caller holds the lock beside it. Raises BuildError, OSError.
    """
    target = kept_lock(data_dir, pin)
    if not await run_in_thread(target.exists):
        work.report(
            f"warning: No lock of {pin} comes with this program, so its packages are taken as they "
            f"are now and were not tried together. They are written to {target}, from which later "
            "installations are made."
        )
        await _compile(pin, target, python, work)
    return dataclasses.replace(pin, lock=target)


async def _compile(pin: Pin, target: Path, python: str, work: Work) -> None:
    recipe = pin.recipe
    asked = target.with_name(f"{pin.version}-{pin.variant}.in")
    await run_in_thread(asked.write_text, _requirements(pin))
    new = target.with_name(target.name + ".new")
    command = ["pip", "compile", "--quiet", "--no-progress", "--python", python]
    command += ["--only-binary", ":all:", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", *index_flags(recipe)]
    if not recipe.dependencies:
        command.append("--no-deps")
    if recipe.overrides is not None:
        command += ["--override", str(recipes.LOCKS / recipe.overrides)]
    try:
        await run_uv([*command, str(asked), "--output-file", str(new)], work)
        await run_in_thread(new.rename, target)
    finally:
        for leftover in (asked, new):
            leftover.unlink(missing_ok=True)


def _requirements(pin: Pin) -> str:
    """The file of requirements, with the version that is wanted. Raises BuildError, OSError."""
    text = (recipes.LOCKS / pin.recipe.requirements).read_text(encoding="utf-8")
    package = re.escape(pin.recipe.package)
    changed, count = re.subn(
        rf"^({package}(?:\[[^]]*\])?)==\S+$", rf"\g<1>=={pin.version}", text, flags=re.MULTILINE
    )
    if count != 1:
        raise BuildError(f"{pin.recipe.requirements} does not name a version of the engine.")
    return changed


def index_flags(recipe: Variant) -> list[str]:
    """The flags for indexes beside the configured one: the newest that fits, of all of them."""
    flags = [part for index in recipe.indexes for part in ("--index", index)]
    return [*flags, "--index-strategy", "unsafe-best-match"] if flags else []
