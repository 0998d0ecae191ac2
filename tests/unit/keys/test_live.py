"""The keys of a running server: the first one, and a disk that fails.

(How changes reach the workers: `end_to_end/test_keys`.)
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from gpustack_fast.errors import (
    ControlError,
    DataPlaneError,
    KeyNotFound,
    StoreError,
    TakenOver,
    UsageError,
)
from gpustack_fast.faults import Faults
from gpustack_fast.keys import live
from gpustack_fast.keys.live import KeyChange, Keys, bootstrap
from gpustack_fast.keys.store import Key, Store
from gpustack_fast.storage.data_directory import DataDirectory
from limits import no_room, unconfirmed_folders


def held_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, threading.Event]:
    """Lets every write of the store wait: the first event says that one has begun, the second lets
    all of them go on.
    """
    begun, goes_on = threading.Event(), threading.Event()
    write = store.write

    def wait_and_write(stored: list[Key]) -> str:
        begun.set()
        goes_on.wait()
        return write(stored)

    monkeypatch.setattr(store, "write", wait_and_write)
    return begun, goes_on


def test_a_first_start_makes_one_key_and_later_starts_make_none(directory: DataDirectory) -> None:
    first = bootstrap(Store(directory), None, None)
    assert first.created is not None and first.notice is None
    assert Store(directory).find(first.created.text)
    later = bootstrap(Store(directory), None, None)
    assert later.created is None and later.notice is None


def test_a_first_start_takes_the_key_that_it_is_given(directory: DataDirectory) -> None:
    first = bootstrap(Store(directory), "my-own-key-of-16", None)
    assert first.created is not None and first.created.text == "my-own-key-of-16"
    again = bootstrap(Store(directory), "my-own-key-of-16", None)
    assert again.created is None and again.notice is None


def test_a_later_start_takes_no_other_bootstrap_key_and_says_what_to_do(
    directory: DataDirectory,
) -> None:
    bootstrap(Store(directory), None, None)
    later = bootstrap(Store(directory), "my-own-key-of-16", None)
    assert later.created is None
    assert later.notice is not None and "my-own-key" not in later.notice
    assert "not taken" in later.notice and "keys create NAME --key-file FILE" in later.notice
    assert Store(directory).find("my-own-key-of-16") is None


def test_a_first_start_behind_keys_create_says_nothing_of_an_earlier_start(
    directory: DataDirectory,
) -> None:
    Store(directory).create("seed", text="my-seed-key-of-16")
    assert bootstrap(Store(directory), "my-seed-key-of-16", None).notice is None
    first = bootstrap(Store(directory), "my-own-key-of-16", None)
    assert first.created is None and first.notice is not None
    assert "never had a key" in first.notice and "start before" not in first.notice
    assert [key.name for key in Store(directory).keys] == ["seed"]


def test_a_revoked_bootstrap_key_does_not_come_back_with_the_next_start(
    directory: DataDirectory,
) -> None:
    bootstrap(Store(directory), "my-own-key-of-16", None)
    Store(directory).revoke("default")
    later = bootstrap(Store(directory), "my-own-key-of-16", None)
    assert later.created is None and later.notice is not None
    assert Store(directory).keys == []


def test_a_bootstrap_key_that_is_too_short_makes_no_store(directory: DataDirectory) -> None:
    with pytest.raises(UsageError, match="16 to 1024 characters"):
        bootstrap(Store(directory), "short", None)
    assert not directory.keys_file.exists()


def test_a_generated_first_key_is_kept_before_it_is_stored(directory: DataDirectory) -> None:
    def full(_: str) -> None:
        raise StoreError("The disk is full.")

    with pytest.raises(StoreError):
        bootstrap(Store(directory), None, full)
    assert not directory.keys_file.exists(), "nobody would ever know that key"
    kept: list[str] = []
    created = bootstrap(Store(directory), None, kept.append).created
    assert created is not None and kept == [created.text]
    assert created.info.custom is False


def test_a_first_key_that_somebody_brought_is_kept_nowhere_else(directory: DataDirectory) -> None:
    kept: list[str] = []
    bootstrap(Store(directory), "my-own-key-of-16", kept.append)
    assert kept == []


# A revocation holds at once, whatever the disk does.


async def until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110 - what is waited for is on the disk
        await asyncio.sleep(0.01)


def test_a_revocation_that_cannot_be_saved_holds_is_listed_and_is_saved_later(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SAVE_AGAIN_EVERY", 0.02)
    store, changes, faults = Store(directory), list[KeyChange](), Faults()
    keys = Keys(store, changes.append, faults)

    async def run() -> None:
        created = await keys.create("stolen")
        await keys.create("kept")
        with no_room():
            revoked = await keys.revoke("stolen")
            assert changes[-1].remove == [created.info.access_key]
            assert keys.authenticate(created.text) is None
            assert "File too large" in revoked.unsaved
            assert [(key.name, bool(key.unsaved)) for key in keys.all()] == [
                ("kept", False),
                ("stolen", True),
            ]
            assert keys.unsaved == 1
            for which in ("stolen", created.text):
                again = await keys.revoke(which)
                assert again.unsaved, "it is tried once more, and is no unknown key"
            await until(lambda: faults.counts["keys"] > 4)
            assert len(changes) == 3
        await until(lambda: keys.unsaved == 0)
        assert [key.name for key in Store(directory).keys] == ["kept"]
        with pytest.raises(KeyNotFound):
            await keys.revoke("stolen")
        await keys.close()

    asyncio.run(run())


def test_keys_are_listed_without_a_look_at_all_of_them_for_each(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(directory)
    stored = [
        Key(name=f"k{number}", access_key=f"{number:016x}", digest=f"{number:064x}", created=1)
        for number in range(200)
    ]
    monkeypatch.setattr(store, "_keys", stored)
    store.written(stored, "")
    keys = Keys(store, lambda _: None, Faults())
    compared = 0

    class Counted(list[Key]):
        def __contains__(self, key: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__contains__(key)

    monkeypatch.setattr(store, "_keys", Counted(stored))
    assert len(keys.all()) == 200 and keys.unsaved == 0
    assert compared == 0, "thousands of them would keep the loop for minutes"


def test_a_key_that_cannot_be_saved_is_not_made(directory: DataDirectory) -> None:
    changes: list[KeyChange] = []
    keys = Keys(Store(directory), changes.append, Faults())

    async def run() -> None:
        with no_room(), pytest.raises(StoreError, match="File too large"):
            await keys.create("a")
        assert (keys.all(), changes) == ([], [])

    asyncio.run(run())


def test_a_new_key_that_is_saved_saves_what_was_revoked_before(directory: DataDirectory) -> None:
    keys = Keys(Store(directory), lambda _: None, Faults())

    async def run() -> None:
        await keys.create("a")
        with no_room():
            assert (await keys.revoke("a")).unsaved
        await keys.create("a")
        assert [key.unsaved for key in keys.all()] == [""]
        await keys.close()

    asyncio.run(run())
    assert [key.name for key in Store(directory).keys] == ["a"]


def test_a_server_that_ends_tries_once_more_and_then_says_what_comes_back(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    keys = Keys(Store(directory), lambda _: None, Faults())

    async def run() -> None:
        for name in ("a", "b"):
            await keys.create(name)
        with no_room():
            await keys.revoke("a")
            await keys.close()
        (line,) = caplog.messages
        assert "`a`" in line and "when the next start accepts it again" in line
        await keys.close()

    asyncio.run(run())
    assert [key.name for key in Store(directory).keys] == ["b"]
    assert len(caplog.messages) == 1


def test_a_key_that_the_data_plane_does_not_give_up_stays_in_the_store(
    directory: DataDirectory,
) -> None:
    def publish(change: KeyChange) -> None:
        if change.remove:
            raise DataPlaneError("The salt does not fit.")

    keys = Keys(Store(directory), publish, Faults())

    async def run() -> None:
        created = await keys.create("a")
        with pytest.raises(DataPlaneError):
            await keys.revoke("a")
        assert keys.authenticate(created.text) == created.info

    asyncio.run(run())
    assert [key.name for key in Store(directory).keys] == ["a"]


def test_a_thread_that_writes_keys_reads_and_changes_none_of_those_of_the_loop(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(directory)
    keys = Keys(store, lambda _: None, Faults())
    of_the_loop = threading.get_ident()

    class Guarded(list[Key]):
        def __iter__(self) -> Iterator[Key]:
            assert threading.get_ident() == of_the_loop
            return super().__iter__()

        def append(self, key: Key) -> None:
            assert threading.get_ident() == of_the_loop
            super().append(key)

    async def run() -> None:
        monkeypatch.setattr(store, "_keys", Guarded())
        monkeypatch.setattr(store, "_on_disk", Guarded())
        await keys.create("a")
        await keys.create("b")
        assert not (await keys.revoke("a")).unsaved
        await keys.close()

    asyncio.run(run())
    assert [key.name for key in Store(directory).keys] == ["b"]


def test_a_key_that_is_revoked_while_another_one_is_written_does_not_come_back(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(directory)
    keys = Keys(store, lambda _: None, Faults())

    async def run() -> None:
        await keys.create("gone")
        begun, goes_on = held_up(store, monkeypatch)
        creating = asyncio.ensure_future(keys.create("made"))
        await until(begun.is_set)
        revoking = asyncio.ensure_future(keys.revoke("gone"))
        await until(lambda: keys.all() == [] or keys.unsaved > 0)
        goes_on.set()
        assert (await creating).info.name == "made"
        assert not (await revoking).unsaved
        await keys.close()

    asyncio.run(run())
    assert [key.name for key in Store(directory).keys] == ["made"]


def test_a_server_that_ends_waits_for_a_key_that_is_being_written(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(directory)
    keys = Keys(store, lambda _: None, Faults())

    async def run() -> None:
        begun, goes_on = held_up(store, monkeypatch)
        creating = asyncio.ensure_future(keys.create("a"))
        await until(begun.is_set)
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
        await keys.close()
        assert creating.done()

    asyncio.run(run())
    assert [key.name for key in Store(directory).keys] == ["a"]


# A folder that the disk does not confirm: what was renamed is there, until a power cut.


def test_a_key_in_doubt_is_made_and_its_doubt_is_told(
    directory: DataDirectory,
) -> None:
    changes: list[KeyChange] = []
    keys = Keys(Store(directory), changes.append, Faults())

    async def run() -> None:
        with unconfirmed_folders():
            created = await keys.create("a")
        (doubt,) = created.warnings
        assert "a power cut may undo it" in doubt and str(directory.keys_file) in doubt
        assert [key.name for change in changes for key in change.upsert] == ["a"]
        assert Store(directory).find(created.text)
        assert (await keys.create("b")).warnings == []
        await keys.close()

    asyncio.run(run())


def test_a_revocation_in_doubt_is_saved_again_until_the_disk_confirms_it(
    directory: DataDirectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "SAVE_AGAIN_EVERY", 0.02)
    faults = Faults()
    keys = Keys(Store(directory), lambda _: None, faults)

    async def run() -> None:
        with unconfirmed_folders():
            await keys.create("made in doubt")
            assert "a power cut may undo it" in (await keys.revoke("made in doubt")).unsaved
            assert Store(directory).keys == []
            # One of the same name is another one, and is the one that is meant from then on.
            again = await keys.create("made in doubt")
            assert (await keys.revoke("made in doubt")).access_key == again.info.access_key
            assert keys.unsaved == 2
            await until(lambda: faults.counts["keys"] > 4)
        await until(lambda: keys.unsaved == 0)
        await keys.close()

    asyncio.run(run())


def test_an_old_failure_is_no_reason_why_a_revocation_is_not_saved(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(directory)
    keys = Keys(store, lambda _: None, Faults())

    async def run() -> None:
        for name in ("a", "b"):
            await keys.create(name)
        with no_room():
            assert "File too large" in (await keys.revoke("a")).unsaved
        assert (await keys.revoke("a")).unsaved == ""
        monkeypatch.setattr(live, "SAVE_WITHIN", 0.05)
        _, goes_on = held_up(store, monkeypatch)
        assert (await keys.revoke("b")).unsaved == live.NO_REPLY
        goes_on.set()
        await until(lambda: keys.unsaved == 0)
        await keys.close()

    asyncio.run(run())


def test_keys_that_another_process_has_change_no_more_before_they_are_taken_back(
    directory: DataDirectory,
) -> None:
    store = Store(directory)
    keys = Keys(store, lambda _: None, Faults())

    async def scenario() -> list[str]:
        await keys.create("one")
        assert await keys.give() == []
        with pytest.raises(TakenOver):
            await keys.create("two")
        with pytest.raises(TakenOver):
            await keys.revoke("one")
        keys.take_back()
        await keys.create("three")
        return [key.name for key in keys.all()]

    assert asyncio.run(scenario()) == ["one", "three"]


def test_a_process_that_takes_the_keys_over_has_the_disk_s_without_what_was_revoked(
    directory: DataDirectory,
) -> None:
    store = Store(directory)
    made = [store.create(name).info.access_key for name in ("kept", "revoked")]
    changes: list[KeyChange] = []
    keys = Keys(store, changes.append, Faults())
    other = Store(directory)
    new = other.create("new")

    async def scenario() -> None:
        keys.take(Store(directory), [made[1]])
        assert keys.unsaved == 1
        await keys.close()

    asyncio.run(scenario())
    assert changes[-1].replace
    assert [key.name for key in changes[-1].upsert] == ["kept", "new"]
    assert keys.authenticate(new.text) is not None
    assert [key.name for key in Store(directory).keys] == ["kept", "new"]


def test_keys_are_not_given_while_a_change_is_being_saved(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SAVE_WITHIN", 0.05)
    store = Store(directory)
    keys = Keys(store, lambda _: None, Faults())
    _, goes_on = held_up(store, monkeypatch)

    async def scenario() -> None:
        creating = asyncio.ensure_future(keys.create("one"))
        await asyncio.sleep(0)
        with pytest.raises(ControlError, match="still being saved"):
            await keys.give()
        goes_on.set()
        await creating
        assert await keys.give() == []

    asyncio.run(scenario())
