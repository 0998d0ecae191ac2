"""Downloads of the real `huggingface_hub` from a stand-in hub, in a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_store import FILES, WEIGHTS, House, Model, children_of, names, until, wait_until

from gpustack_fast.model_store import downloads
from gpustack_fast.model_store.documents import ModelStoreError
from gpustack_fast.model_store.repositories import parse
from hub import Repo
from limits import limited, no_room, small_disk


def test_a_model_is_fetched_once_and_then_needs_no_hub(house: House) -> None:
    found = house.fetch()
    assert names(found) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    assert (
        house.reports[-1].done
        <= house.reports[-1].total
        == sum(len(FILES[name]) for name in names(found))
    )
    asked = len(house.hub.asked)
    assert house.fetch() == found
    assert len(house.hub.asked) == asked
    assert [one.complete for one in house.store.listing()] == [True]


def test_a_restart_changes_no_model_and_a_pull_does(house: House) -> None:
    before = house.fetch()
    house.hub.repos["org/tiny"] = Repo({**FILES, "config.json": b"{}"})
    assert house.fetch() == before
    repository = parse("huggingface:org/tiny")
    assert repository is not None
    after = asyncio.run(house.store.pull(repository, {}, house.reports.append))
    assert after != before and (after / "config.json").read_bytes() == b"{}"
    assert len(house.hub.downloads("model.safetensors")) == 1
    assert before.exists(), "it is in use"
    house.store.close()
    asyncio.run(house.store.pull(repository, {}, house.reports.append))
    assert not before.exists()


def test_a_cut_connection_is_gone_on_with(house: House) -> None:
    house.hub.cut_after["model.safetensors"] = [1000, 2000, 0, 500, 500, 500]
    assert (house.fetch() / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [one.range for one in house.hub.downloads("model.safetensors") if one.range]
    assert "bytes=1000-20479" in ranges and "bytes=3000-20479" in ranges
    assert any("cut" in one.note for one in house.reports)


def test_a_hub_that_ignores_ranges_sends_the_file_again(house: House) -> None:
    house.hub.ignores_ranges = True
    house.hub.cut_after["model.safetensors"] = [1000]
    assert (house.fetch() / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_brings_nothing_is_given_up(house: House) -> None:
    house.hub.cut_after["model.safetensors"] = [700, *[0] * 50]
    error = house.fails()
    assert error.may_pass and "cannot be reached, or cuts the connection" in str(error)
    kept = [one.stat().st_size for one in (house.repository / "partial").iterdir()]
    assert kept == [700]
    (stored,) = house.store.listing()
    assert stored.size > 700 and not stored.complete
    house.hub.cut_after.clear()
    house.fetch()
    assert house.hub.downloads("model.safetensors")[-1].range == "bytes=700-20479"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_a_wrong_hash_is_removed_and_named(house: House, name: str) -> None:
    house.hub.damaged.add(name)
    error = house.fails()
    assert f"The file `{name}` of org/tiny is not the one that the hub describes" in str(error)
    assert name not in [Path(one).name for one in names(house.repository)]
    digest = hashlib.sha256(FILES[name]).hexdigest()
    assert not (house.repository / "partial" / digest).exists()
    house.hub.damaged.clear()
    house.fetch()


def test_a_hash_of_the_hub_leads_to_no_file_elsewhere(house: House, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"x")
    house.hub.says_of_lfs = str(mine)
    assert "a hash that is none" in str(house.fails())
    assert mine.read_bytes() == b"x"


def test_a_size_that_is_none_is_not_believed(house: House) -> None:
    house.hub.says_of_sizes = -15
    assert "does not say how large the file `config.json` of org/tiny is" in str(house.fails())
    assert not house.hub.downloads("model.safetensors")


@pytest.mark.parametrize("field", ["size", "blobId"])
def test_a_mirror_that_tells_less_of_files_than_the_hub_is_not_believed(
    house: House, field: str
) -> None:
    house.hub.says_less.add(field)
    error = house.fails()
    assert "does not say how large the file `config.json` of org/tiny is" in str(error)
    assert "HF_ENDPOINT" in str(error) and not error.may_pass
    assert [one.complete for one in house.store.listing()] == []


def test_files_of_the_same_content_come_once(house: House) -> None:
    twins = {f"part{number}/model.safetensors": WEIGHTS for number in range(4)}
    house.hub.repos["org/tiny"] = Repo({**FILES, **twins, "empty.txt": b"", "too.txt": b""})
    found = house.fetch()
    assert len(names(found)) == 3 + len(twins) + 2
    assert all((found / name).read_bytes() == WEIGHTS for name in twins)
    assert len(house.hub.downloads("model.safetensors")) == 1


NO_LINKS = """
import errno, os
def link(*_, **__):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
os.link = link
"""


def test_where_files_can_have_no_second_name_they_are_copied(house: House, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_LINKS)
    house.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{house.environment['PYTHONPATH']}"
    house.hub.repos["org/tiny"] = Repo({**FILES, "part/model.safetensors": WEIGHTS})
    found = house.fetch()
    assert (found / "part/model.safetensors").read_bytes() == WEIGHTS
    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    assert len(house.hub.downloads("model.safetensors")) == 1
    assert list((house.repository / "partial").iterdir()) == []


def test_what_was_on_its_way_to_a_commit_that_has_gone_goes_with_a_pull(house: House) -> None:
    house.hub.cut_after["model.safetensors"] = [700, *[0] * 50]
    house.fails()
    house.hub.cut_after.clear()
    partial = house.repository / "partial"
    assert [one.stat().st_size for one in partial.iterdir()] == [700]
    weights = os.urandom(len(WEIGHTS))
    house.hub.repos["org/tiny"] = Repo({**FILES, "model.safetensors": weights})
    repository = parse("huggingface:org/tiny")
    assert repository is not None
    house.store.close()
    found = asyncio.run(house.store.pull(repository, {}, house.reports.append))
    assert (found / "model.safetensors").read_bytes() == weights
    assert list(partial.iterdir()) == []


def test_a_pull_keeps_what_is_on_its_way_to_another_revision(house: House) -> None:
    old = house.hub.repos["org/tiny"].commit
    house.hub.cut_after["model.safetensors"] = [700, *[0] * 50]
    house.fails()
    house.hub.cut_after.clear()
    weights = os.urandom(len(WEIGHTS))
    house.hub.repos["org/tiny"] = Repo({**FILES, "model.safetensors": weights})
    # The server still uses the old one.
    repository = parse("huggingface:org/tiny")
    assert repository is not None
    asyncio.run(house.store.pull(repository, {}, house.reports.append))
    assert [one.stat().st_size for one in (house.repository / "partial").iterdir()] == [700]
    assert (house.repository / old).exists()


LITTLE_ROOM = """
import shutil, types
shutil.disk_usage = lambda _: types.SimpleNamespace(free={free})
"""


def test_what_is_there_already_needs_no_room(house: House, tmp_path: Path) -> None:
    partial = house.repository / "partial" / hashlib.sha256(WEIGHTS).hexdigest()
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:10_000])
    house.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{house.environment['PYTHONPATH']}"
    (tmp_path / "sitecustomize.py").write_text(LITTLE_ROOM.format(free=len(WEIGHTS) - 9000))
    house.fetch()
    house.hub.repos["org/tiny"] = Repo({**FILES, "config.json": b"{}"})
    (tmp_path / "sitecustomize.py").write_text(LITTLE_ROOM.format(free=1000))
    house.pull()


def test_a_file_of_the_same_size_is_not_taken_for_the_same(house: House) -> None:
    before, weights = house.fetch(), os.urandom(len(WEIGHTS))
    house.hub.repos["org/tiny"] = Repo({**FILES, "model.safetensors": weights})
    assert (house.pull() / "model.safetensors").read_bytes() == weights
    assert (before / "model.safetensors").read_bytes() == WEIGHTS


def test_what_a_partial_file_has_wrong_is_received_again(house: House) -> None:
    partial = house.repository / "partial" / hashlib.sha256(WEIGHTS).hexdigest()
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 5000)
    assert (house.fetch() / "model.safetensors").read_bytes() == WEIGHTS


def test_a_wrong_token_is_told(house: House) -> None:
    error = house.fails(env={"HF_TOKEN": "hf_wrong"})
    assert "rejects the token in HF_TOKEN" in str(error) and not error.may_pass


@pytest.mark.parametrize("status", [401, 403])
def test_nobody_is_told_to_change_a_token_that_is_not_set(house: House, status: int) -> None:
    house.hub.failing = [status]
    text = str(house.fails())
    assert f"to nobody without a token, and none is set (status {status}). Set HF_TOKEN" in text


def test_the_right_token_is_sent_to_the_hub_alone(house: House) -> None:
    house.fetch(env={"HF_TOKEN": "hf_right"})
    for one in house.hub.asked:
        expected = None if one.path.startswith("/storage/") else "Bearer hf_right"
        assert one.token == expected


def test_a_gated_repository_names_its_page(house: House) -> None:
    house.hub.repos["org/tiny"].gated = True
    text = str(house.fails())
    assert f"accept a licence. Accept it at {house.hub.url}/org/tiny and set HF_TOKEN" in text
    text = str(house.fails(env={"HF_TOKEN": "hf_right"}))
    assert "with the account of your HF_TOKEN" in text


def test_an_unknown_repository_is_told_with_the_nearest_name(house: House) -> None:
    text = str(house.fails(huggingface_repo_id="org/tyni"))
    assert "There is no repository org/tyni" in text and "HF_TOKEN is not set" in text
    assert text.endswith("Check its name. Did you mean `org/tiny`?")
    assert "may not read it" in str(
        house.fails(huggingface_repo_id="org/tyni", env={"HF_TOKEN": "hf_right"})
    )


def test_an_unknown_revision_is_told(house: House) -> None:
    text = str(house.fails(huggingface_repo_id="org/tiny@v2"))
    assert "org/tiny has no revision `v2`" in text


def test_a_hub_that_asks_to_wait_is_waited_for(house: House) -> None:
    house.hub.limited = ["1", None]
    house.fetch()
    assert any("asks to wait 1 s" in one.note for one in house.reports)


def test_a_hub_that_asks_for_too_long_is_told_and_not_waited_for(house: House) -> None:
    house.hub.limited = ["86400", "600"]
    error = house.fails()
    assert "The hub asks to wait for 86400 s" in str(error) and error.may_pass
    assert error.wait == 3600.0, "it is asked again some day"
    assert house.fails().wait == 600.0


def test_what_is_no_hub_is_told(house: House) -> None:
    house.hub.is_none = True
    assert "responds, but not as a hub of Hugging Face does" in str(house.fails())
    house.hub.is_none = False
    house.hub.repos["org/tiny"].commit = "../../etc"
    assert "responds, but not as a hub of Hugging Face does" in str(house.fails())


@pytest.mark.parametrize("endpoint", ["http://[::1", "huggingface.co", "https://", "foo bar"])
def test_what_is_no_address_of_a_hub_is_told_and_not_tried(house: House, endpoint: str) -> None:
    error = house.fails(env={"HF_ENDPOINT": endpoint})
    assert "HF_ENDPOINT is no address of a hub. Write it as `https://" in str(error)
    assert not error.may_pass and house.reports == []


def test_a_hub_in_trouble_is_tried_again_within_bounds(house: House) -> None:
    house.hub.failing = [503, 500]
    house.fetch()
    house.hub.repos["org/other"] = Repo(dict(FILES))
    house.hub.failing = [503] * 20
    error = house.fails(huggingface_repo_id="org/other")
    assert "has trouble of its own (status 503)" in str(error) and error.may_pass


def test_without_a_network_the_store_has_what_it_has(house: House) -> None:
    found = house.fetch()
    house.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert house.fetch() == found
    error = house.fails(huggingface_repo_id="org/other")
    assert "cannot be reached" in str(error) and error.may_pass


def test_offline_the_store_has_what_it_has(house: House) -> None:
    found, asked = house.fetch(), len(house.hub.asked)
    offline = {"HF_HUB_OFFLINE": "1"}
    assert house.fetch(env=offline) == found
    error = house.fails(huggingface_repo_id="org/other", env=offline)
    assert "HF_HUB_OFFLINE allows no network" in str(error)
    assert len(house.hub.asked) == asked


def test_a_disk_without_room_is_told_before_the_first_byte(house: House) -> None:
    repo = house.hub.repos["org/tiny"]
    house.environment["HF_ENDPOINT"] = house.hub.url
    folder = house.repository / repo.commit
    folder.mkdir(parents=True)
    size = 10**17
    manifest = {
        "repository": "org/tiny",
        "commit": repo.commit,
        "files": [{"name": "model.safetensors", "size": size, "sha256": "0" * 64}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    error = house.fails(huggingface_repo_id=f"org/tiny@{repo.commit}")
    assert "100000.0 TB are needed, and " in str(error) and "models_dir" in str(error)
    assert house.hub.asked == []


def test_a_file_that_may_not_grow_is_told_and_what_came_is_kept(house: House) -> None:
    with limited(0, resource.RLIMIT_FSIZE, 9000):
        error = house.fails()
    assert "a file may not become as large as it is" in str(error)
    assert max(one.stat().st_size for one in (house.repository / "partial").iterdir()) <= 9000
    assert (house.fetch() / "model.safetensors").read_bytes() == WEIGHTS


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), open(file, "wb", buffering=0) as out:
        while True:
            out.write(bytes(1024))


def test_a_disk_that_fills_up_meanwhile_is_told(house: House) -> None:
    house.folder.mkdir()
    house.hub.held.add("model.safetensors")

    async def filled(is_disk: bool) -> str:
        fetching = asyncio.ensure_future(house.store.fetch(Model(), house.reports.append))
        await until(lambda: house.hub.downloads("model.safetensors"))
        filler = house.folder / "filler"
        if is_disk:
            fill(filler)
        (pid,) = downloaders()
        with contextlib.nullcontext() if is_disk else no_room(pid):
            house.hub.held.clear()
            with pytest.raises(ModelStoreError) as raised:
                await fetching
        filler.unlink(missing_ok=True)
        return str(raised.value)

    with small_disk(house.folder, 128 * 1024) as is_disk:
        said = asyncio.run(filled(is_disk))
        expected = "the disk is full. Free some space" if is_disk else "a file may not become as"
        assert f"org/tiny cannot be kept in the store: {expected}" in said
        assert (house.fetch() / "model.safetensors").read_bytes() == WEIGHTS
        house.store.close()


def downloaders() -> list[int]:
    return [
        pid
        for pid in children_of(os.getpid())
        if b"download_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_a_killed_download_goes_on_where_it_was(house: House) -> None:
    house.hub.held.add("model.safetensors")

    async def killed() -> None:
        model = Model(env={"HF_TOKEN": house.hub.token})
        fetching = asyncio.ensure_future(house.store.fetch(model, house.reports.append))
        partial = house.repository / "partial" / hashlib.sha256(WEIGHTS).hexdigest()
        await until(lambda: partial.exists() and partial.stat().st_size)
        (pid,) = downloaders()
        assert b"hf_right" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelStoreError, match=r"ended before its time \(signal 9\)") as raised:
            await fetching
        assert raised.value.may_pass

    asyncio.run(killed())
    house.hub.held.clear()
    house.fetch()
    assert house.hub.downloads("model.safetensors")[-1].range == "bytes=10240-20479"


def test_what_a_process_said_last_is_told_without_the_token_of_a_model(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os, sys; sys.exit('It was ' + os.environ['HF_TOKEN'])")
    monkeypatch.setattr(downloads, "PROGRAM", program)
    assert "Its last line: It was ..." in str(house.fails(env={"HF_TOKEN": "hf_right"}))


def test_a_cancelled_fetch_leaves_no_process(house: House) -> None:
    house.hub.held.add("model.safetensors")

    async def cancelled() -> None:
        fetching = asyncio.ensure_future(house.store.fetch(Model(), house.reports.append))
        await until(lambda: house.hub.downloads("model.safetensors"))
        (pid,) = downloaders()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert not Path(f"/proc/{pid}").exists()

    asyncio.run(cancelled())


PARENT = """
import asyncio, sys
from pathlib import Path
from small_store import Model
from gpustack_fast.faults import Faults
from gpustack_fast.model_store.store import Store
asyncio.run(Store(Path({folder!r}), Faults()).{call})
"""


def test_two_processes_at_once_bring_one_copy(house: House) -> None:
    house.hub.held.add("model.safetensors")
    program = PARENT.format(folder=str(house.folder), call="fetch(Model(), print)")
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=house.environment, stdout=subprocess.PIPE) as other:
        wait_until(lambda: house.hub.downloads("model.safetensors"))

        async def second() -> Path | None:
            fetching = asyncio.ensure_future(house.store.fetch(Model(), house.reports.append))
            await until(lambda: house.reports)
            house.hub.held.clear()
            return await fetching

        found = asyncio.run(second())
        assert other.wait() == 0
    assert house.reports[0].note == "it is being fetched already"
    assert found is not None and (found / "model.safetensors").read_bytes() == WEIGHTS
    assert len(house.hub.downloads("model.safetensors")) == 1


@pytest.mark.parametrize(
    ("call", "file"),
    [("fetch(Model(), print)", "model.safetensors"), ("inspect(Model())", "config.json")],
)
def test_a_killed_parent_leaves_no_download(house: House, call: str, file: str) -> None:
    """While lines about the progress come, and where none do."""
    house.hub.held.add(file)
    house.environment["HF_HUB_DOWNLOAD_TIMEOUT"] = "100000"
    program = PARENT.format(folder=str(house.folder), call=call)
    with subprocess.Popen([sys.executable, "-c", program], env=house.environment) as parent:
        wait_until(lambda: any(file in one.path for one in house.hub.asked))
        (pid,) = children_of(parent.pid)
        parent.kill()
    wait_until(lambda: not _runs(pid))
    house.hub.held.clear()
    house.fetch()


def _runs(pid: int) -> bool:
    try:
        return b"download_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
