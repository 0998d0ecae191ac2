"""The numbers of the routes: for ever, and never given twice."""

from __future__ import annotations

import stat
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpustack_fast.errors import StoreError
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.route_numbers import known_routes


def numbers(directory: DataDirectory, *names: str) -> dict[str, int]:
    known = known_routes(directory, names)
    return {name: known[name].number for name in names}


def test_a_name_gets_the_next_number_when_it_is_first_seen(directory: DataDirectory) -> None:
    assert numbers(directory, "a", "b/c:d", "a") == {"a": 1, "b/c:d": 2}
    assert numbers(directory, "e", "a") == {"e": 3, "a": 1}


def test_a_name_that_was_gone_comes_back_with_its_own_number(directory: DataDirectory) -> None:
    numbers(directory, "a", "b")
    assert numbers(directory, "c") == {"c": 3}
    assert numbers(directory, "b", "d", "a") == {"b": 2, "d": 4, "a": 1}


def test_the_time_of_the_first_sight_stays(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = known_routes(directory, ["a"])["a"].created
    monkeypatch.setattr(time, "time", lambda: first + 1000.5)
    known = known_routes(directory, ["a", "b"])
    assert (known["a"].created, known["b"].created) == (first, first + 1000)


def test_the_file_is_for_its_owner_and_is_not_touched_without_need(
    directory: DataDirectory,
) -> None:
    numbers(directory, "a")
    before = directory.routes_file.stat()
    assert stat.S_IMODE(before.st_mode) == 0o600
    numbers(directory, "a")
    assert directory.routes_file.stat().st_ino == before.st_ino


@settings(max_examples=50)
@given(starts=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5), max_size=8))
def test_over_any_starts_no_name_changes_its_number_and_no_number_its_name(
    tmp_path_factory: pytest.TempPathFactory, starts: list[list[str]]
) -> None:
    directory = DataDirectory(tmp_path_factory.mktemp("data"))
    directory.acquire()
    seen: dict[str, int] = {}
    for names in starts:
        for name, number in numbers(directory, *names).items():
            assert seen.setdefault(name, number) == number
    assert len(set(seen.values())) == len(seen)
    directory.release()


def test_a_damaged_file_is_reported_and_left_as_it_is(directory: DataDirectory) -> None:
    for content in (
        b"",
        b'{"version":1,"routes":[{"name":"a","number":0,"created":1}]}',
        b'{"version":1,"x":1}',
    ):
        directory.routes_file.write_bytes(content)
        with pytest.raises(
            StoreError, match=r"numbers of the routes in .*routes\.json are damaged.*left as it is"
        ):
            known_routes(directory, ["a"])
        assert directory.routes_file.read_bytes() == content
    directory.routes_file.write_bytes(b'{"version":2}')
    with pytest.raises(StoreError, match="newer gpustack-fast"):
        known_routes(directory, ["a"])
