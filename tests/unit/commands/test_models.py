"""`gpustack-fast models list`, `pull` and `remove`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from command_line import ENVIRONMENT, run
from small_store import FILES, WEIGHTS, children_of, wait_until

from gpustack_fast.commands import models
from gpustack_fast.config import AdapterConfig, Config, ModelConfig
from gpustack_fast.config.server import ServerConfig
from gpustack_fast.errors import UsageError
from gpustack_fast.faults import Faults
from gpustack_fast.model_store.repositories import parse
from gpustack_fast.model_store.store import Store
from gpustack_fast.storage.data_directory import DataDirectory
from hub import Hub, Repo, running


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running() as one:
        one.repos["org/tiny"] = Repo(dict(FILES))
        monkeypatch.setenv("HF_ENDPOINT", one.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield one


def environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_HOME")}


def config(folder: Path) -> Config:
    ours = ModelConfig(
        name="tiny", backend="vllm", source="huggingface", huggingface_repo_id="org/tiny"
    )
    package = ModelConfig(name="p", backend="llama_cpp", source="python_package")
    server = ServerConfig(data_dir=folder / "data", models_dir=folder / "models")
    return Config(server=server, models=[ours, package])


def test_a_model_is_pulled_listed_and_removed(hub: Hub, tmp_path: Path) -> None:
    data = tmp_path / "data"
    place = ("--data-dir", str(data))
    pulled = run("models", "pull", "huggingface:org/tiny", *place, **environment())
    assert pulled.returncode == 0, pulled.stderr
    name, _, path = pulled.stdout.strip().partition(" is complete: ")
    assert name == "org/tiny" and (Path(path) / "model.safetensors").read_bytes() == WEIGHTS
    assert "org/tiny: 20.5 kB of 20.5 kB (100 %)" in pulled.stderr or "org/tiny: " in pulled.stderr

    table = run("models", "list", *place).stdout.splitlines()
    assert table[0].split() == [
        "REPOSITORY",
        "REVISION",
        "COMMIT",
        "SIZE",
        "COMPLETE",
        "USED",
        "BY",
    ]
    assert table[1].split()[:2] == ["huggingface:org/tiny", "main"]
    (listed,) = json.loads(run("models", "list", "--json", *place).stdout)
    assert (listed["repository"], listed["complete"], listed["models"]) == ("org/tiny", True, [])
    assert listed["commit"] == hub.repos["org/tiny"].commit

    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    directory = DataDirectory(data)
    directory.acquire()  # the first start of a server finds nothing that is not its own
    directory.release()

    removed = run("models", "remove", "org/tiny", *place)
    assert removed.stdout.startswith("org/tiny is removed: ")
    assert json.loads(run("models", "list", "--json", *place).stdout) == []
    again = run("models", "remove", "org/tiny", *place)
    assert again.returncode == 2 and "There is no `org/tiny` in" in again.stderr


def test_a_pull_that_is_interrupted_leaves_no_process_and_says_how_to_go_on(
    hub: Hub, tmp_path: Path
) -> None:
    hub.held.add("model.safetensors")
    command = [sys.executable, "-m", "gpustack_fast", "models", "pull", "huggingface:org/tiny"]
    pull = subprocess.Popen(
        [*command, "--models-dir", str(tmp_path / "m"), "--data-dir", str(tmp_path / "d")],
        env={**ENVIRONMENT, **environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: hub.downloads("model.safetensors"))
    (child,) = children_of(pull.pid)
    pull.send_signal(signal.SIGINT)
    out, said = pull.communicate()
    assert (pull.returncode, out) == (130, "")
    assert "repeat `gpustack-fast models pull huggingface:org/tiny` to go on" in said
    assert not Path(f"/proc/{child}").exists()
    assert not (tmp_path / "d").exists()


def test_a_pull_that_fails_says_why(hub: Hub, tmp_path: Path) -> None:
    place = ("--models-dir", str(tmp_path / "m"))
    failed = run("models", "pull", "huggingface:org/tinny", *place, **environment())
    assert failed.returncode == 1 and "Did you mean `org/tiny`?" in failed.stderr
    failed = run("models", "pull", "huggingface:a/b/c", *place, **environment())
    assert failed.returncode == 2 and "cannot be a repository" in failed.stderr


def test_models_of_the_configuration_are_known_by_their_names(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = config(tmp_path)
    assert models.pull(known, "tiny", as_json=True) == 0
    (pulled,) = json.loads(capsys.readouterr().out)
    assert pulled["repository"] == "huggingface:org/tiny"
    assert Path(pulled["path"]).is_relative_to(tmp_path / "models")
    assert models.show(known, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)[0]["models"] == ["tiny"]
    for name, words in (
        ("p", "The model `p` comes from no hub"),
        ("tinyy", "has no model `tinyy`. Did you mean `tiny`?"),
    ):
        with pytest.raises(UsageError, match=words):
            models.pull(known, name, as_json=False)
    assert models.remove(known, "tiny", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["repository"] == "org/tiny"


def test_adapters_go_with_their_model_unless_another_needs_them(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("own", "shared", "used", "absent")
    for name in names:
        hub.repos[f"org/{name}"] = Repo({"adapter_model.safetensors": name.encode()})
    adapters = [AdapterConfig(lora_name=name, lora_repo_name=f"org/{name}") for name in names]
    known = config(tmp_path)
    tiny = msgspec.structs.replace(known.models[0], lora_list=adapters)
    other = msgspec.structs.replace(tiny, name="other", lora_list=adapters[1:2])
    known = msgspec.structs.replace(known, models=[tiny, other])
    assert models.pull(known, "tiny", as_json=True) == 0
    assert models.remove(known, "huggingface:org/absent", as_json=True) == 0
    server = Store(tmp_path / "models", Faults())
    used = parse("huggingface:org/used")
    assert used is not None
    asyncio.run(server._use(server._folder(used)))
    capsys.readouterr()
    assert models.remove(known, "tiny", as_json=False) == 0
    server.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "org/tiny is removed",
        "org/own is removed",
        "The adapter org/shared stays",
        "The adapter org/used stays",
    ]
    assert lines[2].endswith(": `other` of the configuration needs it.")
    assert "a running server uses it" in lines[3]
    assert models.show(known, as_json=True) == 0
    left = [one["repository"] for one in json.loads(capsys.readouterr().out)]
    assert left == ["org/shared", "org/used"]


@pytest.mark.parametrize("part", ["@main", ":config.json", "@v1:*.gguf"])
def test_who_names_a_part_of_a_repository_does_not_lose_the_whole(
    hub: Hub, tmp_path: Path, part: str
) -> None:
    known = config(tmp_path)
    models.pull(known, "tiny", as_json=True)
    with pytest.raises(UsageError, match=r"removes the whole\. Write `huggingface:org/tiny`"):
        models.remove(known, f"huggingface:org/tiny{part}", as_json=True)
    assert models.remove(known, "huggingface:org/tiny", as_json=True) == 0


def test_a_model_that_a_server_uses_is_not_removed(hub: Hub, tmp_path: Path) -> None:

    known = config(tmp_path)
    server = Store(tmp_path / "models", Faults())
    asyncio.run(server.fetch(known.models[0], lambda _: None))
    place = ("--models-dir", str(tmp_path / "models"))
    refused = run("models", "remove", "huggingface:org/tiny", *place)
    assert refused.returncode == 1 and "a running server uses it" in refused.stderr
    server.close()
    assert run("models", "remove", "org/tiny", *place).returncode == 0
