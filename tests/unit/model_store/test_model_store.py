"""What the store does beside downloading: looking ahead, adapters, other sources, removal."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_store import FILES, WEIGHTS, House, Model, names, until

from gpustack_fast.config import AdapterConfig
from gpustack_fast.errors import UsageError
from gpustack_fast.faults import Faults
from gpustack_fast.model_store import layout, locks
from gpustack_fast.model_store.documents import Inspected, ModelStoreError
from gpustack_fast.model_store.downloads import environment_for
from gpustack_fast.model_store.repositories import parse
from gpustack_fast.model_store.store import Store
from hub import LARGE, Repo


def inspect(house: House, **settings: Any) -> Inspected:
    found = asyncio.run(house.store.inspect(Model(**settings)))
    assert found is not None
    return found


def test_a_look_ahead_brings_no_weights_and_knows_their_sizes(house: House) -> None:
    found = inspect(house)
    assert names(found.folder) == ["config.json", "tokenizer.json"]
    assert found.sizes == {name: len(FILES[name]) for name in FILES if name in found.sizes}
    assert found.sizes["model.safetensors"] == len(WEIGHTS) and found.filename == ""
    assert house.hub.downloads("model.safetensors") == []
    asked = len(house.hub.asked)
    assert inspect(house) == found
    assert len(house.hub.asked) == asked
    assert not house.store.listing()[0].complete
    assert house.fetch() == found.folder


def test_of_gguf_files_the_beginning_comes_ahead(house: House) -> None:
    large = os.urandom(layout.HEAD_BYTES + 1000)
    small = os.urandom(2 * LARGE)
    parts = {"q/m-00001-of-00002.gguf": large, "q/m-00002-of-00002.gguf": small}
    house.hub.repos["org/tiny"] = Repo({**parts, "other-Q8.gguf": b"8"})
    found = inspect(house, huggingface_filename="q/*")
    assert found.filename == "q/m-00001-of-00002.gguf"
    assert found.sizes == {name: len(body) for name, body in parts.items()}
    head = (found.folder / found.filename).read_bytes()
    assert head == large[: layout.HEAD_BYTES]
    assert (found.folder / "q/m-00002-of-00002.gguf").read_bytes() == small

    path = house.fetch(huggingface_filename="q/*")
    assert path.name == "m-00001-of-00002.gguf" and path.read_bytes() == large
    assert not found.folder.exists(), "the beginnings are of no use any more"
    assert inspect(house, huggingface_filename="q/*").folder / found.filename == path


def test_of_a_hub_that_takes_no_ranges_the_beginning_is_kept_alone(house: House) -> None:
    house.hub.ignores_ranges = True
    house.hub.repos["org/tiny"] = Repo({"m.gguf": os.urandom(layout.HEAD_BYTES + 1000)})
    found = inspect(house)
    assert (found.folder / "m.gguf").stat().st_size == layout.HEAD_BYTES


def test_two_models_of_one_repository_share_it(house: House) -> None:
    house.hub.repos["org/tiny"] = Repo({"m-Q4.gguf": b"4", "m-Q8.gguf": b"8"})
    assert house.fetch(huggingface_filename="*Q4*").read_bytes() == b"4"
    assert house.fetch(huggingface_filename="*Q8*").read_bytes() == b"8"
    (stored,) = house.store.listing()
    assert stored.complete and stored.revisions == ["main"]


def test_a_fetch_leaves_what_is_known_of_another_model_of_the_repository(house: House) -> None:
    """Somebody may just read it."""
    house.hub.repos["org/tiny"] = Repo({"a/m-Q4.gguf": b"4" * 9, "b/m-Q8.gguf": b"8" * 9})
    seen = inspect(house, huggingface_filename="*Q4*"), inspect(house, huggingface_filename="*Q8*")
    house.fetch(huggingface_filename="*Q4*")
    first, second = (one.folder / one.filename for one in seen)
    assert second.read_bytes() == b"8" * 9
    assert not first.parent.exists(), "of a whole file nobody needs the beginning"
    house.fetch(huggingface_filename="*Q8*")
    assert not seen[1].folder.exists()


def test_adapters_come_by_their_names(house: House, tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w", "README.md": b"r"}
    house.hub.repos["org/lora"] = Repo(files)
    adapters = [
        AdapterConfig(lora_name="a", lora_repo_name="org/lora"),
        AdapterConfig(lora_name="b", source="local_path", local_path=str(tmp_path)),
    ]
    model = Model(lora_list=adapters)
    found = asyncio.run(house.store.adapters(model, house.reports.append))
    assert names(found["a"]) == ["adapter_config.json", "adapter_model.safetensors"]
    assert found["b"] == tmp_path
    gone = Model(lora_list=[msgspec.structs.replace(adapters[1], local_path="/nowhere")])
    with pytest.raises(ModelStoreError, match="The adapter `b` is not where `local_path` says"):
        asyncio.run(house.store.adapters(gone, house.reports.append))


def test_a_local_model_stays_where_it_is(house: House, tmp_path: Path) -> None:
    local = {"source": "local_path", "huggingface_repo_id": None}
    assert house.fetch(**local, local_path=str(tmp_path)) == tmp_path
    assert inspect(house, **local, local_path=str(tmp_path)).folder == tmp_path
    assert "there is no /nowhere/m" in str(house.fails(**local, local_path="/nowhere/m"))


def test_a_local_model_that_nobody_may_look_at_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    error = house.fails(source="local_path", huggingface_repo_id=None, local_path="/root/m")
    text = "The model `m` cannot be looked at: Permission denied (/root/m). Check the rights"
    assert text in str(error) and error.may_pass


def test_of_a_python_package_the_engine_knows_the_place(house: House) -> None:
    model = Model(source="python_package", huggingface_repo_id=None)
    assert asyncio.run(house.store.fetch(model, house.reports.append)) is None
    assert asyncio.run(house.store.inspect(model)) is None


MODELSCOPE = {
    "api.py": """
