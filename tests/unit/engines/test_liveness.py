"""Dead, hung, busy and wrong are different things."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from gpustack_fast.backends import Progress
from gpustack_fast.engines.liveness import FALL, Watch, Workers, total

PROGRESS = Progress(path="/metrics", running="running", tokens=("made", "read"))
PATIENCE = 60.0


class Look(NamedTuple):
    """What one look finds, `at` so many seconds."""

    at: float
    status: int | None = 200
    running: int = 0
    made: int = 0
    in_flight: int = 0

    def metrics(self) -> str | None:
        if self.status is None:
            return None
        return f'# HELP x\nrunning{{e="0"}} {self.running}\nmade{{e="0"}} {self.made}\nread 7\n'


def reasons(*looks: Look, patience: float = PATIENCE) -> list[str | None]:
    watch = Watch(PROGRESS, patience, 0.0)
    return [watch.look(look.status, look.metrics(), look.in_flight, look.at) for look in looks]


def test_an_idle_engine_is_left_alone_for_ever() -> None:
    assert not any(reasons(*(Look(at=second) for second in range(0, 1000, 5))))


def test_an_engine_with_requests_and_no_step_is_hung_after_its_time_and_not_before() -> None:
    found = reasons(*(Look(at=second, running=2, made=5) for second in (5, 30, 64, 65, 70)))
    assert found[:3] == [None, None, None]
    assert found[3] is not None and "not made a step for 60 s" in found[3]


def test_requests_of_ours_count_where_the_engines_own_count_stands_still() -> None:
    found = reasons(*(Look(at=second, in_flight=1, made=5) for second in (5, 64, 65)))
    assert found[:2] == [None, None]
    assert found[2] is not None


def test_a_request_that_has_just_come_has_the_whole_time() -> None:
    idle, busy = Look(at=0, made=5), Look(at=PATIENCE + 1, running=1, made=5)
    later = busy._replace(at=2 * PATIENCE)
    found = reasons(idle, busy, later, later._replace(at=2 * PATIENCE + 1))
    assert found[:3] == [None, None, None]
    assert found[3] is not None


def test_each_step_begins_the_time_anew() -> None:
    looks = [Look(at=second, running=1, made=second) for second in range(0, 600, 50)]
    assert not any(reasons(*looks))


def test_requests_that_ended_begin_the_time_anew() -> None:
    looks = [Look(at=50.0 * n, running=n % 2, made=3) for n in range(20)]
    assert not any(reasons(*looks))


def test_an_engine_that_gives_no_answer_is_hung_after_its_time() -> None:
    found = reasons(Look(at=5), *(Look(at=second, status=None) for second in (30, 64, 65)))
    assert found[:3] == [None, None, None]
    assert found[3] is not None and "not answered for 60 s" in found[3]


def test_a_late_answer_is_no_hang() -> None:
    looks = [Look(at=55.0 * n, status=None if n % 2 else 200) for n in range(20)]
    assert not any(reasons(*looks))


def test_without_a_time_nothing_is_a_hang() -> None:
    looks = [Look(at=1000.0 * n, status=None if n % 2 else 200, running=1) for n in range(20)]
    assert not any(reasons(*looks, patience=0.0))


def test_an_engine_that_says_it_cannot_go_on_is_lost_after_some_answers_of_that_kind() -> None:
    found = reasons(*(Look(at=second, status=503) for second in range(FALL)))
    assert found[:-1] == [None] * (FALL - 1)
    assert found[-1] is not None and "503" in found[-1]
    assert not any(reasons(*(Look(at=n, status=503 if n % 2 else 200) for n in range(20))))


@pytest.mark.parametrize("status", [404, 401, 429])
def test_any_other_status_is_an_answer(status: int) -> None:
    assert not any(reasons(*(Look(at=second, status=status) for second in range(0, 300, 5))))


def test_metrics_that_cannot_be_read_say_nothing() -> None:
    watch = Watch(PROGRESS, PATIENCE, 0.0)
    assert not any(watch.look(200, None, 1, second) for second in range(0, 600, 5))
    assert not any(watch.look(200, "running 1\n", 1, second) for second in range(600, 660, 5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('made{model="a}b {c",engine="0"} 3\nmade{engine="1"} 4.5 1700000000\n', 7.5),
        ("made 3e2\n", 300.0),
        ("# made 3\nmade_total 4\n", None),
        ("made\nmade{}\nmade{} x\n", None),
        ("", None),
    ],
)
def test_samples_are_summed(text: str, expected: float | None) -> None:
    assert total(text, ["made"]) == expected


def test_a_worker_that_is_gone_is_a_loss_and_one_that_nobody_sees_is_none() -> None:
    workers = Workers()
    both, other = {(7, 100), (8, 101)}, {(7, 100), (8, 555)}
    assert [workers.look(one) for one in (set(), both, None, both)] == [None] * 4
    reason = workers.look(other)
    assert reason is not None and "process 8" in reason, "the number is another process's now"


def test_an_engine_that_uses_a_processor_is_busy_though_no_counter_moves() -> None:
    watch = Watch(PROGRESS, PATIENCE, 0.0)
    metrics = Look(at=0, running=1, made=5).metrics()

    def look(at: float, used: float | None) -> str | None:
        return watch.look(200, metrics, 1, at, used)

    assert not any(look(second, second * 0.5) for second in range(0, 600, 5)), "it computes"
    assert not any(look(second, 300.0) for second in range(600, 650, 5)), "it has stopped"
    found = look(660, 300.02)
    assert found is not None and "not made a step" in found


def test_an_engine_that_gives_no_answer_is_hung_though_it_uses_a_processor() -> None:
    watch = Watch(PROGRESS, PATIENCE, 0.0)
    found = [watch.look(None, None, 1, second, float(second)) for second in (5, 55, 60)]
    assert found[:2] == [None, None]
    assert found[2] is not None and "not answered" in found[2]
