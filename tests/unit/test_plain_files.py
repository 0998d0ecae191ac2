"""Files that a person names: whatever a path leads to, reading it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from command_line import ENVIRONMENT

from gpustack_fast import plain_files
from gpustack_fast.config.settings import load_config
from gpustack_fast.errors import StoreError
from gpustack_fast.keys.store import Store
from gpustack_fast.storage.data_directory import DataDirectory

CONFIG = '[[models]]\nname = "a"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'


def disk_image(folder: Path) -> str:
    """10 GB that take no room."""
    with (folder / "image").open("wb") as file:
        file.truncate(10 << 30)
    return str(folder / "image")


def unread_pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A named pipe to which nobody writes, with a short patience."""
    monkeypatch.setattr(plain_files, "PIPE_WITHIN", 0.05)
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


def writing(path: Path, content: bytes) -> threading.Thread:
    thread = threading.Thread(target=path.write_bytes, args=[content])
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("/dev/zero", "it is a device, and no file"),
        ("/dev/full", "it is a device, and no file"),
        ("/", "it is a directory, and no file"),
        ("image", "it is larger than 16 MiB"),
        ("pipe", "the pipe did not end within 0.05 s"),
        ("none", "No such file or directory"),
    ],
)
def test_what_is_no_file_is_refused_and_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, reason: str
) -> None:
    disk_image(tmp_path)
    unread_pipe(tmp_path, monkeypatch)
    with pytest.raises(OSError, match=re.escape(reason)) as raised:
        plain_files.read_bytes(tmp_path / what)
    assert raised.value.strerror == reason


def test_a_pipe_is_read_to_its_end_and_not_beyond_the_limit(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    thread = writing(pipe, b"x" * 200_000)
    assert plain_files.read_bytes(pipe) == b"x" * 200_000
    thread.join()
    with pytest.raises(OSError, match="it is a pipe, and no file"):
        plain_files.read_bytes(pipe, pipes=False)
    pipe.unlink()
    reading, written = os.pipe()
    os.write(written, b"x" * 11)
    with pytest.raises(OSError, match="it is larger than"):
        plain_files.read_bytes(f"/dev/fd/{reading}", largest=10)
    os.close(written)
    with pytest.raises(OSError, match="the pipe is empty; what came through it can be read once"):
        plain_files.read_bytes(f"/dev/fd/{reading}")
    os.close(reading)


def test_a_file_as_large_as_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to("f")
    assert plain_files.read_bytes(tmp_path / "link", largest=10) == b"x" * 10
    with pytest.raises(OSError, match="it is larger than"):
        plain_files.read_bytes(tmp_path / "f", largest=9)


def test_a_configuration_may_come_through_a_pipe_and_its_mistakes_have_lines(
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    thread = writing(pipe, CONFIG.encode())
    assert [model.name for model in load_config(pipe, {}, {}).models] == ["a"]
    thread.join()
    command = [sys.executable, "-m", "gpustack_fast", "check", "--config", "/dev/stdin"]
    wrong = f'[server]\nprot = 1\ntls_certificate = "/none"\ntls_key = "/none"\n{CONFIG}'
    done = subprocess.run(
        command, input=wrong, text=True, capture_output=True, check=False, env=ENVIRONMENT
    )
    places = [line.partition("stdin:")[2].partition(":")[0] for line in done.stderr.splitlines()]
    assert done.returncode == 2 and places == ["2", "3", "4"]


@pytest.mark.parametrize("setting", ["--config", "--tls-certificate", "--bootstrap-key-file"])
@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("what", ["/dev/zero", "/", "image"])
def test_check_and_serve_end_with_a_sentence_whatever_a_path_leads_to(
    tmp_path: Path, command: str, setting: str, what: str
) -> None:
    disk_image(tmp_path)
    named = [setting, str(tmp_path / what), "--data-dir", str(tmp_path / "data")]
    if setting == "--tls-certificate":
        named += ["--tls-key", str(tmp_path / what)]
    done = subprocess.run(
        [sys.executable, "-m", "gpustack_fast", command, *named],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    for line in done.stderr.splitlines():
        assert line.startswith("error: ") and " cannot be read: it is " in line


def test_an_engines_key_is_no_device_either(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG + 'api_key_file = "/dev/zero"\n')
    command = [sys.executable, "-m", "gpustack_fast", "check", "--config", str(tmp_path / "c.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 2 and "c.toml:5: The file /dev/zero with the key" in done.stderr
    assert "cannot be read: it is a device, and no file." in done.stderr


def test_the_store_of_keys_is_no_device_either(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.acquire()
    try:
        directory.keys_file.symlink_to("/dev/zero")
        with pytest.raises(StoreError, match="it is a device, and no file"):
            Store(directory)
    finally:
        directory.release()
