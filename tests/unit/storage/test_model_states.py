"""The generations of models, and the orders about instances, over restarts."""

from __future__ import annotations

import json

import pytest

from gpustack_fast.errors import StoreError
from gpustack_fast.storage import durable
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.model_states import ModelStates


def test_a_generation_is_raised_by_each_other_spec_and_kept_over_restarts(
    directory: DataDirectory,
) -> None:
    states = ModelStates(directory)
    assert states.raised({"m": "one", "n": "one"}) == {"m": 1, "n": 1}
    assert states.raised({"m": "two"}) == {"m": 2}
    again = ModelStates(directory)
    assert again.raised({"m": "two", "n": "one"}) == {"m": 2, "n": 1}
    assert again.raised({"m": "one"}) == {"m": 3}, "an edit that is taken back is an edit"
    assert directory.models_file.stat().st_mode & 0o777 == 0o600


def test_what_was_carried_out_is_kept_and_who_is_drained_or_sleeps(
    directory: DataDirectory,
) -> None:
    states = ModelStates(directory)
    states.raised({"m": "one"})
    assert states.observed("m") == 0 and not states.drained
    assert states.observe("m", 1) and not states.observe("m", 1)
    assert states.drain(["m-1"]) and not states.drain(["m-1"])
    assert states.rest(["m"]) and not states.rest(["m"])
    states.save()
    again = ModelStates(directory)
    assert again.observed("m") == 1 and set(again.drained) == {"m-1"}
    assert again.asleep == {"m"} and again.rest([]) and not again.asleep
    assert not again.observe("unknown", 3)


def test_what_cannot_be_saved_is_not_raised(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ModelStates(directory)
    states.raised({"m": "one"})

    def full(*_: object) -> str:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write", full)
        with pytest.raises(StoreError):
            states.raised({"m": "two"})
    assert states.raised({"m": "one"}) == {"m": 1}
    assert json.loads(directory.models_file.read_text())["models"][0]["generation"] == 1


def test_a_damaged_file_ends_the_start_and_is_left_as_it_is(directory: DataDirectory) -> None:
    directory.models_file.write_text('{"version": 1, "models": 3}')
    with pytest.raises(StoreError, match="The states of the models in "):
        ModelStates(directory)
    assert directory.models_file.read_text() == '{"version": 1, "models": 3}'
