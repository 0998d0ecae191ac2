"""The configuration can be read again; what was taken at the start is kept."""

from __future__ import annotations

import os
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
    source = Source(lambda found: load(found, {}, {}), file, environment)
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
    source = Source(lambda found: load(found, {}, {}), file, {})
    for text in ("first-secret", "second-secret"):
        secret.write_text(text)
        assert source.read().engine_keys == {"a": text}
    secret.unlink()
    with pytest.raises(ConfigError, match=r"c\.toml:5: The file .*secret"):
        source.read()


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        ("", "The file is empty"),
        (" \n\t\n", "The file is empty"),
        ("# to be written\n", "The file is empty"),
        ("[server]\nserver_timing = false\n", "The file has no model any more"),
    ],
)
def test_a_file_that_lost_its_models_can_be_started_with_and_not_reloaded(
    tmp_path: Path, left: str, reason: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(MODEL.format("a"))
    source = Source(lambda found: load(found, {"--port": "1"}, {}), file, {})
    running = source.read().config
    assert source.read_again(running).config == running
    file.write_text(left)
    told = rf"c\.toml: {reason}.*stop the server and start it with it"
    with pytest.raises(ConfigError, match=told):
        source.read_again(running)
    with pytest.raises(ConfigError, match=told):
        source.read_for_successor(had_models=True)
    assert source.read().config.models == []


def test_an_empty_file_is_no_reload_of_a_server_without_models_either(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[server]\nserver_timing = false\n")
    source = Source(lambda found: load(found, {}, {}), file, {})
    running = source.read().config
    assert source.read_again(running).config == running, "it had none before"
    file.write_text("")
    with pytest.raises(ConfigError, match="The file is empty"):
        source.read_again(running)
    with pytest.raises(ConfigError, match="The file is empty"):
        source.read_for_successor(had_models=False)
    embedded = Source(lambda found: load(found, {}, {}), None, {})
    assert embedded.read_again(embedded.read().config).config.models


def test_what_came_through_a_pipe_cannot_be_read_again(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, MODEL.format("a").encode())
    os.close(writing)
    source = Source(lambda found: load(found, {}, {}), Path(f"/dev/fd/{reading}"), {})
    running = source.read().config
    assert [model.name for model in running.models] == ["a"]
    with pytest.raises(ConfigError, match=r"the pipe is empty; what came through it can be read"):
        source.read_again(running)
    os.close(reading)
