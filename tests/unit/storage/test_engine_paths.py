"""Where in the data directory the engines' records, sockets and logs lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpustack_fast.errors import EngineFailed
from gpustack_fast.storage.engine_paths import Rooms, short_folder


def test_only_the_newest_logs_of_a_model_are_kept(short_folder: Path) -> None:
    rooms = Rooms(short_folder)
    for number in range(15):
        rooms.log("m", f"m-{number}").write_text("x")
    assert len(list((rooms.logs / "m").glob("*.log"))) == 10


def test_a_long_data_directory_gets_a_short_folder_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    rooms = Rooms(long)
    try:
        assert len(os.fsencode(rooms.socket("m" * 32 + "-abcde"))) <= 107
        assert rooms.sockets.stat().st_mode & 0o777 == 0o700
        assert Rooms(long).sockets == rooms.sockets
        rooms.sockets.chmod(0o755)
        with pytest.raises(EngineFailed, match="--data-dir"):
            short_folder(long)
    finally:
        rooms.sockets.rmdir()
