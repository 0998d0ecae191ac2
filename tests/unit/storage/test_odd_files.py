"""What is no file in the place of a file of ours: told in sentences, with its place, at once."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpustack_fast.api.application import Application
from gpustack_fast.api.routes import Sources
from gpustack_fast.api.server import ApiServer
from gpustack_fast.control.server import ControlServer
from gpustack_fast.engines.leftovers import find_records
from gpustack_fast.errors import GpustackFastError, StoreError
from gpustack_fast.keys.store import Store
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.engine_paths import EnginePaths
from gpustack_fast.storage.route_numbers import known_routes

ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a directory": (Path.mkdir, "directory"),
    "a pipe": (os.mkfifo, "pipe"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "link"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "link"),
}
READ: dict[str, Callable[[DataDirectory], object]] = {
    "keys.json": Store,
    "routes.json": lambda directory: known_routes(directory, ["a"]),
}
WRITTEN: dict[str, Callable[[DataDirectory], object]] = {
    "keys.json.new": lambda directory: Store(directory).create("a"),
    "routes.json.new": READ["routes.json"],
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_a_file(directory: DataDirectory, name: str, kind: str) -> None:
    make, words = ODD[kind]
    make(directory.path / name)
    with pytest.raises(StoreError, match=f"in {directory.path}/{name} cannot be read.*{words}"):
        READ[name](directory)


@pytest.mark.parametrize("name", READ)
def test_a_link_to_a_file_that_is_kept_elsewhere_stays_one(
    directory: DataDirectory, short_folder: Path, name: str
) -> None:
    Store(directory).create("before")
    known_routes(directory, ["before"])
    file, elsewhere = directory.path / name, short_folder / "elsewhere.json"
    file.rename(elsewhere)
    before = elsewhere.read_bytes()
    file.symlink_to(os.path.relpath(elsewhere, directory.path))
    Store(directory).create("a")
    known_routes(directory, ["a"])
    assert file.is_symlink() and elsewhere.read_bytes() != before
    assert not elsewhere.with_name("elsewhere.json.new").exists()
    assert [key.name for key in Store(directory).keys] == ["before", "a"]


@pytest.mark.parametrize("change", [WRITTEN["keys.json.new"], WRITTEN["routes.json.new"]])
def test_a_data_directory_that_has_gone_is_to_be_put_back(
    directory: DataDirectory, change: Callable[[DataDirectory], object]
) -> None:
    shutil.rmtree(directory.path)
    with pytest.raises(StoreError, match=r"not there any more.*: put it back, or start the server"):
        change(directory)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_in_the_way_of_a_write_is_named(directory: DataDirectory, name: str) -> None:
    (directory.path / name).mkdir()
    with pytest.raises(StoreError, match=rf"not saved.*\({directory.path}/{name}\): move it away"):
        WRITTEN[name](directory)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.run.write_text("")
    with pytest.raises(StoreError, match=rf"\({re.escape(str(tmp_path))}/run\): move it away"):
        directory.acquire()
    directory.run.unlink()
    directory.run.mkdir()
    (directory.run / "instances").symlink_to("nowhere")
    with pytest.raises(StoreError, match=f"records of engines in {tmp_path}/run/instances cannot"):
        asyncio.run(find_records(EnginePaths(tmp_path)))


def test_a_pipe_in_the_place_of_the_lock_is_told(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    os.mkfifo(directory.path / "lock")
    with pytest.raises(StoreError, match=rf"{tmp_path}/lock cannot be locked.* it is no file"):
        directory.acquire()


@pytest.mark.parametrize("kind", ["a directory", "a link to itself"])
def test_what_is_in_the_way_of_the_lock_is_named(tmp_path: Path, kind: str) -> None:
    directory = DataDirectory(tmp_path)
    ODD[kind][0](directory.path / "lock")
    with pytest.raises(StoreError, match=rf"\({re.escape(str(tmp_path))}/lock\): (move|remove) it"):
        directory.acquire()


def test_what_is_in_the_way_of_a_socket_is_named(directory: DataDirectory) -> None:
    nothing = Sources(version="", models=list, routes=list, find_key=lambda _: None)
    for path, server in (
        (directory.control_socket, ControlServer(directory.control_socket, None)),  # type: ignore[arg-type]
        (directory.api_socket, ApiServer(Application(nothing), directory.api_socket)),
    ):
        path.mkdir()
        with pytest.raises(GpustackFastError, match=rf"{path} is in the way of .* Move it away"):
            asyncio.run(server.start())
