"""The texts for a person when the server is ready."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import msgspec
import pytest

from gpustack_fast import console
from gpustack_fast.config import Config, ModelConfig


def curl(text: str) -> list[str]:
    return shlex.split(text.partition("Try it: ")[2].splitlines()[0])


def test_the_line_works_when_pasted_whatever_the_key_holds() -> None:
    key = 'it\'s a "custom" $key of ours'
    words = curl(
        console.ready(Config.default(), {"smollm2"}, "http://127.0.0.1:8080", key, Path("/data"))
    )
    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8080/v1/chat/completions"]
    assert f"Authorization: Bearer {key}" in words
    body = json.loads(words[-1])
    assert (body["model"], body["stream"]) == ("smollm2", True)


def test_without_a_key_to_show_it_says_how_to_get_one() -> None:
    text = console.ready(Config.default(), {"smollm2"}, "http://h:1", None, Path("/my data"))
    assert " keys create NAME --data-dir '/my data'" in text
    assert '"Authorization: Bearer $YOUR_KEY"' in text


def test_the_command_is_its_name_alone_only_where_the_path_leads_to_this_very_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = tmp_path / "our folder" / "gpustack-fast", tmp_path / "other" / "gpustack-fast"
    for script in (ours, other):
        script.parent.mkdir()
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(ours), "serve"])
    monkeypatch.setenv("PATH", str(ours.parent))
    assert console.program() == "gpustack-fast"
    for elsewhere in (other.parent, tmp_path):
        monkeypatch.setenv("PATH", str(elsewhere))
        assert shlex.split(console.program()) == [str(ours)]


def test_a_program_that_was_started_as_a_module_is_called_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["/site-packages/gpustack_fast/__main__.py", "serve"])
    assert shlex.split(console.program()) == [sys.executable, "-m", "gpustack_fast"]


MODELS = Config(
    models=[
        ModelConfig(
            name="embed", backend="external", urls=["http://h:1"], categories=["embedding"]
        ),
        ModelConfig(name="talk", backend="external", urls=["http://h:2"], categories=["llm"]),
    ]
)


def test_a_model_that_chats_is_preferred() -> None:
    text = console.ready(MODELS, {"embed", "talk"}, "http://h:1", None, Path("/d"))
    assert json.loads(curl(text)[-1])["model"] == "talk"
    assert "Not ready" not in text


def test_a_route_that_a_new_key_may_not_use_is_not_proposed() -> None:
    talk = msgspec.structs.replace(
        MODELS.models[1], access_policy="allowed_keys", allowed_keys=["alice"]
    )
    config = msgspec.structs.replace(MODELS, models=[MODELS.models[0], talk])
    text = console.ready(config, {"embed", "talk"}, "https://h:1", None, Path("/d"))
    assert json.loads(curl(text)[-1])["model"] == "embed"
    assert curl(text)[:2] == ["curl", "-Nk"], "a certificate seldom names this machine"


def test_a_model_that_has_failed_is_named_and_not_proposed() -> None:
    text = console.ready(MODELS, {"embed"}, "http://h:1", None, Path("/d"))
    assert json.loads(curl(text)[-1])["model"] == "embed"
    assert "Not ready: talk; the lines above say why." in text


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("10.0.0.1:8080", "http://10.0.0.1:8080"),
    ],
)
def test_the_url_is_one_that_this_machine_can_use(address: str, url: str) -> None:
    assert console.public_url(address, "http") == url
    assert console.public_url(address, "https") == url.replace("http:", "https:")
