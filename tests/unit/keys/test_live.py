"""The first key of a running server. (How changes reach the workers: `end_to_end/test_keys`.)"""

from __future__ import annotations

import pytest

from gpustack_fast.errors import StoreError, UsageError
from gpustack_fast.keys.live import bootstrap
from gpustack_fast.keys.store import Store
from gpustack_fast.storage.data_directory import DataDirectory


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


def test_a_later_start_ignores_another_bootstrap_key_and_says_so(directory: DataDirectory) -> None:
    bootstrap(Store(directory), None, None)
    later = bootstrap(Store(directory), "my-own-key-of-16", None)
    assert later.created is None
    assert (
        later.notice is not None and "ignored" in later.notice and "my-own-key" not in later.notice
    )
    assert Store(directory).find("my-own-key-of-16") is None


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
