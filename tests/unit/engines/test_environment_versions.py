"""Which environment is meant: versions, variants, locks made on the spot, somebody else's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from small_environments import TinyEngine, make_wheel

from gpustack_fast.engines import environments
from gpustack_fast.engines.environments import BuildError, Environment, registered
from gpustack_fast.engines.environments.documents import version_order


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyEngine:
    return TinyEngine(tmp_path, monkeypatch)


def prepare(
    tiny: TinyEngine,
    version: str | None = None,
    variant: str | None = None,
    engine: str = "tiny_engine",
) -> Environment:
    return uvloop.run(environments.prepare(tiny.data, engine, version, tiny.lines.append, variant))


def answer(found: Environment) -> str:
    return subprocess.check_output(
        [found.python, "-c", "import tiny; tiny.main()"], text=True
    ).strip()


def venv(folder: Path, wheel: Path | None = None) -> Path:
    """An environment as somebody else makes one; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    if wheel is not None:
        (packages,) = folder.glob("lib/python3*/site-packages")
        subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, packages], check=True)
    return folder / "bin" / "python"


# Versions


def test_a_version_without_a_lock_is_resolved_with_a_warning_and_its_lock_is_kept(
    tiny: TinyEngine,
) -> None:
    found = prepare(tiny, "2.0")
    assert (found.version, found.variant, answer(found)) == ("2.0", "cpu", "2.0")
    (warning,) = [line for line in tiny.lines if line.startswith("warning: ")]
    kept = tiny.data / "engines" / "tiny_engine" / "2.0-cpu.txt"
    assert str(kept) in warning
    assert "tiny==2.0" in kept.read_text()
    assert "--hash=sha256:" in kept.read_text()
    assert str(tiny.wheels) not in kept.read_text()


