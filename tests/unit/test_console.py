"""The texts for a person when the server is ready."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gpustack_fast import console
from gpustack_fast.config import Config, ModelConfig
from gpustack_fast.machine import outward_address
from limits import no_descriptors


def curl(text: str) -> list[str]:
    return shlex.split(text.partition("Try it: ")[2].splitlines()[0])


def ready(
    config: Config,
    models: set[str],
    address: str = "127.0.0.1:8080",
    *,
    scheme: str = "http",
    bearer: str | None = None,
    data_dir: str = "/d",
) -> str:
    return console.ready(config, models, [address], scheme, bearer, Path(data_dir))


def test_the_line_asks_for_a_chat_and_its_key_is_nowhere_in_the_text() -> None:
    words = curl(ready(Config.default(), {"smollm2"}, bearer=console.bearer_in(None)))
    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8080/v1/chat/completions"]
    assert "Authorization: Bearer $YOUR_KEY" in words
    body = json.loads(words[-1])
    assert (body["model"], body["stream"]) == ("smollm2", True)


def test_a_first_key_in_a_file_is_read_by_the_line_itself(tmp_path: Path) -> None:
    file = tmp_path / "it's a folder" / "first-key"
    file.parent.mkdir()
    file.write_text("the-key-in-the-file\n")
    bearer = console.bearer_in(file)
    shown = subprocess.run(
        ["sh", "-c", f'printf %s "Bearer {bearer}"'], capture_output=True, text=True, check=True
    ).stdout
    assert shown == "Bearer the-key-in-the-file"
    assert "keys create" not in ready(Config.default(), {"smollm2"}, bearer=bearer)
    told = console.first_key("the-key-in-the-file", file)
    assert str(file) in told and "the-key-in-the-file" not in told


def test_a_first_key_on_a_terminal_is_a_line_to_paste() -> None:
    assert "YOUR_KEY=the-key" in console.first_key("the-key", None).splitlines()


def test_without_a_key_to_show_it_says_how_to_get_one() -> None:
    text = ready(Config.default(), {"smollm2"}, data_dir="/my data")
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
    text = ready(MODELS, {"embed", "talk"})
    assert json.loads(curl(text)[-1])["model"] == "talk"
    assert "Not ready" not in text


def test_a_route_that_a_new_key_may_not_use_is_not_proposed() -> None:
    talk = msgspec.structs.replace(
        MODELS.models[1], access_policy="allowed_keys", allowed_keys=["alice"]
    )
    config = msgspec.structs.replace(MODELS, models=[MODELS.models[0], talk])
    text = ready(config, {"embed", "talk"}, scheme="https")
    assert json.loads(curl(text)[-1])["model"] == "embed"
    assert curl(text)[:2] == ["curl", "-Nk"], "a certificate seldom names this machine"


def test_a_model_that_has_failed_is_named_and_not_proposed() -> None:
    text = ready(MODELS, {"embed"})
    assert json.loads(curl(text)[-1])["model"] == "embed"
    assert "Not ready: talk; the lines above say why." in text


def test_without_models_it_says_that_there_is_nothing_to_serve() -> None:
    assert "There is nothing to serve" in ready(Config(), set())
    assert "There is nothing to serve" not in ready(MODELS, set())


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("10.0.0.1:8080", "http://10.0.0.1:8080"),
    ],
)
def test_the_line_goes_to_an_address_that_this_machine_can_use(address: str, url: str) -> None:
    assert console.local_url(address, "http") == url
    assert console.local_url(address, "https") == url.replace("http:", "https:")
    assert curl(ready(MODELS, {"talk"}, address))[2] == f"{url}/v1/chat/completions"


def test_the_addresses_that_are_shown_are_those_that_listen() -> None:
    assert console.urls(["127.0.0.1:8080", "[::1]:8080"], "http") == (
        "http://127.0.0.1:8080 and http://[::1]:8080"
    )
    assert console.urls(["0.0.0.0:80"], "https") == "https://0.0.0.0:80 (every IPv4 address)"
    assert console.urls(["[::]:80"], "http") == "http://[::]:80 (every IPv6 address)"


def test_a_server_on_every_address_says_how_others_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "outward_address", lambda: "10.1.2.3")
    everywhere = ready(MODELS, {"talk"}, "0.0.0.0:80")
    assert "Ready: http://0.0.0.0:80 (every IPv4 address)\n" in everywhere
    assert "From this machine http://127.0.0.1:80, from other machines http://10.1.2.3:80\n" in (
        everywhere
    )
    assert "10.1.2.3" not in ready(MODELS, {"talk"}, "[::]:80"), "it does not listen on IPv4"
    assert "From" not in ready(MODELS, {"talk"}, "10.0.0.1:80")


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        (["127.0.0.1:80", "[::1]:80"], None),
        (["127.0.0.2:80"], None),
        (["0.0.0.0:80"], "http://0.0.0.0:80 (every IPv4 address),"),
        (["127.0.0.1:80", "[fe80::1%eth0]:80"], "reach http://[fe80::1%eth0]:80,"),
    ],
)
def test_plain_http_that_others_can_reach_is_warned_of(
    addresses: list[str], told: str | None
) -> None:
    warning = console.unencrypted(addresses, "http")
    assert (warning is None) == (told is None)
    if warning is not None and told is not None:
        assert told in warning and "`tls_certificate`" in warning and "--host" in warning
    assert console.unencrypted(addresses, "https") is None


def test_without_a_descriptor_the_address_for_others_is_not_known() -> None:
    with no_descriptors():
        assert outward_address() is None
