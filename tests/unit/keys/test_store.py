"""The keys on the disk: real files, real locks, real processes."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gpustack_fast.errors import (
    KeyNameTaken,
    KeyNotFound,
    StoreError,
    UsageError,
)
from gpustack_fast.keys.store import Grant, Store, access_key_of, digest_of
from gpustack_fast.storage.data_directory import DataDirectory
from limits import no_descriptors, unconfirmed_folders

GIVEN = "gpustack_0123456789abcdef_0123456789abcdef0123456789abcdef"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_new_key_has_gpustack_s_form_and_is_found_after_a_restart(
    directory: DataDirectory,
) -> None:
    created = Store(directory).create("laptop", Grant(allowed_models=["smollm2"]))
    assert re.fullmatch(r"gpustack_[0-9a-f]{16}_[0-9a-f]{32}", created.text)
    assert created.info.access_key == created.text.split("_")[1]
    found = Store(directory).find(created.text)
    assert found is not None
    assert (found.name, found.allowed_models, found.custom) == ("laptop", ["smollm2"], False)
    assert Store(directory).find(created.text + "x") is None


def test_the_disk_holds_no_key_but_the_salted_digest(directory: DataDirectory) -> None:
    store = Store(directory)
    created = store.create("laptop")
    text = directory.keys_file.read_text()
    secret = created.text.rsplit("_", 1)[1]
    assert secret not in text
    assert hashlib.sha256(bytes.fromhex(store.salt) + created.text.encode()).hexdigest() in text
    assert secret not in repr(created)
    assert created.info.masked == f"gpustack_{created.info.access_key}_********"


def test_only_the_owner_may_read_what_is_there(directory: DataDirectory) -> None:
    Store(directory).create("laptop")
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in (directory.path, directory.run, directory.keys_file)
    }
    assert modes == {directory.path: 0o700, directory.run: 0o700, directory.keys_file: 0o600}


def test_two_stores_have_two_salts(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        directory = DataDirectory(tmp_path / name)
        directory.acquire()
        store = Store(directory)
        store.create("same", text=GIVEN)
        digests.add(store.keys[0].digest)
        assert Store(directory).salt == store.salt
        directory.release()
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("text", "custom", "access_key"),
    [
        (GIVEN, False, "0123456789abcdef"),
        ("correct horse battery staple", True, None),
        ("sixteen-letters!", True, None),
        ("schlüssel-mit-umlaut", True, None),
        (GIVEN.upper(), True, None),
    ],
)
def test_any_text_of_16_characters_can_be_a_key(
    directory: DataDirectory, text: str, custom: bool, access_key: str | None
) -> None:
    created = Store(directory).create("mine", text=text)
    assert created.text == text
    assert created.info.custom is custom
    hashed = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:16]
    assert created.info.access_key == access_key_of(text) == (access_key or hashed)
    found = Store(directory).find(text)
    assert found is not None and found.digest == digest_of(Store(directory).salt, text)


@pytest.mark.parametrize(
    "text", ["", "fifteen-letters", " leading-space-is-none", "a\tb" * 10, "line\n" * 5, "x" * 1025]
)
def test_a_text_that_no_header_could_carry_is_rejected_and_not_repeated(
    directory: DataDirectory, text: str
) -> None:
    with pytest.raises(UsageError) as raised:
        Store(directory).create("mine", text=text)
    assert not text or text not in str(raised.value)
    assert not directory.keys_file.exists()


def test_a_revoked_key_is_gone_by_name_and_by_access_key(directory: DataDirectory) -> None:
    store = Store(directory)
    keys = [store.create(name) for name in ("a", "b", "c")]
    assert store.revoke("a").name == "a"
    assert store.revoke(keys[1].info.access_key).name == "b"
    again = Store(directory)
    assert [key.name for key in again.keys] == ["c"]
    assert again.find(keys[0].text) is None
    with pytest.raises(KeyNotFound, match="no key with the name or access key `a`"):
        again.revoke("a")


@pytest.mark.parametrize("text", [None, "my-own-key-of-16"])
def test_a_whole_key_names_itself_and_is_never_repeated(
    directory: DataDirectory, text: str | None
) -> None:
    store = Store(directory)
    made = store.create("a", text=text)
    store.create("b")
    assert store.revoke(made.text).name == "a"
    with pytest.raises(KeyNotFound, match="no key with the name or access key that was") as caught:
        store.revoke(made.text)
    assert made.text not in str(caught.value)
    with pytest.raises(KeyNotFound, match=f"access key `{made.info.access_key}`"):
        store.revoke(made.info.access_key)
    with pytest.raises(KeyNotFound):
        store.revoke("not UTF-8, as it was typed: \udcff")
    assert [key.name for key in store.keys] == ["b"]


def test_names_are_unique_until_the_key_is_revoked(directory: DataDirectory) -> None:
    store = Store(directory)
    store.create("a")
    with pytest.raises(KeyNameTaken, match="There is a key named `a` already"):
        store.create("a")
    store.revoke("a")
    store.create("a")
    store.create("b", text=GIVEN)
    with pytest.raises(KeyNameTaken, match="The key named `b`"):
        store.create("c", text=GIVEN)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101, "0123456789abcdef"])
def test_names_that_cannot_be_are_rejected(directory: DataDirectory, name: str) -> None:
    with pytest.raises(UsageError):
        Store(directory).create(name)


@pytest.mark.parametrize(
    ("grant", "message"),
    [
        (Grant(allowed_models=[]), "list of allowed models is empty"),
        (Grant(allowed_models=["b", ""]), "Remove the comma too many"),
        (Grant(allowed_models=["b", "a\udcff"]), "bytes that are not UTF-8"),
        (Grant(scopes=[]), "list of scopes is empty"),
        (Grant(expires_in=0), "A key expires after 1 second to 100 years"),
        (Grant(expires_in=10**12), "A key expires after 1 second to 100 years"),
    ],
)
def test_what_no_key_can_be_granted_is_rejected(
    directory: DataDirectory, grant: Grant, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Store(directory).create("a", grant)
    assert not directory.keys_file.exists()


def test_scopes_and_expiry_are_kept_and_reported(directory: DataDirectory) -> None:
    store = Store(directory)
    store.create("all")
    made = store.create(
        "some", Grant(scopes=["inference", "inference", "management"], expires_in=60)
    ).info
    everything, some = (key.info() for key in Store(directory).keys)
    assert (everything.scopes, everything.expires, everything.is_expired(1e12)) == (
        ["*"],
        None,
        False,
    )
    assert everything.allows("inference") and everything.allows("management")
    assert some == made and some.scopes == ["inference", "management"]
    assert some.expires == some.created + 60
    assert not some.is_expired(some.created + 59.9) and some.is_expired(some.created + 60)
    only = store.create("only", Grant(scopes=["inference"])).info
    assert only.allows("inference") and not only.allows("management")


# The first start


# Damage


GOOD = {
    "version": 1,
    "salt": "00" * 32,
    "keys": [
        {
            "name": "a",
            "access_key": "0" * 16,
            "digest": "11" * 32,
            "allowed_models": None,
            "created": 1,
            "custom": False,
        }
    ],
}
DAMAGED = {
    "empty": b"",
    "half": msgspec.json.encode(GOOD)[:100],
    "zeros": bytes(300),
    "no JSON": b"hello",
    "not UTF-8": b'{"version":1,"salt":"\xff"}',
    "another document": b"[]",
    "too deep": b'{"version":1,"x":' + b"[" * 5000,
    "no salt": b'{"version":1,"keys":[]}',
    "a short salt": msgspec.json.encode({**GOOD, "salt": "00"}),
    "a short digest": msgspec.json.encode({**GOOD, "keys": [{**GOOD["keys"][0], "digest": "11"}]}),  # type: ignore[index]
    "an unknown scope": msgspec.json.encode(
        {**GOOD, "keys": [{**GOOD["keys"][0], "scopes": ["x"]}]}  # type: ignore[index]
    ),
    "no scope": msgspec.json.encode({**GOOD, "keys": [{**GOOD["keys"][0], "scopes": []}]}),  # type: ignore[index]
    "an unknown field": msgspec.json.encode({**GOOD, "more": 1}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_reported_and_left_as_it_is(
    directory: DataDirectory, content: bytes
) -> None:
    directory.keys_file.write_bytes(content)
    with pytest.raises(StoreError, match=r"keys\.json are damaged.*left as it is.*[Rr]estore it"):
        Store(directory)
    assert directory.keys_file.read_bytes() == content


def test_a_file_of_the_first_version_is_read_and_becomes_one_of_this(
    directory: DataDirectory,
) -> None:
    directory.keys_file.write_bytes(msgspec.json.encode(GOOD))
    store = Store(directory)
    (key,) = store.keys
    assert (key.name, key.scopes, key.expires) == ("a", ["*"], None)
    store.create("b", Grant(scopes=["inference"]))
    assert msgspec.json.decode(directory.keys_file.read_bytes())["version"] == 2
    assert [(key.name, key.scopes) for key in Store(directory).keys] == [
        ("a", ["*"]),
        ("b", ["inference"]),
    ]


def test_a_file_of_a_newer_version_is_reported_and_left_as_it_is(directory: DataDirectory) -> None:
    content = b'{"version":3,"vault":"something that we do not know"}'
    directory.keys_file.write_bytes(content)
    with pytest.raises(StoreError, match="newer gpustack-fast"):
        Store(directory)
    assert directory.keys_file.read_bytes() == content


# What the disk may do to us


@pytest.mark.parametrize("failing", ["fsync", "rename", "open"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "The disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failed_write_leaves_the_old_keys_and_says_why(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch, failing: str, number: int, words: str
) -> None:
    store = Store(directory)
    kept = store.create("kept")
    before = directory.keys_file.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path if failing == "rename" else os, failing, fail)
        with pytest.raises(StoreError, match=words):
            store.create("lost")
        with pytest.raises(StoreError, match=words):
            store.revoke("kept")
    assert directory.keys_file.read_bytes() == before
    assert (
        [key.name for key in store.keys] == ["kept"] == [key.name for key in Store(directory).keys]
    )
    assert sorted(path.name for path in directory.path.iterdir()) == ["keys.json", "lock", "run"]
    store.revoke("kept")
    assert Store(directory).find(kept.text) is None


def test_what_the_disk_does_not_confirm_is_there_and_in_doubt(
    directory: DataDirectory,
) -> None:
    store = Store(directory)
    with unconfirmed_folders():
        created = store.create("a")
        assert "a power cut may undo it" in created.warnings[0]
        assert [key.name for key in Store(directory).keys] == ["a"]
        with pytest.raises(KeyNameTaken):
            store.create("a")
        assert "a power cut may undo it" in store.revoke("a").unsaved
        assert Store(directory).keys == []
        assert [key.name for key in store.unsaved] == ["a"]
    store.create("b")
    assert store.unsaved == []


def test_a_file_system_that_syncs_no_folders_leaves_no_doubt(
    directory: DataDirectory,
) -> None:
    with unconfirmed_folders(errno.EINVAL):
        assert Store(directory).create("a").warnings == []


def test_a_folder_that_cannot_be_opened_leaves_everything_as_it_was(
    directory: DataDirectory,
) -> None:
    store = Store(directory)
    with no_descriptors(), pytest.raises(StoreError, match="ulimit -n"):
        store.create("a")
    assert store.keys == [] and not directory.keys_file.exists()


def test_what_a_crash_left_beside_the_file_is_no_obstacle(directory: DataDirectory) -> None:
    directory.path.joinpath("keys.json.new").write_bytes(b"half a fi")
    created = Store(directory).create("a")
    assert Store(directory).find(created.text)
    assert not directory.path.joinpath("keys.json.new").exists()


CRASH = """
import os, sys
from pathlib import Path
from gpustack_fast.keys import store
from gpustack_fast.storage.data_directory import DataDirectory

