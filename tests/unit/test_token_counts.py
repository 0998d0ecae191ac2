"""The tokens of routes: they survive the server, and a hand-over counts each once."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import Callable, Iterator

import msgspec
import pytest

import seam_samples
from gpustack_fast.faults import Faults
from gpustack_fast.seam.dataplane import DataPlane
from gpustack_fast.seam.documents import RouteTokens, Tokens
from gpustack_fast.storage import durable
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.token_counts import TokenCounts

MakePlane = Callable[[], DataPlane]


def tokens(name: str, input: int, cached: int, output: int) -> RouteTokens:
    return RouteTokens(name=name, input=input, cached=cached, output=output)


def publish(plane: DataPlane, *names: str) -> None:
    """Publishes a table of these routes."""
    routes = [seam_samples.route_entry(name, [seam_samples.target_entry()]) for name in names]
    plane.publish(seam_samples.table([seam_samples.model_entry("m", [])], routes))


def count(plane: DataPlane, *counted: RouteTokens) -> None:
    """Counts as the data plane does when requests end."""
    plane.add_tokens(Tokens(routes=list(counted)))


def shown(plane: DataPlane) -> list[RouteTokens]:
    return plane.stats().routes


@pytest.fixture
def new_plane() -> Iterator[MakePlane]:
    planes: list[DataPlane] = []

    def make() -> DataPlane:
        planes.append(DataPlane(seam_samples.data_plane_config(), []))
        return planes[-1]

    yield make
    for plane in planes:
        plane.drain(0)


def test_the_next_run_counts_on(directory: DataDirectory, new_plane: MakePlane) -> None:
    plane = new_plane()
    counts = TokenCounts(directory, plane, Faults())
    publish(plane, "a", "b")
    counts.look()
    count(plane, tokens("a", 10, 4, 3))
    asyncio.run(counts.save())
    assert stat.S_IMODE(directory.tokens_file.stat().st_mode) == 0o600
    plane = new_plane()
    counts = TokenCounts(directory, plane, Faults())
    publish(plane, "a", "b")
    count(plane, tokens("a", 1, 0, 1))  # by a request that was quicker
    counts.look()
    counts.look()
    assert shown(plane) == [tokens("a", 11, 4, 4), tokens("b", 0, 0, 0)]


def test_no_more_is_shown_than_is_saved(
    directory: DataDirectory, new_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = new_plane()
    told: list[list[RouteTokens]] = []
    monkeypatch.setattr(plane, "show_tokens", lambda shown: told.append(shown.routes))
    counts = TokenCounts(directory, plane, Faults())
    publish(plane, "a", "b")
    count(plane, tokens("a", 10, 4, 3))
    counts.look()
    assert told == [[tokens("a", 0, 0, 0), tokens("b", 0, 0, 0)]]
    asyncio.run(counts.save())
    assert told[1:] == [[tokens("a", 10, 4, 3), tokens("b", 0, 0, 0)]]
    assert b'"output": 3' in directory.tokens_file.read_bytes()


def test_what_has_not_changed_is_not_written(
    directory: DataDirectory, new_plane: MakePlane
) -> None:
    plane = new_plane()
    counts = TokenCounts(directory, plane, Faults())
    asyncio.run(counts.save())
    assert not directory.tokens_file.exists()
    publish(plane, "a")
    count(plane, tokens("a", 1, 0, 0))
    asyncio.run(counts.save())
    before = directory.tokens_file.stat().st_ino
    asyncio.run(counts.save())
    assert directory.tokens_file.stat().st_ino == before


def test_a_route_that_was_away_comes_back_with_its_counts(
    directory: DataDirectory, new_plane: MakePlane
) -> None:
    plane = new_plane()
    counts = TokenCounts(directory, plane, Faults())
    publish(plane, "a", "b")
    count(plane, tokens("a", 5, 0, 5))
    asyncio.run(counts.save())
    publish(plane, "b")
    asyncio.run(counts.save())
    publish(plane, "a", "b")
    count(plane, tokens("a", 9, 0, 9))
    counts.look()
    assert shown(plane)[0] == tokens("a", 14, 0, 14)
    # Between two looks, too.
    publish(plane, "b")
    publish(plane, "a")
    counts.look()
    assert shown(plane) == [tokens("a", 14, 0, 14)]


def test_at_a_hand_over_each_token_counts_once(
    directory: DataDirectory, new_plane: MakePlane
) -> None:
    old, new = new_plane(), new_plane()
    predecessor = TokenCounts(directory, old, Faults())
    publish(old, "a", "gone")
    count(old, tokens("a", 5, 1, 2), tokens("gone", 1, 0, 0))
    asyncio.run(predecessor.freeze())
    assert predecessor.unsaved() == []
    successor = TokenCounts(directory, new, Faults())
    publish(new, "a")
    successor.look()
    count(old, tokens("a", 100, 0, 10), tokens("gone", 1, 1, 1))
    count(new, tokens("a", 1_000, 0, 0))
    asyncio.run(successor.save())
    asyncio.run(predecessor.save())  # it is frozen
    late = predecessor.unsaved()
    assert late == [tokens("a", 100, 0, 10), tokens("gone", 1, 1, 1)]
    successor.add(late)
    asyncio.run(successor.save())
    assert shown(new) == [tokens("a", 1_105, 1, 12)]
    publish(new, "a", "gone")
    successor.look()
    assert shown(new)[1] == tokens("gone", 2, 1, 1)


def test_where_no_successor_comes_it_saves_again(
    directory: DataDirectory, new_plane: MakePlane
) -> None:
    plane = new_plane()
    counts = TokenCounts(directory, plane, Faults())
    publish(plane, "a")
    asyncio.run(counts.freeze())
    count(plane, tokens("a", 7, 0, 7))
    asyncio.run(counts.save())
    counts.thaw()
    assert counts.unsaved() == [tokens("a", 7, 0, 7)]
    asyncio.run(counts.save())
    assert counts.unsaved() == []
    saved = msgspec.json.decode(directory.tokens_file.read_bytes())
    assert saved["routes"] == [{"name": "a", "input": 7, "cached": 0, "output": 7}]


def test_a_damaged_file_is_set_aside_and_counting_begins_anew(
    directory: DataDirectory, new_plane: MakePlane, caplog: pytest.LogCaptureFixture
) -> None:
    directory.tokens_file.write_bytes(b"nonsense")
    plane = new_plane()
    counts = TokenCounts(directory, plane, Faults())
    assert "counts of tokens" in caplog.text and "tokens.json.unread" in caplog.text
    assert directory.tokens_file.with_suffix(".json.unread").read_bytes() == b"nonsense"
    publish(plane, "a")
    count(plane, tokens("a", 1, 1, 1))
    asyncio.run(counts.save())
    assert b'"output": 1' in directory.tokens_file.read_bytes()


def test_a_full_disk_is_a_fault_and_the_next_save_has_all(
    directory: DataDirectory, new_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, faults = new_plane(), Faults()
    counts = TokenCounts(directory, plane, faults)
    publish(plane, "a")
    count(plane, tokens("a", 1, 0, 1))

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    told: list[Tokens] = []
    monkeypatch.setattr(plane, "show_tokens", told.append)
    with monkeypatch.context() as broken:
        broken.setattr(durable, "write", full)
        asyncio.run(counts.save())
    assert told[-1].routes == [tokens("a", 1, 0, 1)], "the metrics do not stand still for a disk"
    assert faults.counts["tokens"] == 1
    assert not directory.tokens_file.exists()
    asyncio.run(counts.save())
    assert directory.tokens_file.exists()
