"""What is told of a certificate that clients refuse, or soon will."""

from __future__ import annotations

import time

import pytest

from gpustack_fast.config.certificate import validity_warning
from gpustack_fast.machine import local_time

NOW = 1_800_000_000.5
DAY = 24 * 3600


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (-1, "has expired, and clients refuse it"),
        (0, "has expired"),
        (3600, "expires in less than a day."),
        (DAY + 1, "expires in one day."),
        (3 * DAY + 1, "expires in 3 days."),
        (14 * DAY, "expires in 13 days. Renew its files"),
    ],
)
def test_a_certificate_that_ends_within_14_days_is_warned_of(left: int, words: str) -> None:
    warning = validity_warning(0, int(NOW) + left, NOW)
    assert warning is not None and words in warning


@pytest.mark.parametrize("ends", [int(NOW) + 1, int(NOW) + 90 * DAY])
def test_of_a_certificate_that_is_not_valid_yet_nothing_else_is_said(ends: int) -> None:
    warning = validity_warning(int(NOW) + 1, ends, NOW)
    assert warning is not None and warning.startswith(
        "The certificate is not valid before 2027-01-1"
    )


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_the_last_second_that_a_certificate_can_name_has_words_in_every_zone(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    never = 253_402_300_799
    try:
        assert local_time(never).startswith("9999-12-31 ")
        warning = validity_warning(never, never, NOW)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert warning is not None and "is not valid before 9999-12-31 " in warning


def test_of_another_certificate_and_of_none_nothing_is_said() -> None:
    assert validity_warning(int(NOW), int(NOW) + 14 * DAY + 1, NOW) is None
    assert validity_warning(None, None, NOW) is None
