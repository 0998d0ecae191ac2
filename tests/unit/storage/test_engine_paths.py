"""The places of the engines' records, sockets and logs in the data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpustack_fast.errors import EngineFailed
from gpustack_fast.storage.engine_paths import EnginePaths, short_folder


def test_only_the_newest_logs_of_a_model_are_kept(short_folder: Path) -> None:
    paths = EnginePaths(short_folder)
    for number in range(15):
        paths.log("m", f"m-{number}").write_text("x")
    assert len(list((paths.logs / "m").glob("*.log"))) == 10


def test_a_long_data_directory_gets_a_short_folder_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    paths = EnginePaths(long)
    try:
        assert len(os.fsencode(paths.socket("m" * 32 + "-abcde"))) <= 107
        assert paths.sockets.stat().st_mode & 0o777 == 0o700
        assert EnginePaths(long).sockets == paths.sockets
        paths.sockets.chmod(0o755)
        with pytest.raises(EngineFailed, match="--data-dir"):
            short_folder(long)
    finally:
        paths.sockets.rmdir()
