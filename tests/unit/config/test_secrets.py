"""Keys of somebody else's engines and files for TLS, which the configuration only names."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpustack_fast.config.secrets import check_tls_files, take_engine_keys
from gpustack_fast.config.settings import load
from gpustack_fast.errors import ConfigError

MODEL = '[[models]]\nname = "{0}"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "c.toml"
    file.write_text(text)
    return file


def taken(file: Path, environment: dict[str, str]) -> dict[str, str]:
    loaded = load(file, {}, {})
    return take_engine_keys(loaded.config, environment, loaded.places)


def look_at_tls(file: Path | None, flags: dict[str, str] | None = None) -> None:
    loaded = load(file, flags, {})
    check_tls_files(loaded.config.server, loaded.places)


def test_each_engine_gets_the_key_of_its_place(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-the-file\r\n")
    models = [MODEL.format(name) for name in "abc"]
    file = write(
        tmp_path,
        models[0] + 'api_key_env = "KEY_OF_A"\n' + models[1] + 'api_key_file = "key"\n' + models[2],
    )
    environment = {"KEY_OF_A": "from-the-variable", "OTHER": "stays"}
    keys = taken(file, environment)
    assert keys == {"a": "from-the-variable", "b": "from-the-file"}
    assert environment == {"OTHER": "stays"}, "engines of our own inherit the environment"


def test_two_models_may_share_a_variable(tmp_path: Path) -> None:
    file = write(tmp_path, "".join(MODEL.format(name) + 'api_key_env = "K"\n' for name in "ab"))
    assert taken(file, {"K": "k" * 20}) == dict.fromkeys("ab", "k" * 20)


@pytest.mark.parametrize(
    ("written", "environment", "message"),
    [
        (
            'api_key_env = "K"',
            {},
            "The environment variable `K` should hold the key of the engines of the model `a`",
        ),
        (
            'api_key_env = "K"',
            {"K": "\n"},
            "but it is empty or not there. Put the key there before the start.",
        ),
        ('api_key_env = "K"', {"K": "hush\nhush"}, "a second line"),
        ('api_key_env = "K"', {"K": " hush"}, "a space around it"),
        ('api_key_env = "K"', {"K": "hüsh"}, "letters beyond ASCII"),
        (
            'api_key_file = "none"',
            {},
            "none with the key of the engines of the model `a` cannot be read: No such file",
        ),
        ('api_key_file = "latin"', {}, "is not text"),
    ],
)
def test_a_place_without_a_key_is_reported_with_its_line_and_no_key(
    tmp_path: Path, written: str, environment: dict[str, str], message: str
) -> None:
    (tmp_path / "latin").write_bytes(b"h\xfcsh")
    file = write(tmp_path, MODEL.format("a") + written + "\n")
    with pytest.raises(ConfigError) as raised:
        taken(file, environment)
    told = str(raised.value)
    assert told.startswith(f"{file}:5: ") and message in told
    assert "hush" not in told and "hüsh" not in told


def test_a_file_for_tls_that_cannot_be_read_is_reported_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    file = write(tmp_path, '[server]\ntls_certificate = "c.pem"\ntls_key = "k.pem"\n')
    with pytest.raises(
        ConfigError, match=r"c\.toml:3: The file .*k\.pem of `tls_key` cannot be read: No such file"
    ):
        look_at_tls(file)
    (tmp_path / "k.pem").mkdir()
    with pytest.raises(
        ConfigError, match=r"`tls_key` cannot be read: it is a directory, and no file"
    ):
        look_at_tls(file)
    (tmp_path / "k.pem").rmdir()
    (tmp_path / "k.pem").touch()
    look_at_tls(file)
    flags = {"--tls-key": str(tmp_path / "other.pem")}
    with pytest.raises(ConfigError, match=r"\AThe file .*other\.pem of `tls_key`") as raised:
        look_at_tls(None, {**flags, "--tls-certificate": str(tmp_path / "c.pem")})
    assert raised.value.exit_status == 2
