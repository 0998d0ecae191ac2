"""What a machine has to have for an engine: all that is missing is told at once."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop
from small_environments import TinyEngine

from gpustack_fast.engines import environments
from gpustack_fast.engines.environments import BuildError, preconditions
from gpustack_fast.engines.environments.recipes import Needs

OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyEngine:
    return TinyEngine(tmp_path, monkeypatch)


def missing(tiny: TinyEngine, version: str | None = None) -> list[str]:
    """What is said to be missing for the variant that needs a driver."""
    with pytest.raises(BuildError, match="What is missing:") as caught:
        uvloop.run(environments.prepare(tiny.data, "tiny_engine", version, print, "cuda"))
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"tiny_engine {version or '2.0'} (cuda) cannot be installed here.")
    assert not any(
        path.suffix != ".lock" for path in (tiny.data / "engines" / "tiny_engine").iterdir()
    )
    return [line.removeprefix("  * ") for line in lines]


def test_everything_that_is_missing_is_told_at_once_before_anything_is_made(
    tiny: TinyEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs = 'driver = "580.65"\nglibc = "99.9"\nmpi = true\ncuda_toolkit = true\npython = ["3.999"]'
    tiny.recipe.write_text(tiny.recipe.read_text().replace('driver = "580.65"', needs))
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    glibc, driver, mpi, toolkit, room, python = missing(tiny)
    assert "and 99.9 or later is needed" in glibc
    assert "no NVIDIA driver" in driver
    assert "libopenmpi-dev" in mpi
    assert "CUDA_HOME" in toolkit
    assert "0 MB are free in" in room and "--data-dir" in room
    assert "Python 3.999 alone" in python


def test_a_version_that_is_still_to_be_resolved_is_not_before_all_is_there(
    tiny: TinyEngine,
) -> None:
    (driver,) = missing(tiny, "1.0")
    assert "no NVIDIA driver" in driver


@pytest.mark.parametrize(
    ("version", "is_enough"),
    [("580.65.06", True), ("580.126", True), ("1000.1", True), ("580.9", False), ("575.57", False)],
)
def test_the_driver_has_to_be_new_enough(tiny: TinyEngine, version: str, is_enough: bool) -> None:
    tiny.with_driver(version)
    told = preconditions._driver(Needs(driver="580.65"))
    assert (told == []) is is_enough
    assert is_enough or f"The NVIDIA driver is {version}, and 580.65 or later" in told[0]


def test_both_kinds_of_kernel_modules_are_understood(tiny: TinyEngine) -> None:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC\n"
    tiny.driver.write_text(text)
    assert "is 470.82.01, and" in preconditions._driver(Needs(driver="580"))[0]


def test_an_old_c_library_or_another_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.17"))
    assert "has glibc 2.17, and 2.31" in preconditions._system(Needs(glibc="2.31"))[0]
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert "is not glibc" in preconditions._system(Needs(glibc="2.31"))[0]
    assert preconditions._system(Needs()) == []
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "on riscv64" in preconditions._system(Needs())[0]


def test_our_own_python_is_taken_where_it_can_be() -> None:
    assert preconditions.find_python(Needs()) == sys.executable
    assert preconditions.find_python(Needs(python=("3.999", OURS))) == sys.executable
    assert preconditions.find_python(Needs(python=("3.999",))) is None


def test_what_the_toolkit_and_mpi_ask_for_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.40")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert preconditions._tools(Needs(mpi=True, cuda_toolkit=True)) == []
