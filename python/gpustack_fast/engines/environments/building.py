"""Builds one environment beside its place, and renames it at the very end."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from gpustack_fast.engines.environments.documents import Report, gigabytes
from gpustack_fast.engines.environments.places import (
    Complete,
    building_folder,
    interpreter,
    kept_lock,
    remove_tree,
    removing_folder,
    replace_file,
    size_on_disk,
    write_marker,
)
from gpustack_fast.engines.environments.recipes import Pin
from gpustack_fast.engines.environments.resolving import index_flags
from gpustack_fast.engines.environments.uv_runs import Work, run_uv
from gpustack_fast.faults import run_in_thread

__all__ = ["build", "work_for"]


def work_for(pin: Pin, doing: str, what: str, folder: Path, handle: int, report: Report) -> Work:
    """What uv is run for."""
    return Work(
        what=f"{what} of {pin}",
        doing=doing,
        folder=folder,
        size=pin.recipe.size,
        handle=handle,
        report=report,
    )


async def build(pin: Pin, target: Path, python: str, data_dir: Path, work: Work) -> None:
    """Builds the environment of a pin. The caller holds the lock beside `target`.

    A cancelled build ends uv and removes what it began. Raises BuildError, OSError.
    """
    begun = time.monotonic()
    work.report(
        f"Building {work.what} (once; up to {gigabytes(pin.recipe.download)} to download, about "
        f"{gigabytes(pin.recipe.size)} on the disk) ..."
    )
    temporary = building_folder(target)
    try:
        for leftover in (temporary, removing_folder(target), target):
            await run_in_thread(remove_tree, leftover)
        for arguments in (_venv(python, temporary), _install(pin, temporary)):
            await run_uv(arguments, work)
        await run_in_thread(_write_files, pin, temporary)
        size = await run_in_thread(size_on_disk, temporary)
        marker = Complete(version=pin.version, variant=pin.variant, size=size)
        _finish(pin, temporary, target, data_dir, marker)  # at once: no stop may come between
    except BaseException:
        with contextlib.suppress(OSError):
            await run_in_thread(remove_tree, temporary)
        raise
    took = time.monotonic() - begun
    work.report(f"{pin} is ready after {took:.1f} s ({gigabytes(size)} on the disk).")


def _venv(python: str, temporary: Path) -> list[str]:
    """Relocatable, for it is renamed when it is whole: its programs look for Python beside them."""
    command = ["venv", "--quiet", "--relocatable", "--python", python, "--no-python-downloads"]
    return [*command, str(temporary)]


def _install(pin: Pin, temporary: Path) -> list[str]:
    command = ["pip", "install", "--python", str(interpreter(temporary)), "--no-deps"]
    command += ["--compile-bytecode", "--only-binary", ":all:", "--require-hashes"]
    return [*command, *index_flags(pin.recipe), "--requirements", str(pin.lock)]


def _write_files(pin: Pin, environment: Path) -> None:
    """Writes the files that the recipe wants among the packages. Raises OSError."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    for name, content in pin.recipe.files.items():
        path = packages / name.replace("{version}", pin.version)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.replace("{version}", pin.version), encoding="utf-8")


def _finish(pin: Pin, temporary: Path, target: Path, data_dir: Path, marker: Complete) -> None:
    """Keeps the lock, so that this version can be built again when another comes with us."""
    assert pin.lock is not None, "nothing is built without a lock"
    kept = kept_lock(data_dir, pin)
    if kept != pin.lock:
        # Whole or not at all: a part of a lock would be installed, too, without the rest.
        replace_file(kept, pin.lock.read_bytes())
    write_marker(temporary, marker)
    temporary.rename(target)
