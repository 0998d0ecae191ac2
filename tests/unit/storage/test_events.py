"""What has happened to engines, on the disk: bounded, and whole whatever was torn."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gpustack_fast.storage.events import LONGEST_REASON, Event, Events


def event(number: int) -> Event:
    return Event(time=float(number), model="m", instance=f"m-{number}", what="started", why="é\n")


def names(events: Events) -> list[str]:
    return [one.instance for one in events.all()]


def test_events_are_kept_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = Events(file)
    events.add(event(1))
    events.save()
    events.add(event(2))
    events.save()
    events.save()
    assert Events(file).all() == [event(1), event(2)]
    assert file.stat().st_mode & 0o777 == 0o600


def test_only_the_newest_are_kept_and_the_file_stays_small(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = Events(file, kept=10)
    for number in range(100):
        events.add(event(number))
        events.save()
        assert len(file.read_bytes().splitlines()) <= 20
    assert names(events) == names(Events(file, kept=10)) == [f"m-{n}" for n in range(90, 100)]


def test_a_torn_last_line_costs_that_event_alone(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = Events(file)
    for number in (1, 2):
        events.add(event(number))
    events.save()
    file.write_bytes(file.read_bytes()[:-5])
    events = Events(file)
    assert names(events) == ["m-1"]
    events.add(event(3))
    events.save()
    assert names(Events(file)) == ["m-1", "m-3"]


def test_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"time": "x"}\n\xff\n[[[\n\n')
    events = Events(file)
    assert events.all() == []
    events.add(event(1))
    events.save()
    assert names(Events(file)) == ["m-1"]


def test_what_could_not_be_saved_is_saved_the_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    file = folder / "events.jsonl"
    events = Events(file)
    events.add(event(1))
    with pytest.raises(OSError, match="No such file"):
        events.save()
    events.add(event(2))
    folder.mkdir()
    events.save()
    assert names(Events(file)) == ["m-1", "m-2"]


def test_a_file_that_cannot_be_read_is_told_and_keeps_nobody_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "events.jsonl").mkdir()
    assert Events(tmp_path / "events.jsonl").all() == []
    assert "cannot be read" in caplog.text


def test_a_long_reason_is_cut(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    events.add(Event(time=1.0, model="m", what="failed", why="x" * 100_000))
    assert len(events.all()[0].why) == LONGEST_REASON