directory = DataDirectory(Path(sys.argv[1]))
directory.acquire()
keys = store.Store(directory)
setattr(os, sys.argv[2], lambda *_, **__: os._exit(9))
keys.create("second")
"""


@pytest.mark.parametrize("moment", ["fsync", "rename"])
def test_a_crash_while_writing_leaves_a_whole_file(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "data"
    directory = DataDirectory(path)
    directory.acquire()
    first = Store(directory).create("first")
    directory.release()
    code = subprocess.run(
        [sys.executable, "-c", CRASH, str(path), moment], env=ENVIRONMENT, check=False
    ).returncode
    assert code == 9
    directory.acquire()
    store = Store(directory)
    assert [key.name for key in store.keys] == ["first"]
    assert store.find(first.text)
    store.create("third")
    directory.release()


MAKE_KEYS = """
import sys
from pathlib import Path
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.keys.store import Store

for number in range(10):
    directory = DataDirectory(Path(sys.argv[1]))
    directory.acquire(patience=60)
    Store(directory).create(f"{sys.argv[2]}-{number}")
    directory.release()
"""


def test_two_writers_do_not_lose_each_other_s_keys(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", MAKE_KEYS, str(tmp_path), name], env=ENVIRONMENT)
        for name in "ab"
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    directory = DataDirectory(tmp_path)
    directory.acquire()
    assert sorted(key.name for key in Store(directory).keys) == [
        f"{name}-{number}" for name in "ab" for number in range(10)
    ]
    directory.release()
