"""A made-up engine that the real uv builds from wheels made here, without any network."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path

import pytest

from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.places import environment_path
from gpustack_fast.engines.environments.preparing import choose
from gpustack_fast.engines.environments.recipes import Pin

RECIPE = """
packages = ["tiny", "tiny-cpu"]

[variants.cpu]
package = "tiny"
version = "1.0"
requirements = "tiny_engine.in"
lock = "tiny_engine.txt"
download = 1000
size = 5000

[variants.cpu.files]
"stub-{version}.dist-info/METADATA" = "Name: stub\\nVersion: {version}+cpu\\n"

[variants.cuda]
package = "tiny"
version = "2.0"
requirements = "tiny_engine-cuda.in"
download = 1000
size = 5000
note = "Nobody has run this."

[variants.cuda.needs]
driver = "580.65"
"""


def make_wheel(folder: Path, version: str, name: str = "tiny") -> str:
    """Makes a wheel of the package in `folder`, with a program; returns its SHA-256."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    wheel = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", f"ANSWER = {version!r}\ndef main():\n    print(ANSWER)\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


class TinyEngine:
    """Recipes and locks of the engines `tiny_engine` and `elsewhere`, and a uv that finds them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.data = folder / "data"
        self.wheels = folder / "wheels"
        self.locks = folder / "locks"
        self.lines: list[str] = []
        """What was reported."""
        self.variables = {
            "UV_FIND_LINKS": str(self.wheels),
            "UV_NO_INDEX": "1",
            "UV_CACHE_DIR": str(folder / "cache"),
        }
        for made in (self.data, self.wheels, self.locks):
            made.mkdir()
        digest = make_wheel(self.wheels, "1.0")
        make_wheel(self.wheels, "2.0")
        self.lock = self.locks / "tiny_engine.txt"
        self.lock.write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
        (self.locks / "tiny_engine.in").write_text("# The engine.\ntiny==1.0\n")
        (self.locks / "tiny_engine-cuda.in").write_text("tiny==2.0\n")
        self.recipe = self.locks / "tiny_engine.toml"
        self.recipe.write_text(RECIPE)
        (self.locks / "elsewhere.toml").write_text('packages = ["tiny"]\n')
        self.driver = folder / "driver"
        patch.setattr(recipes, "LOCKS", self.locks)
        patch.setattr(recipes, "DRIVER", self.driver)
        for name, value in self.variables.items():
            patch.setenv(name, value)

    def with_driver(self, version: str) -> None:
        """Lets the machine have a driver."""
        self.driver.write_text(
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)\n"
        )

    def pin(self, version: str | None = None, variant: str | None = None) -> Pin:
        found = choose(self.data, "tiny_engine", version, variant)
        assert isinstance(found, Pin)
        return found

    def place(self, version: str | None = None, variant: str | None = None) -> Path:
        """The folder of an environment whose lock is there."""
        return environment_path(self.data, self.pin(version, variant))

    def folder(self) -> list[str]:
        """What is in the engine's folder, without locks."""
        names = os.listdir(self.data / "engines" / "tiny_engine")
        return sorted(name for name in names if not name.endswith(".lock"))


def slow_uv(folder: Path, *, says: str = "") -> tuple[Path, Path, Path]:
    """A program in uv's place: writes down its pid, waits for a file, and fails. Their paths."""
    program, told, go = folder / "slow-uv", folder / "pid", folder / "go"
    program.write_text(
        f"#!{sys.executable} -S\nimport os, sys, time\n"
        f"sys.stderr.write({says!r}); sys.stderr.flush()\n"
        f"open({str(told)!r}, 'w').write(str(os.getpid()))\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "sys.exit(1)\n"
    )
    program.chmod(0o755)
    return program, told, go


def failing_uv(folder: Path, says: str) -> Path:
    """A program in uv's place that says something and fails."""
    program = folder / "failing-uv"
    program.write_text(f"#!{sys.executable} -S\nimport sys\nsys.exit({says!r})\n")
    program.chmod(0o755)
    return program
