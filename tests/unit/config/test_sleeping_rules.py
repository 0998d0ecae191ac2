"""Rules of when a model's engines sleep, and of how many there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpustack_fast.config import ModelConfig, ReplicasConfig
from gpustack_fast.config.durations import seconds_of
from gpustack_fast.config.reading.file import read_config_file
from gpustack_fast.errors import ConfigError

PART_OF = '[[models]]\nname = "m"\nbackend = "vllm"\nsource = "local_path"\nlocal_path = "/m"\n'
LLAMA = PART_OF.replace("vllm", "llama_cpp")


def read(tmp_path: Path, *lines: str, model: str = PART_OF) -> ModelConfig:
    file = tmp_path / "c.toml"
    file.write_text(model + "\n".join(lines) + "\n")
    return read_config_file(file).models[0]


def refused(tmp_path: Path, *lines: str, model: str = PART_OF) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, *lines, model=model)
    return str(caught.value)


def test_replicas_are_a_number_or_bounds(tmp_path: Path) -> None:
    assert read(tmp_path).replica_bounds == (1, 1)
    assert read(tmp_path, "replicas = 3").replica_bounds == (3, 3)
    model = read(tmp_path, "replicas = { min = 1, max = 4 }", "target_in_flight = 8")
    assert model.replicas == ReplicasConfig(min=1, max=4)
    assert (model.replica_bounds, model.most_replicas) == ((1, 4), 4)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ('replicas = "3"',),
            "a whole number or a table, but it is the text `3`. Write it without",
        ),
        (("replicas = { min = 1, maxx = 2 }",), "no key `maxx` in [models.replicas]. Did you mean"),
        (("replicas = { min = 1 }",), "This [models.replicas] has no `max`. Add `max = ...`."),
        (("replicas = { min = 0, max = 2 }",), "`min` must be at least 1, but it is 0."),
        (("replicas = { min = 3, max = 2 }", "target_in_flight = 1"), "`max` only 2. Exchange"),
        (("replicas = { min = 1, max = 2 }",), "Write `target_in_flight`, the requests that each"),
        (("target_in_flight = 2",), "a fixed number of replicas, so that `target_in_flight` does"),
        (("min = 1",), "There is no key `min` in [[models]]."),
    ],
)
def test_replicas_that_cannot_be_are_refused_with_what_to_write(
    tmp_path: Path, lines: tuple[str, ...], said: str
) -> None:
    assert said in refused(tmp_path, *lines)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("90s", 90.0),
        ("30m", 1800.0),
        ("1.5h", 5400.0),
        ("2 d", 172_800.0),
        ("0", 0.0),
        ("30min", None),
        ("-1s", None),
        ("", None),
        ("h", None),
        ("1e3", None),
        ("9" * 5000, None),
    ],
)
def test_a_duration_is_a_number_or_a_text_with_a_unit(
    written: float | str, seconds: float | None
) -> None:
    assert seconds_of(written) == seconds


def test_a_model_sleeps_after_the_time_that_is_written_or_never(tmp_path: Path) -> None:
    assert not read(tmp_path).may_sleep
    assert read(tmp_path, "sleep_after = 0").idle_limit == float("inf")
    assert read(tmp_path, 'sleep_after = "30m"').idle_limit == 1800.0
    assert read(tmp_path, "sleep_after = 5").may_sleep
    assert read(tmp_path, 'swap_group = "a"').may_sleep
    assert not read(tmp_path, 'swap_group = "a"', "pinned = true").may_sleep


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (('sleep_after = "soon"',), "cannot be `soon`. Write seconds in digits, or a text such as"),
        (('sleep_after = "9999d"',), "longer than a year"),
        (("sleep_after = -1",), "`sleep_after` must be at least 0"),
        (("sleep_after = true",), "a number or text in quotes"),
        (("sleep_after = 1", "sleep_level = 3"), "`sleep_level` must be at most 2"),
        (("sleep_level = 1",), "Write `sleep_after` or `swap_group`, or remove it."),
        (
            ("sleep_after = 1", "sleep_level = 1", 'env = { VLLM_SERVER_DEV_MODE = "0" }'),
            "the server itself decides the variable `VLLM_SERVER_DEV_MODE`",
        ),
        (("pinned = true",), "is in no `swap_group`"),
        (('swap_group = "a"', "pinned = true", "sleep_after = 1"), "is pinned, and has a"),
    ],
)
def test_sleep_that_cannot_be_is_refused_with_what_to_write(
    tmp_path: Path, lines: tuple[str, ...], said: str
) -> None:
    assert said in refused(tmp_path, *lines)


def test_what_a_backend_cannot_do_is_refused(tmp_path: Path) -> None:
    lines = ("sleep_after = 1", "sleep_level = 1")
    assert "`llama_cpp` can only be stopped" in refused(tmp_path, *lines, model=LLAMA)
    assert "take no GPU" in refused(tmp_path, 'swap_group = "a"', model=LLAMA)
    assert read(tmp_path, "sleep_after = 1", model=LLAMA).may_sleep


def test_somebody_elses_engines_neither_sleep_nor_scale(tmp_path: Path) -> None:
    external = '[[models]]\nname = "m"\nbackend = "external"\nurls = ["http://127.0.0.1:1"]\n'
    for line in (
        "sleep_after = 1",
        "sleep_level = 1",
        "wake_queue = 1",
        "wake_timeout = 1",
        'swap_group = "a"',
        "pinned = true",
        "target_in_flight = 1",
    ):
        assert "has no meaning for the model `m`" in refused(tmp_path, line, model=external)