def test_the_project_of_somebody_in_whose_folder_the_data_lie_changes_nothing(
    tiny: TinyEngine, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\noverride-dependencies = ["tiny==1.0"]\n')
    assert answer(prepare(tiny, "2.0")) == "2.0"


def test_the_next_installation_of_such_a_version_is_the_same_without_a_warning(
    tiny: TinyEngine,
) -> None:
    first = prepare(tiny, "2.0")
    environments.remove(tiny.data, "tiny_engine", "2.0")
    tiny.lines.clear()
    assert prepare(tiny, "2.0") == first
    assert not [line for line in tiny.lines if line.startswith("warning: ")]


def test_versions_are_there_side_by_side(tiny: TinyEngine) -> None:
    both = [prepare(tiny), prepare(tiny, "2.0")]
    assert [answer(found) for found in both] == ["1.0", "2.0"]
    assert prepare(tiny) == both[0]


def test_a_version_whose_lock_came_with_an_earlier_program_is_found_again(
    tiny: TinyEngine,
) -> None:
    before = prepare(tiny)
    tiny.recipe.write_text(tiny.recipe.read_text().replace('version = "1.0"', 'version = "2.0"'))
    tiny.lines.clear()
    assert prepare(tiny, "1.0") == before
    assert tiny.lines == []


def test_a_version_that_nobody_has_is_reported_and_leaves_nothing(tiny: TinyEngine) -> None:
    with pytest.raises(
        BuildError, match=r"the packages of tiny_engine 9\.9 \(cpu\).*no such version"
    ):
        prepare(tiny, "9.9")
    assert tiny.folder() == []


@pytest.mark.parametrize("version", ["../../x", "1.0 --index http://x", "latest", "", "1.0;"])
def test_what_is_no_version_becomes_no_part_of_a_path(tiny: TinyEngine, version: str) -> None:
    with pytest.raises(BuildError, match="is no version"):
        prepare(tiny, version)


# Variants


@pytest.mark.parametrize(("driver", "variant"), [(None, "cpu"), ("580.95.05", "cuda")])
def test_the_variant_follows_from_the_driver(
    tiny: TinyEngine, driver: str | None, variant: str
) -> None:
    if driver:
        tiny.with_driver(driver)
    assert prepare(tiny).variant == variant
    # Who has not run it says so before it starts.
    noted = [line for line in tiny.lines if line == "note: Nobody has run this."]
    assert len(noted) == (1 if driver else 0)
    assert not noted or tiny.lines[0] == noted[0]


def test_unknown_engines_and_variants_are_refused_with_those_there_are(tiny: TinyEngine) -> None:
    with pytest.raises(BuildError, match="Those that can: elsewhere, tiny_engine"):
        prepare(tiny, engine="nothing")
    with pytest.raises(BuildError, match="It has: cpu, cuda"):
        prepare(tiny, variant="rocm")


# Somebody else's


def register(tiny: TinyEngine, path: Path, engine: str, version: str | None = None) -> Environment:
    return uvloop.run(environments.register(tiny.data, engine, path, version, None))


def test_an_environment_that_exists_is_taken_note_of_and_found_by_its_version(
    tiny: TinyEngine, tmp_path: Path
) -> None:
    python = venv(tmp_path / "theirs", tiny.wheels / "tiny-2.0-py3-none-any.whl")
    found = register(tiny, python, "tiny_engine")
    assert (found.python, found.version, found.variant) == (python, "2.0", "cuda")
    assert prepare(tiny, "2.0") == found
    assert prepare(tiny).version == "1.0"
    assert tiny.folder() == ["1.0-cpu-" + tiny.place().name[-12:], "1.0-cpu.txt", "2.0-cuda.json"]


def test_who_registers_our_own_version_runs_in_theirs(tiny: TinyEngine, tmp_path: Path) -> None:
    make_wheel(tiny.wheels, "1.0", "tiny-cpu")
    python = venv(tmp_path / "theirs", tiny.wheels / "tiny_cpu-1.0-py3-none-any.whl")
    found = register(tiny, python, "tiny_engine")
    assert prepare(tiny) == found
    other = venv(tmp_path / "other", tiny.wheels / "tiny-1.0-py3-none-any.whl")
    assert register(tiny, other, "tiny_engine").variant == "cuda"
    assert prepare(tiny) == found


def test_an_engine_that_is_not_built_here_runs_in_the_newest_one_registered(
    tiny: TinyEngine, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="engines install elsewhere --python PATH"):
        prepare(tiny, engine="elsewhere")
    make_wheel(tiny.wheels, "10.0")
    for version in ("10.0", "2.0"):
        wheel = tiny.wheels / f"tiny-{version}-py3-none-any.whl"
        # A folder will do in the place of its interpreter.
        register(tiny, venv(tmp_path / version, wheel).parents[1], "elsewhere")
    assert prepare(tiny, engine="elsewhere").version == "10.0"
    assert prepare(tiny, "2.0", engine="elsewhere").version == "2.0"


def test_a_build_for_cpus_is_known_by_its_package(tiny: TinyEngine, tmp_path: Path) -> None:
    make_wheel(tiny.wheels, "3.0", "tiny-cpu")
    python = venv(tmp_path / "theirs", tiny.wheels / "tiny_cpu-3.0-py3-none-any.whl")
    assert register(tiny, python, "tiny_engine").variant == "cpu"


def test_its_engine_is_asked_for_without_being_imported(tiny: TinyEngine, tmp_path: Path) -> None:
    python = venv(tmp_path / "theirs", tiny.wheels / "tiny-2.0-py3-none-any.whl")
    (module,) = (tmp_path / "theirs").glob("lib/python3*/site-packages/tiny.py")
    module.write_text("raise SystemExit('imported')\n")
    assert register(tiny, python, "tiny_engine").version == "2.0"


def test_an_environment_without_the_engine_or_with_another_version_is_refused(
    tiny: TinyEngine, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="there is no tiny or tiny-cpu"):
        register(tiny, venv(tmp_path / "empty"), "tiny_engine")
    python = venv(tmp_path / "theirs", tiny.wheels / "tiny-2.0-py3-none-any.whl")
    with pytest.raises(BuildError, match=r"has tiny_engine 2\.0, and not 1\.0"):
        register(tiny, python, "tiny_engine", "1.0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be run: No such file or directory"),
        ("#!/bin/sh\necho hello\n", "is no Python that can be asked"),
        ("#!/bin/sh\nsleep 60\n", "did not say within"),
    ],
    ids=["nothing", "no python", "silent"],
)
def test_what_is_no_interpreter_is_told(
    tiny: TinyEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    message: str,
) -> None:
    if content is not None and "sleep" in content:
        monkeypatch.setattr(registered, "ASK_WITHIN", 0.2)
    path = tmp_path / "python"
    if content is not None:
        path.write_text(content)
        path.chmod(0o755)
    with pytest.raises(BuildError, match=message):
        register(tiny, path, "tiny_engine")


@pytest.mark.parametrize("variant", ["gpu", "../../x", ""])
def test_an_unknown_variant_is_not_taken_note_of(
    tiny: TinyEngine, tmp_path: Path, variant: str
) -> None:
    python = venv(tmp_path / "theirs", tiny.wheels / "tiny-2.0-py3-none-any.whl")
    with pytest.raises(BuildError, match=r"is no variant\. Write one of: cpu, cuda\."):
        uvloop.run(environments.register(tiny.data, "elsewhere", python, None, variant))


def test_a_registered_environment_that_has_changed_or_gone_is_told(
    tiny: TinyEngine, tmp_path: Path
) -> None:
    python = venv(tmp_path / "theirs", tiny.wheels / "tiny-2.0-py3-none-any.whl")
    register(tiny, python, "elsewhere")
    (info,) = (tmp_path / "theirs").glob("lib/python3*/site-packages/tiny-2.0.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 3.0\n")
    with pytest.raises(BuildError, match=r"has elsewhere 3\.0 now, and no longer 2\.0\. Register"):
        prepare(tiny, engine="elsewhere")
    python.unlink()
    with pytest.raises(BuildError, match=r"cannot be run.*Register it again"):
        prepare(tiny, engine="elsewhere")


def test_versions_are_ordered_as_numbers() -> None:
    names = ["0.9.2", "1.0rc1", "0.10", "1.0.1"]
    assert sorted(names, key=version_order)[-1] == "1.0.1"
    assert sorted(["0.9.2", "0.10"], key=version_order) == ["0.9.2", "0.10"]
