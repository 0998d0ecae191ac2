"""Outputs that fail, other locales, and Ctrl-C before there is anything to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ENVIRONMENT, server

PROGRAM = [sys.executable, "-m", "gpustack_fast"]
CLOSED = [sys.executable, "-c", "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"]
"""Runs a program without a standard output."""
UNREAD = [
    sys.executable,
    "-c",
    "import os, sys; r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)\n"
    "os.execv(sys.argv[1], sys.argv[1:])",
]
"""Runs a program whose standard output is a pipe without a reader."""


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(arguments, check=False, **options)


def run_into(output: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the command with a standard output that fails."""
    if output == "full":
        with open("/dev/full", "wb") as full:
            return run(*PROGRAM, *arguments, stdout=full)
    return run(*(CLOSED if output == "closed" else UNREAD), *PROGRAM, *arguments)


OUTPUTS = ["full", "closed", "unread"]
COMMANDS = [
    "version",
    "--version",
    "check",
    "--help",
    "serve --help",
    "keys list",
    "keys list --json",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_standard_output_that_fails_is_one_line_and_status_1(
    tmp_path: Path, command: str
) -> None:
    where = ["--data-dir", str(tmp_path)] if "list" in command else []
    done = run_into("full", *command.split(), *where)
    told = done.stderr.decode()
    assert done.returncode == 1
    assert re.fullmatch(r"error: Standard output cannot be written: .*\n", told), told


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(
    tmp_path: Path, command: str
) -> None:
    where = ["--data-dir", str(tmp_path)] if "list" in command else []
    done = run_into("unread", *command.split(), *where)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_key_that_nobody_saw_is_revoked(tmp_path: Path, output: str) -> None:
    done = run_into(output, "keys", "create", "a", "--data-dir", str(tmp_path))
    told = done.stderr.decode()
    assert done.returncode == 1 and told.count("\n") == 1
    assert told.endswith("Nobody has seen the key `a`, so it was revoked.\n")
    listed = run(*PROGRAM, "keys", "list", "--json", "--data-dir", str(tmp_path))
    assert listed.stdout == b"[]\n"


def test_an_output_of_another_encoding_is_told_and_loses_no_key(tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path)]
    ascii_only = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    key = ["--key", "schlüssel-von-16-zeichen"]
    done = run(*PROGRAM, "keys", "create", "a", *key, *data, env=ascii_only)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert b"its encoding is ascii" in done.stderr and b"so it was revoked" in done.stderr
    assert run(*PROGRAM, "keys", "list", "--json", *data).stdout == b"[]\n"


def test_a_key_that_nobody_saw_is_revoked_at_a_running_server(tmp_path: Path) -> None:
    with server(tmp_path) as fake:
        assert run_into("full", "keys", "create", "a", "--data-dir", str(tmp_path)).returncode == 1
    assert [len(change.upsert) for change in fake.changes] == [1, 0]
    assert fake.changes[1].remove == [fake.changes[0].upsert[0].access_key]


def test_a_revoked_key_is_revoked_whatever_the_output_does(tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path)]
    run(*PROGRAM, "keys", "create", "a", *data)
    done = run_into("full", "keys", "revoke", "a", *data)
    assert done.returncode == 1
    assert re.search(r"The key `a` \(access key \w+\) is revoked\.$", done.stderr.decode().strip())
    assert run(*PROGRAM, "keys", "list", "--json", *data).stdout == b"[]\n"


def test_a_standard_error_that_fails_changes_no_exit_status() -> None:
    for arguments in (["check", "--port", "x"], ["no-command"]):
        with open("/dev/full", "wb") as full:
            assert run(*PROGRAM, *arguments, stderr=full).returncode == 2


def test_no_terminal_obeys_what_a_complaint_quotes(tmp_path: Path) -> None:
    done = run(*PROGRAM, "keys", "revoke", "\x1b[2J", "--data-dir", str(tmp_path))
    assert done.returncode == 1 and b"`\\x1b[2J`" in done.stderr and b"\x1b" not in done.stderr


def test_version_is_a_flag_too() -> None:
    flag, command = run(*PROGRAM, "--version"), run(*PROGRAM, "version")
    assert flag.returncode == command.returncode == 0
    assert flag.stdout == command.stdout and re.fullmatch(rb"\d+\.\d+\.\d+\n", flag.stdout)


# Locales

ASCII = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0"}
EXTERNAL = '[[models]]\nname = "a"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'


def test_in_a_locale_without_umlauts_paths_may_have_them(tmp_path: Path) -> None:
    folder = tmp_path / "müller"
    (folder / "dä").mkdir(parents=True, mode=0o700)
    file = folder / "c.toml"
    file.write_text(f'[server]\ndata_dir = "dä"\n{EXTERNAL}', encoding="utf-8")
    checked = run(*PROGRAM, "check", "--config", str(file), env=ASCII)
    assert (checked.returncode, checked.stderr) == (0, b"")
    assert checked.stdout.decode().startswith(f"{file} is right")
    made = run(*PROGRAM, "keys", "create", "ü", "--config", str(file), env=ASCII)
    assert (made.returncode, made.stderr) == (0, b"")
    listed = run(*PROGRAM, "keys", "list", "--data-dir", str(folder / "dä"), env=ASCII)
    assert "ü " in listed.stdout.decode() and (folder / "dä" / "keys.json").exists()


def test_a_path_that_is_no_utf_8_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/m\xfcller"
    os.mkdir(folder)
    file = folder + b"/c.toml"
    with open(file, "w") as config:
        config.write('[server]\ndata_dir = "d"\n' + EXTERNAL + 'api_key_file = "k"\n')
    for locale in (ENVIRONMENT, ASCII):
        done = run(*PROGRAM, "check", "--config", os.fsdecode(file), env=locale)
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 2 and len(lines) == 2
        for line, place in zip(lines, ("2: `data_dir`", "7: `api_key_file`"), strict=True):
            assert line.startswith(f"error: {tmp_path}/m\\udcfcller/c.toml:{place} leads through a")


# Ctrl-C

INTERRUPTED = """
import os, signal, sys
module = sys.argv[1]

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from gpustack_fast.__main__ import main
sys.argv[1:] = sys.argv[2:]
sys.exit(main())
"""
"""Presses Ctrl-C while a module is imported."""


def test_ctrl_c_at_the_very_end_is_a_status_and_no_traceback() -> None:
    script = """
import signal, sys
from gpustack_fast import app
from gpustack_fast.__main__ import main

def interrupted(*_):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a loop does that has ended
    signal.raise_signal(signal.SIGINT)

app.serve = interrupted
sys.argv[1:] = ["serve"]
sys.exit(main())
"""
    done = run(sys.executable, "-c", script)
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.parametrize(
    "module", ["gpustack_fast.commands.parser", "msgspec", "gpustack_fast.backends.vllm"]
)
def test_ctrl_c_in_the_midst_of_an_import_ends_without_a_word(module: str) -> None:
    done = run(sys.executable, "-c", INTERRUPTED, module, "check")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("module", ["gpustack_fast.commands.parser", "gpustack_fast.app", "uvloop"])
def test_ctrl_c_before_a_server_has_started_ends_it_with_a_line(module: str) -> None:
    done = run(sys.executable, "-c", INTERRUPTED, module, "serve")
    assert (done.returncode, done.stdout) == (130, b"")
    assert done.stderr == b"Interrupted before the server had started; nothing runs.\n"
