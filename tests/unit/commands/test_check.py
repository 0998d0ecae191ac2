"""`check`: warnings, which change no exit status, and the files of the machine that will serve."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import issue
from command_line import run, server

THEIRS = '[[models]]\nname = "m"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'
ROUTE = (
    '[[routes]]\nname = "r"\ntargets = [{ model = "m" }]\naccess_policy = "allowed_keys"\n'
    'allowed_keys = ["alcie"]\n'
)


def write(folder: Path, text: str) -> str:
    (folder / "c.toml").write_text(text)
    return str(folder / "c.toml")


def test_check_warns_of_what_nobody_can_mean_and_ends_with_0(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    file = write(tmp_path, f'[server]\nhost = "0.0.0.0"\ndata_dir = "data"\n{THEIRS}{ROUTE}')
    made = run("keys", "create", "alice", "--allowed-models", "nosuch", "--config", file)
    assert made.returncode == 0 and made.stdout.count("\n") == 1
    assert made.stderr.startswith("warning: The key `alice` may use `nosuch`, but no route")
    done = run("check", "--config", file, GPUSTACK_FAST_PROT="1", GPUSTACK_FAST_LOG_LEVEL="debug")
    assert done.returncode == 0 and done.stdout.startswith(
        f"{file} is right: 1 model (m), 2 routes"
    )
    told = done.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in told)
    for words in (
        "Did you mean `GPUSTACK_FAST_PORT`?",
        "Did you mean `GPUSTACK_FAST_LOG`?",
        "cross the network in the clear",
        "lets in the key `alcie`, but there is none of this name. Did you mean `alice`?",
        "may use `nosuch`, but no route is called so",
        "No key may use the route `m`",
    ):
        assert sum(words in line for line in told) == 1, words
    assert len(told) == 6


def test_check_looks_at_files_and_keys_only_where_they_are(tmp_path: Path) -> None:
    file = write(tmp_path, THEIRS + 'api_key_file = "none"\n')
    data = ["--data-dir", str(tmp_path / "data")]
    done = run("check", "--config", file, *data)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {file}:5: The file ")
    done = run("check", "--config", file, "--no-files", *data)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_takes_what_serve_takes_and_looks_at_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short")
    where = ["--data-dir", str(tmp_path / "data"), "--bootstrap-key-file", str(tmp_path / "key")]
    done = run("check", "--port", "x", *where)
    assert done.returncode == 2
    port, key = done.stderr.splitlines()
    assert "`--port` must be" in port and "A key has 16" in key
    assert run("check", "--no-files", *where).returncode == 0


def test_check_refuses_a_data_directory_that_serve_refuses(tmp_path: Path) -> None:
    file = write(tmp_path, THEIRS)
    everybody_s = tmp_path / "data"
    everybody_s.mkdir()
    everybody_s.chmod(0o777)
    for folder, told in (
        (tmp_path / ("x" * 100), "has too long a path: that of its sockets would have"),
        (everybody_s, "Everybody may write to the directory"),
    ):
        done = run("check", "--config", file, "--data-dir", str(folder))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and told in done.stderr
        served = run("serve", "--config", file, "--data-dir", str(folder), "--port", "0")
        assert served.returncode != 0 and done.stderr in served.stderr


def test_check_says_which_variables_serve_will_need(tmp_path: Path) -> None:
    file = write(tmp_path, THEIRS + 'api_key_env = "NOWHERE"\n')
    data = ["--data-dir", str(tmp_path / "data")]
    done = run("check", "--config", file, *data)
    assert done.returncode == 0, "check may run elsewhere"
    assert done.stderr.startswith("warning: The environment variable `NOWHERE`")
    assert run("check", "--config", file, "--no-files", *data).stderr == ""
    assert run("check", "--config", file, *data, NOWHERE="k").stderr == ""


def test_check_says_that_keys_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    done = run("check", "--data-dir", str(tmp_path))
    assert done.returncode == 0
    assert done.stderr.startswith(
        "warning: The keys were not compared with the routes. The keys in"
    )


def test_a_running_server_knows_which_models_there_are(tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path)]
    with server(tmp_path):
        wrong = run("keys", "create", "a", "--allowed-models", "known,knwon", *data)
        right = run("keys", "create", "b", "--allowed-models", "known", *data)
    assert wrong.returncode == right.returncode == 0
    assert wrong.stderr.startswith(
        "warning: The key `a` may use `knwon`, but no route is called so"
    )
    assert right.stderr == ""


@pytest.mark.parametrize("command", ["create a", "list"])
def test_a_misspelt_variable_is_warned_of_where_keys_are_looked_for(
    tmp_path: Path, command: str
) -> None:
    done = run("keys", *command.split(), "--data-dir", str(tmp_path), GPUSTACK_FAST_DATADIR="/x")
    assert done.returncode == 0 and "Did you mean `GPUSTACK_FAST_DATA_DIR`?" in done.stderr


@pytest.mark.parametrize(
    ("begins", "ends", "warning"),
    [(0, 1_000_000_000, "has expired"), (4_000_000_000, 4_100_000_000, "is not valid before 20")],
)
def test_a_certificate_that_clients_refuse_is_warned_of(
    tmp_path: Path, begins: int, ends: int, warning: str
) -> None:
    certificate, key = issue(tmp_path, begins=begins, ends=ends)
    where = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    data = ["--data-dir", str(tmp_path / "data")]
    done = run("check", *where, *data)
    assert done.returncode == 0 and f"warning: The certificate {warning}" in done.stderr
    assert "The certificate" not in run("check", "--no-files", *where, *data).stderr


def test_of_a_certificate_that_is_good_nothing_is_said(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path)
    where = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    assert run("check", *where, "--data-dir", str(tmp_path / "data")).stderr == ""
