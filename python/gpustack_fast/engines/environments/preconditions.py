"""What a machine has to have for an engine, and which of it is missing.

All of it is looked at before anything is downloaded, so that a person hears of everything at once.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gpustack_fast import plain_files
from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.documents import BuildError, gigabytes
from gpustack_fast.engines.environments.recipes import Needs, Pin
from gpustack_fast.engines.environments.uv_runs import find_uv

__all__ = ["check", "find_python"]

MACHINES = ("x86_64", "aarch64")
CUDA_TOOLKIT = Path("/usr/local/cuda")
FIND_WITHIN = 30.0
"""Seconds that uv may take to look for an interpreter."""


def check(pin: Pin, data_dir: Path) -> str:
    """Returns the interpreter on which an environment can rest.

    Waits for the disk. Raises BuildError with all that is missing, OSError.
    """
    needs = pin.recipe.needs
    python = find_python(needs)
    missing = [*_system(needs), *_driver(needs), *_tools(needs), *_room(pin, data_dir)]
    if python is None:
        versions = " or ".join(needs.python)
        missing.append(
            f"It has packages for Python {versions} alone, and none was found. Install one, such "
            f"as with `uv python install {needs.python[0]}`."
        )
    if missing or python is None:
        listed = "\n".join(f"  * {one}" for one in missing)
        raise BuildError(f"{pin} cannot be installed here. What is missing:\n{listed}")
    return python


def find_python(needs: Needs) -> str | None:
    """An interpreter that will do, ours where it can be; None: there is none. Raises BuildError."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not needs.python or ours in needs.python:
        return sys.executable
    for version in needs.python:
        command = [find_uv(), "python", "find", "--no-python-downloads", "--system", version]
        try:
            done = subprocess.run(
                command, cwd="/", capture_output=True, text=True, timeout=FIND_WITHIN, check=False
            )
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return None


def _system(needs: Needs) -> list[str]:
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        return [
            f"This is {platform.system()} on {platform.machine()}; there are packages for Linux on "
            f"{' and '.join(MACHINES)}."
        ]
    if needs.glibc is None:
        return []
    name, version = platform.libc_ver()
    if name != "glibc":
        return [
            f"This system's C library is not glibc. Use a distribution with glibc {needs.glibc} or "
            "later, such as Debian or Ubuntu."
        ]
    if _numbers(version) < _numbers(needs.glibc):
        return [
            f"This system has glibc {version}, and {needs.glibc} or later is needed. Use a later "
            "release of the distribution, or a container."
        ]
    return []


def _driver(needs: Needs) -> list[str]:
    if needs.driver is None:
        return []
    try:
        text = plain_files.read_text(recipes.DRIVER)
    except FileNotFoundError:
        return [
            f"There is no NVIDIA driver ({recipes.DRIVER} does not exist). Install one, of version "
            f"{needs.driver} or later; in a container, pass the GPUs to it."
        ]
    found = re.search(r"Kernel Module\D*?[ \w]*?\s(\d+(?:\.\d+)+)", text)
    if found is None or _numbers(found[1]) >= _numbers(needs.driver):
        return []  # what is not understood is nothing that is known to be missing
    return [
        f"The NVIDIA driver is {found[1]}, and {needs.driver} or later is needed. Update the "
        "driver."
    ]


def _tools(needs: Needs) -> list[str]:
    missing = []
    if needs.mpi and ctypes.util.find_library("mpi") is None:
        missing.append(
            "There is no MPI. Install OpenMPI (Debian and Ubuntu: `apt install libopenmpi-dev`)."
        )
    if needs.cuda_toolkit:
        named = os.environ.get("CUDA_HOME")
        if not (Path(named) if named else CUDA_TOOLKIT).is_dir():
            missing.append(
                "There is no CUDA toolkit. Install version 13, and let the variable CUDA_HOME name "
                "its folder."
            )
    return missing


def _room(pin: Pin, data_dir: Path) -> list[str]:
    """The environment shares its files with uv's cache, where both are in one file system."""
    place = data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free >= pin.recipe.size:
        return []
    return [
        f"{gigabytes(free)} are free in {place}, and about {gigabytes(pin.recipe.size)} are "
        "needed. Make room, or name a data directory on another disk with --data-dir."
    ]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