class HubApi:
    def get_model_files(self, model_id, revision=None, root=None, recursive=False):
        assert (model_id, revision, root, recursive) == ("org/m", "v1", None, True)
        return [
            {"Path": "sub", "Type": "tree", "Size": 0},
            {"Path": "config.json", "Type": "blob", "Size": 2, "Sha256": SHA},
            {"Path": "sub/model.safetensors", "Type": "blob", "Size": 2, "Sha256": SHA},
            {"Path": "README.md", "Type": "blob", "Size": 9, "Sha256": "0" * 64},
        ]
SHA = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
""",
    "file_download.py": """
import pathlib
def model_file_download(model_id, file_path, revision=None, cache_dir=None, local_dir=None):
    assert (model_id, revision, cache_dir) == ("org/m", "v1", None)
    path = pathlib.Path(local_dir, file_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return str(path)
""",
}


OF_MODEL_SCOPE = {
    "source": "model_scope",
    "huggingface_repo_id": None,
    "model_scope_model_id": "org/m@v1",
}


def install_model_scope(house: House, folder: Path, api: str = MODELSCOPE["api.py"]) -> None:
    """Gives a house a package of ModelScope's."""
    package = folder / "packages" / "modelscope" / "hub"
    package.mkdir(parents=True)
    for name, code in {"__init__.py": "", **MODELSCOPE, "api.py": api}.items():
        (package / name).write_text(code)
    (package.parent / "__init__.py").touch()
    house.environment["PYTHONPATH"] += f":{folder / 'packages'}"


def test_files_that_a_hub_gives_no_hash_for_are_told(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = MODELSCOPE["api.py"].replace('"Size": 2, "Sha256": SHA', '"Size": 2', 1)
    install_model_scope(house, tmp_path, api)
    house.fetch(**OF_MODEL_SCOPE)
    assert "gives no hash for 1 of the files of org/m: of those nothing but the size" in caplog.text


@pytest.mark.parametrize("said", ["", '"Size": -15, ', '"Size": None, ', '"Size": "2", '])
def test_sizes_that_are_none_are_not_believed(house: House, tmp_path: Path, said: str) -> None:
    install_model_scope(house, tmp_path, MODELSCOPE["api.py"].replace('"Size": 2, ', said, 1))
    text = str(house.fails(**OF_MODEL_SCOPE))
    assert "ModelScope does not say how large the file `config.json` of org/m is" in text


def test_model_scope_is_asked_through_its_package(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = str(house.fails(**OF_MODEL_SCOPE))
    assert "Install it beside gpustack-fast with `pip install modelscope`" in text
    install_model_scope(house, tmp_path)
    found = house.fetch(**OF_MODEL_SCOPE)
    assert "no hash" not in caplog.text
    assert names(found) == ["config.json", "sub/model.safetensors"]
    assert found.is_relative_to(house.folder / "model_scope" / "org--m")
    assert not any(name.endswith(".d") for name in os.listdir(found.parents[1] / "partial"))


@pytest.mark.parametrize("name", ["api.py", "file_download.py"])
def test_a_model_scope_that_cannot_be_reached_is_no_fault_of_the_disk(
    house: House, tmp_path: Path, name: str
) -> None:
    package = tmp_path / "packages" / "modelscope" / "hub"
    package.mkdir(parents=True)
    # As `requests` has it.
    away = "raise type('ConnectionError', (OSError,), {})('https://host/?signature=secret')"
    for file, code in {"__init__.py": "", **MODELSCOPE}.items():
        told = code.replace("assert (", f"{away}; (") if file == name else code
        (package / file).write_text(told)
    (package.parent / "__init__.py").touch()
    house.environment["PYTHONPATH"] += f":{tmp_path / 'packages'}"
    error = house.fails(
        source="model_scope", huggingface_repo_id=None, model_scope_model_id="org/m@v1"
    )
    assert "ModelScope cannot be reached, or refuses org/m (ConnectionError)." in str(error)
    assert error.may_pass


@pytest.mark.parametrize("of_model", [False, True])
def test_no_variable_has_the_requests_of_a_download_written_down(of_model: bool) -> None:
    loud, other = {"HF_DEBUG": "1"}, {"HF_TOKEN": "hf_x"}
    model, own = ({**other, **loud}, {"A": "b"}) if of_model else (other, {**loud, "A": "b"})
    found = environment_for({**model, "PATH": "/mine"}, own)
    assert "HF_DEBUG" not in found and "PATH" not in found
    assert (found["HF_TOKEN"], found["A"]) == ("hf_x", "b")


@pytest.mark.parametrize("how", ["fetched", "looked at"])
def test_what_is_used_or_fetched_is_not_removed(house: House, how: str) -> None:
    house.fetch()
    house.store.close()
    if how == "fetched":
        house.fetch()
    else:
        inspect(house)
    other = Store(house.folder, Faults(), house.environment)
    with pytest.raises(ModelStoreError, match="cannot be removed: a running server uses it"):
        other.remove("huggingface", "org/tiny")
    house.store.close()
    handle = locks.open_lock(house.folder / "huggingface" / "org--tiny.lock")
    assert locks.try_lock(handle)
    with pytest.raises(ModelStoreError, match="cannot be removed: another process fetches it"):
        other.remove("huggingface", "org/tiny")
    os.close(handle)
    assert other.remove("huggingface", "org/tiny") > len(WEIGHTS)
    assert other.listing() == [] and not house.repository.exists()
    with pytest.raises(UsageError, match="There is no org/tiny in"):
        other.remove("huggingface", "org/tiny")


@pytest.mark.parametrize("suffix", [".use", ".lock"])
def test_a_fetch_that_is_given_up_keeps_no_lock(
    house: House, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Also in the moment in which a slow disk opens the file of one."""
    own, asked, gate, opened = locks.open_lock, list[Path](), threading.Event(), list[int]()

    def slow(path: Path) -> int:
        if path.suffix == suffix:
            asked.append(path)
            gate.wait()
            opened.append(own(path))
            return opened[0]
        return own(path)

    monkeypatch.setattr(locks, "open_lock", slow)

    async def scenario() -> None:
        fetching = asyncio.create_task(house.store.fetch(Model(), house.reports.append))
        await until(lambda: asked)
        fetching.cancel()
        await asyncio.wait({fetching})
        gate.set()
        await until(lambda: opened)
        async with asyncio.timeout(20):
            await until(lambda: str(asked[0]) not in map(file_of, os.listdir("/proc/self/fd")))

    asyncio.run(scenario())


def file_of(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""


def test_what_is_half_removed_is_still_listed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.fetch()
    house.store.close()
    (house.repository / "partial" / "large").write_bytes(b"x")
    remove, gone = shutil.rmtree, list[Path]()

    def fail_second(path: Path) -> None:
        gone.append(path)
        if len(gone) > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", fail_second)
    with pytest.raises(ModelStoreError, match="cannot be used: Input/output error"):
        house.store.remove("huggingface", "org/tiny")
    assert not (house.repository / "partial").exists()
    assert [one.complete for one in house.store.listing()] == [False]


def test_a_file_that_was_cut_since_is_fetched_again(house: House) -> None:
    found = house.fetch()
    os.truncate(found / "model.safetensors", 10)
    assert not house.store.listing()[0].complete
    assert (house.fetch() / "model.safetensors").read_bytes() == WEIGHTS


def test_a_commit_is_its_own_pin(house: House) -> None:
    commit = house.hub.repos["org/tiny"].commit
    found = house.fetch(huggingface_repo_id=f"org/tiny@{commit}")
    assert found.parent.name == commit
    assert house.store.listing()[0].revisions == []
    repository = parse(f"huggingface:org/tiny@{commit}")
    assert repository is not None
    assert asyncio.run(house.store.pull(repository, {}, house.reports.append)) == found


def test_a_store_that_may_only_be_read_serves_what_is_whole_in_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = house.fetch()
    house.store.close()

    def refuse(path: Path) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(locks, "open_lock", refuse)
    assert house.fetch() == found
    text = str(house.fails(huggingface_repo_id="org/other"))
    assert "cannot be used: Read-only file system" in text


def test_a_store_that_cannot_be_written_is_told(house: House) -> None:
    house.folder.write_text("a file")
    assert "cannot be used: " in str(house.fails()) and "models_dir" in str(house.fails())
