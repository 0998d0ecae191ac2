"""The data directory: its lock, its rights, its spool."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gpustack_fast.errors import DataDirectoryInUse, StoreError, UsageError
from gpustack_fast.keys.store import Store
from gpustack_fast.storage.data_directory import DataDirectory

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_the_directory_has_one_holder_and_says_who(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from gpustack_fast.storage.data_directory "
        "import DataDirectory as D\n"
    )
    holder += "d = D(Path(sys.argv[1])); d.acquire(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(
            DataDirectoryInUse, match=rf"process {process.pid}\)\. Stop that one first"
        ) as raised:
            DataDirectory(tmp_path).acquire(patience=0)
        assert raised.value.pid == process.pid
        process.kill()
        process.wait()
    freed = DataDirectory(tmp_path)
    freed.acquire(patience=0)
    freed.release()


def test_the_lock_is_not_inherited_by_children(tmp_path: Path) -> None:
    held = DataDirectory(tmp_path)
    held.acquire()
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as child:
        held.release()
        other = DataDirectory(tmp_path)
        other.acquire(patience=0)
        other.release()
        assert child.stdin is not None
        child.stdin.close()


def test_what_others_may_read_or_enter_is_taken_from_them_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = DataDirectory(tmp_path)
    directory.acquire()
    Store(directory).create("a")
    directory.release()
    wide = {tmp_path: 0o755, directory.run: 0o750, directory.keys_file: 0o644}
    for path, mode in wide.items():
        path.chmod(mode)
    caplog.clear()
    directory.acquire()
    directory.release()
    assert [stat.S_IMODE(path.stat().st_mode) for path in wide] == [0o700, 0o700, 0o600]
    for path, mode in wide.items():
        assert any(f"{path} (mode {mode:04o})" in line for line in caplog.messages)
    caplog.clear()
    directory.acquire()
    directory.release()
    assert caplog.messages == []


@pytest.mark.parametrize("mine", ["", "run", "keys.json", "lock"])
def test_what_belongs_to_somebody_else_is_not_used_by_root_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: str
) -> None:
    directory = DataDirectory(tmp_path)
    directory.acquire()
    Store(directory).create("a")
    directory.release()
    before = directory.keys_file.read_bytes()
    if os.geteuid() == 0:
        os.chown(tmp_path / mine, 65534, 65534)
    else:
        # The other way round: what is there is not this user's.
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(StoreError, match=r"belongs to the user .*Run it as its owner.*--data-dir"):
        directory.acquire()
    assert not directory.held
    assert directory.keys_file.read_bytes() == before


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda path: path.write_text("a file"),
            "cannot be used. A file is in the place of a directory .* --data-dir",
        ),
        (lambda path: (path.mkdir(), path.chmod(0o777)), "Everybody may write"),
        (lambda path: (path.mkdir(), (path / "run").symlink_to("/")), "cannot be used"),
        (lambda path: (path.mkdir(), (path / "lock").symlink_to("/nowhere")), "cannot be used"),
    ],
)
def test_a_directory_that_cannot_be_trusted_is_rejected(
    tmp_path: Path, prepare: object, message: str
) -> None:
    assert callable(prepare)
    prepare(tmp_path / "data")
    with pytest.raises(StoreError, match=message):
        DataDirectory(tmp_path / "data").acquire()


@pytest.mark.parametrize("mark", ["lock", "keys.json"])
def test_a_folder_of_other_things_is_left_alone_unless_it_was_one_before(
    tmp_path: Path, mark: str
) -> None:
    (tmp_path / "letters").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / mark).symlink_to("run")
    tmp_path.chmod(0o755)
    with pytest.raises(UsageError, match=r"is no data directory: it holds other things"):
        DataDirectory(tmp_path).acquire()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert {one.name for one in tmp_path.iterdir()} == {"letters", "run", mark}
    (tmp_path / mark).unlink()
    (tmp_path / mark).touch()
    DataDirectory(tmp_path).acquire()


def test_what_may_be_there_before_the_first_start_is_no_other_thing(tmp_path: Path) -> None:
    for name in ("run", "cache", "lost+found"):
        (tmp_path / name).mkdir()
    DataDirectory(tmp_path).acquire()


def test_a_path_too_long_for_sockets_is_reported_before_anything_is_made(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    with pytest.raises(
        UsageError, match=r"Linux allows 107\. Choose a shorter one with --data-dir"
    ):
        DataDirectory(deep).acquire()
    assert not deep.exists()


def test_what_a_killed_server_left_in_the_spool_is_removed_and_nothing_else(
    directory: DataDirectory,
) -> None:
    spool = directory.empty_spool()
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    outside = directory.path / "precious"
    outside.touch()
    (spool / "body-1").write_bytes(b"half a request")
    (spool / "link").symlink_to(outside)
    (spool / "folder").mkdir()
    assert directory.empty_spool() == spool
    assert sorted(path.name for path in spool.iterdir()) == ["folder", "link"]
    assert outside.exists()


def test_a_lock_that_is_handed_on_stays_held_when_its_first_holder_has_gone(tmp_path: Path) -> None:
    first, second = DataDirectory(tmp_path / "d"), DataDirectory(tmp_path / "d")
    first.acquire()
    second.inherit(os.dup(first.descriptor()))
    second.sign()
    first.release()
    with pytest.raises(DataDirectoryInUse, match=str(os.getpid())):
        DataDirectory(tmp_path / "d").acquire(patience=0.0)
    second.release()
    third = DataDirectory(tmp_path / "d")
    third.acquire(patience=0.0)
    third.release()


def test_the_lock_of_another_directory_is_not_taken(tmp_path: Path) -> None:
    one, other = DataDirectory(tmp_path / "a"), DataDirectory(tmp_path / "b")
    one.acquire()
    other.acquire()
    with pytest.raises(UsageError, match="is not that of the running server"):
        DataDirectory(tmp_path / "b").inherit(os.dup(one.descriptor()))
    with pytest.raises(UsageError, match="is not that of the running server"):
        DataDirectory(tmp_path / "never made").inherit(os.dup(one.descriptor()))
    one.release()
    other.release()
