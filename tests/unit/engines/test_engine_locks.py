"""The recipes and locks that come with the program."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from gpustack_fast.backends import ENGINES
from gpustack_fast.engines.environments import recipes
from gpustack_fast.engines.environments.documents import check_version
from gpustack_fast.engines.environments.uv_runs import find_uv

ROOT = Path(__file__).parents[3]
LOCKS = sorted(recipes.LOCKS.glob("*.txt"))
VARIANTS = [
    pytest.param(variant, id=f"{backend}-{name}")
    for backend in recipes.known()
    for name, variant in recipes.read(backend).variants.items()
]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_every_package_by_hash_and_names_no_host(lock: Path) -> None:
    text = re.sub(r"^ *#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    requirements = text.replace("\\\n", " ").splitlines()
    assert requirements
    for requirement in requirements:
        assert "==" in requirement
        assert "--hash=sha256:" in requirement
    assert "://" not in text
    assert "index-url" not in text


def test_there_are_locks_of_these_engines_and_a_uv() -> None:
    locked = {
        (backend, name)
        for backend in recipes.known()
        for name, variant in recipes.read(backend).variants.items()
        if variant.lock
    }
    assert locked == {("llama_cpp", "cpu"), ("vllm", "cpu"), ("vllm", "cuda")}
    assert os.access(find_uv(), os.X_OK)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_files_of_a_recipe_are_there_and_agree(variant: recipes.Variant) -> None:
    check_version(variant.version)
    asked = (recipes.LOCKS / variant.requirements).read_text()
    pinned = rf"^{re.escape(variant.package)}(\[[^]]*\])?=={re.escape(variant.version)}( |$)"
    assert re.search(pinned, asked, re.MULTILINE)
    if variant.lock is not None:
        assert re.search(pinned, (recipes.LOCKS / variant.lock).read_text(), re.MULTILINE)
    assert variant.overrides is None or (recipes.LOCKS / variant.overrides).is_file()
    assert 0 < variant.download <= variant.size
    assert all(index.startswith("https://") for index in variant.indexes)


def test_every_file_beside_the_recipes_belongs_to_one() -> None:
    named = {
        name
        for backend in recipes.known()
        for variant in recipes.read(backend).variants.values()
        for name in (variant.requirements, variant.overrides, variant.lock)
    }
    files = {path.name for path in recipes.LOCKS.iterdir() if path.suffix != ".toml"}
    assert files == named - {None}


def test_the_extra_resolves_together_with_our_own_dependencies(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["vllm"]
    assert extra == [f"vllm=={recipes.read('vllm').variants['cuda'].version}"]
    asked = tmp_path / "all.in"
    asked.write_text("\n".join([*project["dependencies"], *extra]))
    command = [find_uv(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    done = subprocess.run([*command, asked], capture_output=True, text=True, check=False)
    if "Failed to fetch" in done.stderr or "error sending request" in done.stderr:
        pytest.skip("the package index that uv uses does not respond")
    assert done.returncode == 0, done.stderr
    assert "vllm==" in done.stdout and "granian==" in done.stdout


def test_what_is_installed_is_a_kind_of_engine() -> None:
    unknown = set(recipes.known()) - set(ENGINES)
    assert unknown <= {"vllm_omni"}  # a build of vLLM
