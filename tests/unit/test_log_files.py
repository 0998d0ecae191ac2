"""Standard output and error that are files are opened again under their first path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpustack_fast.log_files import LogFiles

Open = Callable[[Path], int]


@pytest.fixture
def open_at() -> Iterator[Open]:
    """Opens a file for writing, as a shell does for `2> FILE`."""
    with ExitStack() as stack:

        def opened(path: Path) -> int:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
            stack.callback(os.close, descriptor)
            return descriptor

        yield opened


def test_lines_go_into_a_new_file_when_the_old_one_was_moved(tmp_path: Path, open_at: Open) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    descriptors = (open_at(path), open_at(path))
    files = LogFiles(descriptors)
    os.write(descriptors[0], b"old")
    path.rename(moved)
    assert files.reopen() == []
    for descriptor in descriptors:
        os.write(descriptor, b"new ")
    assert (moved.read_text(), path.read_text()) == ("old", "new new ")
    assert path.stat().st_mode == moved.stat().st_mode
    assert files.reopen() == []
    os.write(descriptors[0], b"more")
    assert path.read_text() == "new new more", "what is there is appended to"


def test_what_cannot_be_opened_is_told_and_goes_on(tmp_path: Path, open_at: Open) -> None:
    path = tmp_path / "folder" / "log"
    path.parent.mkdir()
    descriptor = open_at(path)
    files = LogFiles((descriptor,))
    path.parent.rename(tmp_path / "moved")
    (problem,) = files.reopen()
    assert f"The log file {path} cannot be opened again: No such file" in problem
    os.write(descriptor, b"still")
    assert (tmp_path / "moved" / "log").read_text() == "still"


def test_a_pipe_and_a_file_that_is_gone_are_left_alone(tmp_path: Path, open_at: Open) -> None:
    gone = open_at(tmp_path / "gone")
    (tmp_path / "gone").unlink()
    reading, writing = os.pipe()
    files = LogFiles((gone, writing))
    assert files.reopen() == [] and not (tmp_path / "gone").exists()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("read", [False, True])
def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(
    tmp_path: Path, open_at: Open, read: bool
) -> None:
    path = tmp_path / "log"
    descriptor = open_at(path)
    files = LogFiles((descriptor,))
    path.rename(tmp_path / "moved")
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if read else None
    (problem,) = files.reopen()
    assert f"The log file {path} cannot be opened again: It is a pipe" in problem
    os.write(descriptor, b"still")
    assert (tmp_path / "moved").read_text() == "still"
    if reading is not None:
        os.close(reading)


@pytest.mark.parametrize("kind", ["file", "device"])
def test_a_link_to_a_file_or_a_device_will_do(tmp_path: Path, open_at: Open, kind: str) -> None:
    path, other = tmp_path / "log", tmp_path / "other"
    descriptor = open_at(path)
    files = LogFiles((descriptor,))
    path.rename(tmp_path / "moved")
    path.symlink_to(other if kind == "file" else os.devnull)
    assert files.reopen() == [] and os.get_blocking(descriptor)
    os.write(descriptor, b"more")
    assert (tmp_path / "moved").read_text() == ""
    assert kind == "device" or other.read_text() == "more"
