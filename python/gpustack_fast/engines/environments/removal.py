"""Takes an environment away, unless somebody uses it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.documents import BuildError, gigabytes
from gpustack_fast.engines.environments.listing import Listed, listing
from gpustack_fast.engines.environments.places import (
    open_lock,
    remove_tree,
    removing_folder,
    try_lock,
    without_suffix,
)
from gpustack_fast.faults import reason_of

__all__ = ["remove"]


def remove(data_dir: Path, backend: str, version: str, variant: str | None = None) -> list[str]:
    """Removes the environments of a version; of somebody else's, only the note of it.

    Returns what was done, a sentence each. Nothing is removed when one of them is in use. The lock
    of the version stays, so that its next installation is the same. Raises BuildError.
    """
    recipes.read(backend)
    try:
        there = [row for row in listing(data_dir) if row.engine == backend and row.path]
        rows = [row for row in there if row.version == version and variant in (None, row.variant)]
        _check(backend, version, variant, there, rows)
        return [_remove(row) for row in rows]
    except OSError as error:
        raise BuildError(
            f"{backend} {version} cannot be removed: {reason_of(error)}. Then try again."
        ) from error


def _check(
    backend: str, version: str, variant: str | None, there: list[Listed], rows: list[Listed]
) -> None:
    if not rows:
        asked = version if variant is None else f"{version} ({variant})"
        names = ", ".join(f"{row.version} ({row.variant})" for row in there) or "none"
        raise BuildError(f"There is no {backend} {asked}. Versions that are there: {names}.")
    used = [user for row in rows for user in row.in_use]
    if used:
        raise BuildError(
            f"{backend} {version} is in use by {', '.join(used)}, so it stays. Stop what runs from "
            "it first, and let no model name it."
        )


def _remove(row: Listed) -> str:
    path, name = Path(row.path), f"{row.engine} {row.version} ({row.variant})"
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return f"{name} is no longer registered; nothing in its environment was touched."
    with _holding(without_suffix(path), name):
        if path == without_suffix(path):
            # Renamed first, so that none that is half gone is taken for a whole one.
            leaving = removing_folder(path)
            remove_tree(leaving)
            path.rename(leaving)
            path = leaving
        remove_tree(path)
    return f"{name} is removed; it took {gigabytes(row.size)}."


@contextlib.contextmanager
def _holding(target: Path, name: str) -> Iterator[None]:
    """Holds the lock beside an environment. Raises BuildError where somebody else does, OSError."""
    handle = open_lock(target)
    try:
        if not try_lock(handle):
            raise BuildError(
                f"{name} is just being built or removed by another process. Repeat the command "
                "when that has ended."
            )
        yield
    finally:
        os.close(handle)
