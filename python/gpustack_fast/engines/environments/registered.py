"""Environments of somebody else's, known by the path of their interpreter.

They are used as they are: nothing is ever installed into one, or removed from it. What is in one is
asked of its interpreter, by the metadata of its packages; the engine is not imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.documents import BuildError, Environment
from gpustack_fast.engines.environments.places import folder_of, replace_file
from gpustack_fast.faults import run_in_thread

__all__ = ["Registered", "of_interpreter", "read_all", "register", "still"]

ASK_WITHIN = 60.0
"""Seconds that an interpreter may take: a disk over the network is slow at first."""

ASK = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one, JSON."""

    python: str
    version: str
    variant: str


async def of_interpreter(backend: str, path: Path, variant: str | None = None) -> Environment:
    """The environment of this interpreter, or of the virtual environment in this folder.

    `variant`: what it computes with, if a person has said so. Raises BuildError.
    """
    recipe = recipes.read(backend)
    if variant is not None and variant not in (known := sorted({"cpu", "cuda", *recipe.variants})):
        raise BuildError(f"{variant!r} is no variant. Write one of: {', '.join(known)}.")
    python = path / "bin" / "python" if await run_in_thread(path.is_dir) else path
    versions = await _ask(python, recipe.packages)
    if not versions:
        raise BuildError(
            f"In the environment of {python} there is no {' or '.join(recipe.packages)}. Install "
            "it there, or name the interpreter of another environment."
        )
    package, version = next(iter(versions.items()))
    is_cpu = "cpu" in package or "cpu" in version.partition("+")[2]
    guessed = "cpu" if is_cpu or set(recipe.variants) == {"cpu"} else "cuda"
    return Environment(
        python=Path(os.path.abspath(python)), version=version, variant=variant or guessed
    )


async def _ask(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of those packages that are there. Raises BuildError."""
    # Without the variables and the site of whoever runs us: of that environment alone.
    command = [str(python), "-I", "-c", ASK, *packages]
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(
            f"{python} cannot be run: {error.strerror or error}. Name the interpreter of an "
            "environment, such as /opt/vllm/bin/python."
        ) from error
    try:
        async with asyncio.timeout(ASK_WITHIN):
            said, complaint = await child.communicate()
    except TimeoutError as error:
        raise BuildError(
            f"{python} did not say within {ASK_WITHIN:g} s what is installed. Check whether it is "
            "a Python, and whether its disk responds."
        ) from error
    finally:
        if child.returncode is None:
            # With all that it has started, which may hold its output open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.communicate()
    try:
        return msgspec.json.decode(said, type=dict[str, str])
    except msgspec.DecodeError as error:
        last = (complaint.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise BuildError(
            f"{python} is no Python that can be asked what is installed; it says: {last}. Name the "
            "interpreter of an environment, such as /opt/vllm/bin/python."
        ) from error


async def register(
    data_dir: Path, backend: str, path: Path, version: str | None, variant: str | None
) -> Environment:
    """Takes note of an environment, so that models may name its version.

    `version`: what the person believes to be in it. Raises BuildError, OSError.
    """
    found = await of_interpreter(backend, path, variant)
    if version is not None and version != found.version:
        raise BuildError(
            f"The environment of {found.python} has {backend} {found.version}, and not {version}. "
            "Leave the version out, or name another environment."
        )
    await run_in_thread(_write, data_dir, backend, found)
    return found


def _write(data_dir: Path, backend: str, found: Environment) -> None:
    folder = folder_of(data_dir, backend)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = Registered(python=str(found.python), version=found.version, variant=found.variant)
    path = folder / f"{found.version}-{found.variant}.json"
    replace_file(path, msgspec.json.encode(record) + b"\n")


def read_all(data_dir: Path, backend: str) -> Iterator[tuple[Path, Registered]]:
    """The records of a backend; what is none is passed over. Raises OSError."""
    for path in sorted(folder_of(data_dir, backend).glob("*.json")):
        try:
            content = plain_files.read_bytes(path, pipes=False)
            yield path, msgspec.json.decode(content, type=Registered)
        except (FileNotFoundError, msgspec.DecodeError):
            continue


async def still(backend: str, record: Registered) -> Environment:
    """The environment of a record, if the same version is still in it. Raises BuildError."""
    again = f"Register it again with `gpustack-fast engines install {backend} --python PATH`."
    try:
        found = await of_interpreter(backend, Path(record.python), record.variant)
    except BuildError as error:
        raise BuildError(f"{error} {again}") from error
    if found.version != record.version:
        raise BuildError(
            f"The environment of {record.python} has {backend} {found.version} now, and no longer "
            f"{record.version}. {again}"
        )
    return found
