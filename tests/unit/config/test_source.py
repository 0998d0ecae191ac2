"""The configuration can be read again; what was taken at the start is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpustack_fast.config.settings import load
from gpustack_fast.config.source import Source
from gpustack_fast.errors import ConfigError

MODEL = '[[models]]\nname = "{0}"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'


def test_a_variable_is_taken_once_and_known_ever_after(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(MODEL.format("a") + 'api_key_env = "K"\n')
    environment = {"K": "k" * 20, "LATER": "l" * 20}
    source = Source(lambda: load(file, {}, {}), environment)
    reading = source.read()
    assert reading.engine_keys == {"a": "k" * 20}
    assert "K" in environment, "reading alone changes nothing"
    source.take(reading.config)
    assert environment == {"LATER": "l" * 20}
    more = MODEL.format("b") + 'api_key_env = "LATER"\n'
    file.write_text(file.read_text() + more)
    for _ in range(2):
        reading = source.read()
        assert reading.engine_keys == {"a": "k" * 20, "b": "l" * 20}
        source.take(reading.config)
        assert environment == {}
    file.write_text(file.read_text() + MODEL.format("c") + 'api_key_env = "NONE"\n')
    with pytest.raises(ConfigError, match=r"c\.toml:15: The environment variable `NONE`"):
        source.read()


def test_a_secret_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    file, secret = tmp_path / "c.toml", tmp_path / "secret"
    file.write_text(MODEL.format("a") + 'api_key_file = "secret"\n')
    source = Source(lambda: load(file, {}, {}), {})
    for text in ("first-secret", "second-secret"):
        secret.write_text(text)
        assert source.read().engine_keys == {"a": text}
    secret.unlink()
    with pytest.raises(ConfigError, match=r"c\.toml:5: The file .*secret"):
        source.read()
