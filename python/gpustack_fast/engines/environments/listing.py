"""What is there, and who uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.documents import BuildError, version_order
from gpustack_fast.engines.environments.places import (
    Found,
    environment_path,
    found,
    interpreter,
    is_complete,
    lock_of,
    read_marker,
    size_on_disk,
    try_lock,
    without_suffix,
)
from gpustack_fast.engines.environments.preparing import choose
from gpustack_fast.engines.environments.recipes import Pin
from gpustack_fast.engines.environments.registered import Registered, read_all
from gpustack_fast.engines.environments.users import users

__all__ = ["Listed", "is_held", "listing", "prefix_of"]

State = Literal["installed", "registered", "building", "unfinished", "broken", "not installed"]


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One environment: of ours, of somebody else's, or one that can be installed."""

    engine: str
    version: str
    variant: str
    state: State
    """`unfinished`: an interrupted build has left it. `broken`: its Python has gone. `not
    installed`: a lock of it comes with this program.
    """
    default: bool
    """Whether models that name no version run in it."""
    python: str
    """Its interpreter; empty: there is none."""
    path: str
    """The folder of one of ours, the record of one of somebody else's; empty: there is none."""
    size: int
    """Bytes on the disk, of one of ours; what it shares with uv's cache counts, too."""
    in_use: list[str]
    """The instances and processes that run from it, and those that may and cannot be looked at."""


def listing(data_dir: Path) -> list[Listed]:
    """All environments, by engine and version. Raises BuildError, OSError."""
    rows = [row for backend in recipes.known() for row in _of(data_dir, backend)]
    rows.sort(key=lambda row: (row.engine, version_order(row.version), row.variant, row.path))
    folders = {row.path: prefix for row in rows if (prefix := prefix_of(row)) is not None}
    used = users(data_dir, list(folders.values()))
    return [
        msgspec.structs.replace(row, in_use=used[folders[row.path]]) if row.path in folders else row
        for row in rows
    ]


def prefix_of(row: Listed) -> Path | None:
    """The folder from which its processes run; None: there is none of its own."""
    if row.state != "registered":
        return Path(row.path) if row.path else None
    prefix = Path(row.python).parent.parent
    return prefix if (prefix / "pyvenv.cfg").exists() else None


def _of(data_dir: Path, backend: str) -> Iterator[Listed]:
    try:
        default = choose(data_dir, backend, None, None)
    except BuildError:
        default = None  # there is none
    default_folder = (
        environment_path(data_dir, default)
        if isinstance(default, Pin) and default.lock is not None
        else None
    )
    seen, versions = set(), set()
    for one in found(data_dir, backend):
        row = _built(backend, one, is_default=one.folder == default_folder)
        seen.add(Path(row.path))
        versions.add((row.version, row.variant))
        yield row
    for path, record in read_all(data_dir, backend):
        yield _registered(backend, path, record, is_default=record == default)
    for pin in _pins(data_dir, backend):
        # Without a lock, which is made by the first installation, an environment has no name yet.
        there = (
            (pin.version, pin.variant) in versions
            if pin.lock is None
            else environment_path(data_dir, pin) in seen
        )
        if not there:
            yield _row(
                backend, pin.version, pin.variant, "not installed", is_default=pin == default
            )


def _pins(data_dir: Path, backend: str) -> Iterator[Pin]:
    """Those whose locks come with this program, and what is installed of an engine without any."""
    variants = recipes.read(backend).variants
    locked = [name for name, one in variants.items() if one.lock is not None]
    for variant in locked or list(variants)[:1]:
        pin = choose(data_dir, backend, None, variant)
        if isinstance(pin, Pin):
            yield pin


def _built(backend: str, one: Found, *, is_default: bool) -> Listed:
    marker = read_marker(one.folder)
    state: State = "unfinished"
    if is_complete(one.folder):
        state = "installed"
    elif is_held(without_suffix(one.folder)):
        state = "building"
    elif marker is not None:
        state = "broken"
    return _row(
        backend,
        one.version,
        one.variant,
        state,
        is_default=is_default,
        python=str(interpreter(one.folder)) if state == "installed" else "",
        path=one.folder,
        size=marker.size if marker else size_on_disk(one.folder),
    )


def _registered(backend: str, path: Path, record: Registered, *, is_default: bool) -> Listed:
    state: State = "registered" if os.path.exists(record.python) else "broken"
    return _row(
        backend,
        record.version,
        record.variant,
        state,
        is_default=is_default,
        python=record.python,
        path=path,
    )


def _row(
    backend: str,
    version: str,
    variant: str,
    state: State,
    *,
    is_default: bool,
    python: str = "",
    path: Path | None = None,
    size: int = 0,
) -> Listed:
    return Listed(
        engine=backend,
        version=version,
        variant=variant,
        state=state,
        default=is_default,
        python=python,
        path="" if path is None else str(path),
        size=size,
        in_use=[],
    )


def is_held(target: Path) -> bool:
    """Whether somebody builds or removes this environment now. Raises OSError."""
    try:
        handle = os.open(lock_of(target), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # a look makes nothing
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)
