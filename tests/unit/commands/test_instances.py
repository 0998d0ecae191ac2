"""`status`: what it warns of."""

from __future__ import annotations

import pytest

from gpustack_fast.config.certificate import expiry_warning

NOW = 1_800_000_000.5
DAY = 24 * 3600


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (-1, "has expired, and clients refuse it"),
        (0, "has expired"),
        (3600, "expires in less than a day."),
        (DAY + 1, "expires in one day."),
        (14 * DAY, "expires in 13 days. Renew its files"),
    ],
)
def test_a_certificate_that_ends_within_14_days_is_warned_of(left: int, words: str) -> None:
    warning = expiry_warning(int(NOW) + left, NOW)
    assert warning is not None and words in warning


def test_of_another_certificate_and_of_none_nothing_is_said() -> None:
    assert expiry_warning(int(NOW) + 14 * DAY + 1, NOW) is None
    assert expiry_warning(None, NOW) is None
