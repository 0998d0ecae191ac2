"""The command line: real processes where it matters, and a fake server of the control socket."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from command_line import ENVIRONMENT, FakeServer, run, server

from gpustack_fast.commands import keys, parser
from gpustack_fast.config import Config, ServeOptions
from gpustack_fast.config.settings import SETTINGS
from gpustack_fast.config.source import Reading, Source
from gpustack_fast.errors import UsageError
from gpustack_fast.handover.successor import Inheritance
from gpustack_fast.keys.store import Grant, KeyInfo, Store
from gpustack_fast.signals import Signals
from gpustack_fast.storage.data_directory import DataDirectory
from limits import unconfirmed_folders


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GPUSTACK_FAST_")]:
        monkeypatch.delenv(name)


# check


def test_check_says_that_a_file_is_right_without_starting_anything(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[[models]]\nname = "a"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n')
    done = run("check", "--config", str(file), "--data-dir", str(tmp_path / "data"))
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"{file} is right: 1 model (a), 1 route (a).\n",
        "",
    )
    assert not (tmp_path / "data").exists()


def test_check_says_file_line_and_fix_of_a_mistake_and_ends_with_2(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[server]\nprot = 1\n")
    done = run("check", GPUSTACK_FAST_CONFIG=str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"error: {file}:2: There is no key `prot` in [server]. Did you mean `port`?\n"
    )


def test_check_and_serve_tell_all_mistakes_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[server]\nprot = 1\n[[models]]\nname = "a"\nbackend = "x"\n')
    data = tmp_path / "data"
    for command in ("check", "serve"):
        done = run(
            command, "--config", str(file), "--data-dir", str(data), GPUSTACK_FAST_WORKERS="0"
        )
        lines = done.stderr.splitlines()
        assert done.returncode == 2 and len(lines) == 3
        assert lines[0].startswith(f"error: {file}:2: ")
        assert lines[1].startswith(f"error: {file}:5: ")
        assert lines[2].startswith("error: The environment variable `GPUSTACK_FAST_WORKERS`")
    assert not data.exists()


def test_serve_tells_all_secrets_and_files_that_are_missing_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    model = '[[models]]\nname = "{0}"\nbackend = "external"\nurls = ["http://127.0.0.1:{1}"]\n'
    file.write_text(
        '[server]\ntls_certificate = "none.pem"\ntls_key = "neither.pem"\n'
        + (model.format("a", 1) + 'api_key_env = "NOWHERE"\n')
        + (model.format("b", 2) + 'api_key_file = "nothing"\n')
    )
    done = run("serve", "--config", str(file), "--bootstrap-key", "short")
    told = done.stderr
    assert done.returncode == 2 and len(told.splitlines()) == 5
    for words in ("A key has", "`NOWHERE`", "nothing with the key", "none.pem", "neither.pem"):
        assert words in told


def test_check_and_serve_reject_flags_for_the_engine_that_it_could_never_start_with(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.toml"
    model = 'backend = "llama_cpp"\nsource = "python_package"\npython_package = "p"\n'
    file.write_text(
        f'[[models]]\nname = "a"\n{model}\n[[models]]\nname = "b"\n{model}backend_parameters = '
        '["--port=1"]\n'
    )
    for command in ("check", "serve"):
        done = run(command, "--config", str(file), "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 2
        assert done.stderr == (
            f"error: {file}:12: The model b sets --port in backend_parameters, but the server "
            "itself decides it. "
            "Remove it from backend_parameters.\n"
        )
    assert not (tmp_path / "data").exists()


def test_check_sees_a_wrong_flag_and_a_wrong_variable() -> None:
    assert (
        run("check", "--port", "x").stderr
        == "error: `--port` must be a whole number, but it is the text `x`. Write it in digits.\n"
    )
    done = run("check", GPUSTACK_FAST_WORKERS="0")
    assert done.returncode == 2
    assert "The environment variable `GPUSTACK_FAST_WORKERS` must be at least 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["sevre"], "Did you mean `serve`?"),
        (["serve", "--prot", "1"], "Did you mean `--port`?"),
        (["serve", "--prot=1"], "Did you mean `--port`?"),
        (["serve", "--port"], "--port: expected one argument"),
        (
            ["serve", "--bootstrap-key", "a", "--bootstrap-key-file", "b"],
            "not allowed with argument",
        ),
        (["keys"], "required: COMMAND"),
        (["keys", "revok", "x"], "Did you mean `revoke`?"),
        (["keys", "create"], "required: NAME"),
    ],
)
def test_a_slip_is_met_with_what_can_be_written(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        parser.main(arguments)
    assert raised.value.code == 2
    told = capsys.readouterr().err
    assert (
        told.startswith("error: ")
        and message in told
        and "--help` shows what can be written." in told
    )


def test_the_help_of_serve_names_every_flag_and_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parser.main(["serve", "--help"])
    text = re.sub(r"\s+", "", capsys.readouterr().out)
    for setting in SETTINGS:
        assert setting.flag in text and f"[{setting.variable}]" in text
    assert "[GPUSTACK_FAST_BOOTSTRAP_KEY]" in text and "itshowsin`ps`" in text


# serve


@contextmanager
def fake_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Config, ServeOptions]]]:
    """Takes the place of `app`, and writes down how it is called."""
    calls: list[tuple[Config, ServeOptions]] = []

    def serve(
        _source: Source,
        start: Reading,
        options: ServeOptions,
        _received: Signals,
        _inherited: Inheritance | None,
    ) -> int:
        assert "GPUSTACK_FAST_BOOTSTRAP_KEY" not in os.environ
        calls.append((start.config, options))
        return 7

    module = types.ModuleType("gpustack_fast.app")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gpustack_fast.app", module)
    yield calls


def test_serve_hands_the_configuration_to_the_app_and_returns_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_app(monkeypatch) as calls:
        status = parser.main(
            ["serve", "--port", "0", "--data-dir", str(tmp_path), "--drain-timeout", "1.5"]
        )
    assert status == 7
    [(config, options)] = calls
    assert (config.server.port, config.server.data_dir, config.server.drain_timeout) == (
        0,
        tmp_path,
        1.5,
    )
    assert [model.name for model in config.models] == ["smollm2"]
    assert options.environment["PATH"] == os.environ["PATH"]
    assert msgspec.structs.replace(options, environment={}, arguments=[]) == ServeOptions()


def test_the_bootstrap_key_comes_from_flag_then_file_then_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("key-from-the-file-1\n")
    with fake_app(monkeypatch) as calls:
        monkeypatch.setenv("GPUSTACK_FAST_BOOTSTRAP_KEY", "key-from-the-environment")
        parser.main(["serve", "--bootstrap-key", "key-from-the-flag-1"])
        monkeypatch.setenv("GPUSTACK_FAST_BOOTSTRAP_KEY", "key-from-the-environment")
        parser.main(["serve", "--bootstrap-key-file", str(file)])
        monkeypatch.setenv("GPUSTACK_FAST_BOOTSTRAP_KEY", "key-from-the-environment")
        parser.main(["serve"])
        monkeypatch.setenv("GPUSTACK_FAST_BOOTSTRAP_KEY", "")
        parser.main(["serve"])
        monkeypatch.setenv("GPUSTACK_FAST_BOOTSTRAP_KEY_FILE", str(file))
        parser.main(["serve"])
    assert [options.bootstrap_key for _, options in calls] == [
        "key-from-the-flag-1",
        "key-from-the-file-1",
        "key-from-the-environment",
        None,
        "key-from-the-file-1",
    ]


def test_a_certificate_that_is_none_ends_serve_with_a_sentence_before_any_key_is_made(
    tmp_path: Path,
) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("no certificate")
    tls = ["--tls-certificate", str(tmp_path / "c.pem"), "--tls-key", str(tmp_path / "k.pem")]
    done = run("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), *tls)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: The data plane cannot do what the configuration asks. The TLS certificate file"
    )
    assert not (tmp_path / "data" / "keys.json").exists()


def test_a_place_without_a_key_for_an_engine_ends_serve_before_anything_is_made(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.toml"
    model = (
        '[[models]]\nname = "a"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'
        'api_key_env = "NOWHERE"\n'
    )
    file.write_text(model)
    assert run("check", "--config", str(file)).returncode == 0, "check may run on another machine"
    done = run("serve", "--config", str(file), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {file}:5: The environment variable `NOWHERE` should hold the key"
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["short", "x" * 15, " sixteen letters ", ""])
def test_a_bootstrap_key_that_cannot_be_a_key_starts_nothing_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with fake_app(monkeypatch) as calls:
        assert parser.main(["serve", "--bootstrap-key", text]) == 2
    assert calls == []
    told = capsys.readouterr().err
    assert told.startswith("error: A key ") and (not text or text not in told)


def test_a_key_file_that_cannot_be_read_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["serve", "--bootstrap-key-file", str(tmp_path / "none")]) == 2
    assert "none cannot be read: No such file or directory" in capsys.readouterr().err


# keys without a server


def test_keys_are_made_listed_and_revoked_without_a_server(tmp_path: Path) -> None:
    data = str(tmp_path)
    made = run("keys", "create", "laptop", "--allowed-models", "a, b", "--data-dir", data)
    assert made.returncode == 0 and made.stderr == ""
    assert re.fullmatch(r"gpustack_[0-9a-f]{16}_[0-9a-f]{32}\n", made.stdout)
    key = made.stdout.strip()

    listed = run("keys", "list", GPUSTACK_FAST_DATA_DIR=data).stdout
    assert listed.splitlines()[0].split() == [
        *["NAME", "ACCESS", "KEY", "KEY", "SCOPES", "ALLOWED", "MODELS", "CREATED", "EXPIRES"]
    ]
    assert "laptop" in listed and key.split("_")[1] in listed and "a,b" in listed
    assert key.split("_")[2] not in listed

    revoked = run("keys", "revoke", key.split("_")[1], "--data-dir", data)
    assert revoked.returncode == 0 and "The key `laptop`" in revoked.stdout
    again = run("keys", "revoke", "laptop", "--data-dir", data)
    assert again.returncode == 1 and again.stderr.startswith("error: There is no key with the name")
    assert len(run("keys", "list", "--data-dir", data).stdout.splitlines()) == 1


def test_keys_that_a_power_cut_may_undo_are_made_and_revoked_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with unconfirmed_folders():
        assert keys.create(tmp_path, "a", Grant(), None, None) == 0
        made = capsys.readouterr()
        assert made.out.startswith("gpustack_")
        assert made.err.startswith("warning: The change is made in") and "power cut" in made.err
        assert keys.revoke(tmp_path, "a") == keys.NOT_SAVED
        revoked = capsys.readouterr()
        assert "The key `a`" in revoked.out and "power cut may undo it" in revoked.err


def test_a_key_is_made_for_some_things_and_some_time(tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path)]
    both = ["--scope", "inference", "--scope", "management"]
    assert run("keys", "create", "both", *both, "--expires-in", "30d", *data).returncode == 0
    assert (
        run(
            "keys", "create", "short", "--scope", "inference", "--expires-in", "1s", *data
        ).returncode
        == 0
    )
    assert run("keys", "create", "ever", *data).returncode == 0
    directory = DataDirectory(tmp_path)
    directory.acquire()
    stored = {key.name: key for key in Store(directory).keys}
    assert stored["both"].scopes == ["inference", "management"]
    assert stored["both"].expires == stored["both"].created + 30 * 24 * 3600
    assert (stored["short"].scopes, stored["short"].expires) == (
        ["inference"],
        stored["short"].created + 1,
    )
    assert (stored["ever"].scopes, stored["ever"].expires) == (["*"], None)
    directory.release()


def test_a_key_for_chosen_models_may_not_manage_unless_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    data = ["--data-dir", str(tmp_path / "data")]
    bound = ["--allowed-models", "a"]
    assert run("keys", "create", "bound", *bound, *data).returncode == 0
    both = [*bound, "--scope", "inference", "--scope", "management"]
    assert run("keys", "create", "both", *both, *data).returncode == 0
    assert run("keys", "create", "all", *bound, "--scope", "*", *data).returncode == 0
    directory = DataDirectory(tmp_path / "data")
    directory.acquire()
    scopes = {key.name: key.scopes for key in Store(directory).keys}
    directory.release()
    assert scopes == {"bound": ["inference"], "both": ["inference", "management"], "all": ["*"]}


def test_the_list_shows_what_a_key_may_do_and_marks_what_has_expired(
    capsys: pytest.CaptureFixture[str],
) -> None:
    info = KeyInfo(
        name="k",
        access_key="0" * 16,
        masked="********",
        allowed_models=["a"],
        scopes=["inference", "management"],
        created=1000,
        expires=2000,
        custom=True,
    )
    assert keys._row(info, 1999.0)[3:5] == ("inference,management", "a")
    assert not keys._row(info, 1999.0)[6].startswith("EXPIRED")
    assert keys._row(info, 2000.0)[6].startswith("EXPIRED 1970-01-01")
    assert keys._row(msgspec.structs.replace(info, scopes=["*"], expires=None), 1e12)[3::3] == (
        "all",
        "never",
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("4w", 2_419_200)],
)
def test_a_time_is_a_number_and_its_unit(text: str, seconds: int) -> None:
    assert keys.seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "1.5h", "-1d", "30 d", "30D", "1y", "٣d", "1" * 13 + "s"]
)
def test_what_is_no_time_is_reported(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"is no time\. Write a whole number and its unit, s, m, h, d or w"
    ):
        keys.seconds(text)


@pytest.mark.parametrize("text", ["0", "30", "1" * 12])
def test_a_number_without_a_unit_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(UsageError, match=r"has no unit\..* `30s`, `30m`, `12h` or `90d`"):
        keys.seconds(text)


def test_a_scope_that_is_none_is_rejected_with_those_that_are(tmp_path: Path) -> None:
    done = run("keys", "create", "a", "--scope", "inferense", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 2 and "inference" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_custom_key_is_taken_from_a_file_or_a_flag(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("my-own-key-of-16\r\n")
    (tmp_path / "data").mkdir()
    data = ["--data-dir", str(tmp_path / "data")]
    assert run("keys", "create", "a", "--key-file", str(file), *data).stdout == "my-own-key-of-16\n"
    assert (
        run("keys", "create", "b", "--key", "another-key-of-mine", *data).stdout
        == "another-key-of-mine\n"
    )
    short = run("keys", "create", "c", "--key", "too-short", *data)
    assert short.returncode == 2 and "too-short" not in short.stderr


KEYS_COMMANDS = [["create", "a"], ["list"], ["list", "--json"], ["revoke", "a"]]


@pytest.mark.parametrize("command", KEYS_COMMANDS, ids=" ".join)
def test_a_misspelt_data_directory_is_an_error_and_is_not_made(
    tmp_path: Path, command: list[str]
) -> None:
    data = tmp_path / "ty po"
    done = run("keys", *command, "--data-dir", str(data))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: There is no data directory {data}, and so no keys.")
    assert "Check --data-dir; " in done.stderr and f"mkdir -m 700 '{data}'" in done.stderr
    assert not data.exists()


@pytest.mark.parametrize("command", KEYS_COMMANDS, ids=" ".join)
def test_a_folder_of_other_things_is_no_data_directory(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "letters").touch()
    done = run("keys", *command, "--data-dir", str(tmp_path))
    assert done.returncode == 2 and "is no data directory: it holds other things" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["letters"]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_folder_of_other_things_is_not_made_one(tmp_path: Path, command: str) -> None:
    (tmp_path / "letters").touch()
    tmp_path.chmod(0o755)
    done = run(command, "--port", "0", "--data-dir", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert f"error: The folder {tmp_path} is no data directory: it holds other" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["letters"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("command", ["serve", "check", "keys list"])
def test_an_empty_path_is_not_the_current_folder(command: str) -> None:
    done = run(*command.split(), "--data-dir", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: `--data-dir` is empty. Write a path, or leave it out.\n"


@pytest.mark.parametrize("command", KEYS_COMMANDS, ids=" ".join)
def test_what_is_no_directory_is_not_advised_to_be_made(tmp_path: Path, command: list[str]) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path / "gone")
    for path, reason in (
        (file, "it is no directory"),
        (link, "it is a link to something that is not there"),
        (file / "data", "A part of its path is no directory"),
    ):
        done = run("keys", *command, "--data-dir", str(path))
        assert done.returncode == 1 and "mkdir" not in done.stderr
        assert done.stderr.startswith(f"error: The data directory {path} cannot be read")
        assert reason in done.stderr and "--data-dir" in done.stderr


def test_a_data_directory_that_this_user_may_not_enter_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(path: object) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)
    for command in KEYS_COMMANDS:
        assert parser.main(["keys", *command, "--data-dir", str(tmp_path)]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"error: The data directory {tmp_path} cannot be read. Permission")
        assert "run it as the owner of the directory" in told


def test_the_keys_are_listed_as_json_for_programs(tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path)]
    assert json.loads(run("keys", "list", "--json", *data).stdout) == []
    key = run("keys", "create", "a", "--expires-in", "60s", *data).stdout.strip()
    [listed] = json.loads(run("keys", "list", "--json", *data).stdout)
    created = listed.pop("created")
    assert listed == {
        "name": "a",
        "access_key": key.split("_")[1],
        "masked": f"gpustack_{key.split('_')[1]}_********",
        "allowed_models": None,
        "scopes": ["*"],
        "expires": created + 60,
        "custom": False,
        "unsaved": "",
    }


def test_a_name_of_a_model_in_the_list_is_not_obeyed_by_a_terminal(tmp_path: Path) -> None:
    run("keys", "create", "a", "--allowed-models", "\x1b[2Jm", "--data-dir", str(tmp_path))
    assert "\\x1b[2Jm" in run("keys", "list", "--data-dir", str(tmp_path)).stdout


def test_a_key_can_be_revoked_beside_a_broken_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[[[")
    (tmp_path / "data").mkdir()
    data = str(tmp_path / "data")
    run("keys", "create", "a", "--data-dir", data)
    assert (
        run(
            "keys", "revoke", "a", "--data-dir", data, "--config", str(tmp_path / "c.toml")
        ).returncode
        == 0
    )


def test_the_data_directory_of_the_configuration_is_used(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[server]\ndata_dir = "state"\nprot = 1\n')
    (tmp_path / "state").mkdir()
    assert run("keys", "create", "a", GPUSTACK_FAST_CONFIG=str(tmp_path / "c.toml")).returncode == 0
    assert (tmp_path / "state" / "keys.json").exists()


def test_quick_commands_import_no_data_plane_and_no_event_loop(tmp_path: Path) -> None:
    script = (
        "import sys; from gpustack_fast.commands.parser import main\n"
        "main(['check']); main(['keys', 'create', 'a', '--data-dir', sys.argv[1]])\n"
        "main(['status', '--data-dir', sys.argv[1]])\n"
        "main(['gpus', '--data-dir', sys.argv[1]])\n"
        "heavy = {'gpustack_fast._native', 'asyncio', 'uvloop', 'granian', 'uv', 'ssl'} & "
        "set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# keys with a server


def test_a_running_server_makes_the_change_and_its_data_plane_hears_of_it(tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path)]
    with server(tmp_path) as fake:
        key = run("keys", "create", "laptop", *data).stdout.strip()
        assert key.split("_")[1] in run("keys", "list", *data).stdout
        assert run("keys", "revoke", "laptop", *data).returncode == 0
        refused = run("keys", "revoke", "laptop", *data)
        assert refused.returncode == 1 and "There is no key with the name" in refused.stderr
    assert [len(change.upsert) for change in fake.changes] == [1, 0]
    assert fake.changes[1].remove == [key.split("_")[1]]


def test_a_change_waits_for_a_server_that_is_just_starting(tmp_path: Path) -> None:
    fake = FakeServer(tmp_path)
    command = threading.Thread(
        target=lambda: statuses.append(keys.create(tmp_path, "a", Grant(), None, None))
    )
    statuses: list[int] = []
    command.start()
    command.join(0.2)
    assert command.is_alive()
    fake.thread.start()
    command.join()
    fake.stop.set()
    fake.thread.join()
    assert statuses == [0] and [change.upsert[0].name for change in fake.changes] == ["a"]


def test_a_holder_that_never_responds_is_reported_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keys, "_PATIENCE", 0.1)
    silent = DataDirectory(tmp_path)
    silent.acquire()
    assert parser.main(["keys", "create", "a", "--data-dir", str(tmp_path)]) == 1
    silent.release()
    assert (
        f"A server (process {os.getpid()}) holds {tmp_path} but does not respond"
        in capsys.readouterr().err
    )
