"""What is told of a certificate that clients refuse, or soon will."""

from __future__ import annotations

import pytest

from gpustack_fast.config.certificate import validity_warning

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


def test_of_another_certificate_and_of_none_nothing_is_said() -> None:
    assert validity_warning(int(NOW), int(NOW) + 14 * DAY + 1, NOW) is None
    assert validity_warning(None, None, NOW) is None
