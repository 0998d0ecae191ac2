"""The places of the engines' records, sockets and logs in the data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpustack_fast.errors import EngineFailed
from gpustack_fast.storage import engine_paths
from gpustack_fast.storage.engine_paths import EnginePaths


def new_log(paths: EnginePaths, model: str, instance_id: str) -> Path:
    """The log of a new instance, for which there is room now."""
    log = paths.log(model, instance_id)
    paths.make_room_for(log)
    return log


def test_only_the_newest_logs_of_a_model_are_kept(short_folder: Path) -> None:
    paths = EnginePaths(short_folder)
    for number in range(15):
        new_log(paths, "m", f"m-{number}").write_text("x")
    assert len(list((paths.logs / "m").glob("*.log"))) == 10


def test_the_log_of_a_living_engine_stays_however_old_it_is(short_folder: Path) -> None:
    paths = EnginePaths(short_folder)
    living = [new_log(paths, "m-a", "m-a-first"), new_log(paths, "m-a", "m-a-second")]
    paths.record("m-a-first").write_text("{}")
    paths.record("m-a-second").with_name("m-a-second.json.new").write_text(" ")
    for path in living:
        path.write_text("x")
        os.utime(path, (1, 1))
    for number in range(30):
        new_log(paths, "m-a", f"m-a-{number}").write_text("x")
    assert all(path.exists() for path in living)
    assert len(list((paths.logs / "m-a").glob("*.log"))) == 10 + len(living)


def test_a_long_data_directory_gets_a_short_folder_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    paths = EnginePaths(long)
    try:
        assert len(os.fsencode(paths.socket("m" * 32 + "-abcde"))) <= 107
        assert paths.sockets.stat().st_mode & 0o777 == 0o700
        assert EnginePaths(long).sockets == paths.sockets
        paths.sockets.chmod(0o755)
        with pytest.raises(EngineFailed, match="--data-dir"):
            engine_paths.short_folder(long)
    finally:
        paths.sockets.rmdir()


def test_folders_that_have_gone_are_made_anew_but_not_the_data_directory(
    short_folder: Path,
) -> None:
    data_dir = short_folder / "data"
    paths = EnginePaths(data_dir)
    for folder in (paths.sockets, paths.records, paths.logs):
        folder.rmdir()
    new_log(paths, "m", "m-1").write_text("x")
    assert paths.sockets.is_dir() and paths.records.is_dir()
    data_dir.rename(short_folder / "elsewhere")
    with pytest.raises(FileNotFoundError):
        new_log(paths, "m", "m-2")
    assert not data_dir.exists()


def test_folders_of_engines_are_for_their_owner_alone(short_folder: Path) -> None:
    paths = EnginePaths(short_folder)
    paths.logs.chmod(0o755)
    assert EnginePaths(short_folder).logs.stat().st_mode & 0o777 == 0o700


def test_what_somebody_has_put_among_the_logs_stays_and_is_in_nobody_s_way(
    short_folder: Path,
) -> None:
    paths = EnginePaths(short_folder)
    folder = new_log(paths, "m", "m-0").parent
    for number in range(20):
        (folder / f"folder-{number}.log").mkdir()
        (folder / f"link-{number}.log").symlink_to("nowhere")
        log = new_log(paths, "m", f"m-{number}")
        log.write_text("x")
        log.with_suffix(".log.1").mkdir()
    assert len([one for one in folder.iterdir() if one.is_file()]) == 10
    assert len([one for one in folder.iterdir() if one.is_symlink()]) == 20
