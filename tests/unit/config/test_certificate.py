"""Until when a certificate is good, and what is told of one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import DAY, issue

from gpustack_fast.config.certificate import validity, validity_warning

NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("begins", "ends"), [(0, 631_152_000), (NOW, 2_524_607_999), (2_524_608_000, 253_402_300_799)]
)
def test_both_forms_of_a_time_are_read(tmp_path: Path, begins: int, ends: int) -> None:
    certificate, key = issue(tmp_path, begins=begins, ends=ends)
    assert validity(certificate.read_bytes()) == (begins, ends)
    chain = b"# the server's own\n" + certificate.read_bytes()
    certificate, _ = issue(tmp_path)
    assert validity(chain + certificate.read_bytes()) == (begins, ends), "the first one counts"
    assert validity(key.read_bytes()) is None


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAA\n", b"\xff" * 99])
def test_what_is_no_certificate_says_nothing(content: bytes) -> None:
    for whole in (content, content + b"-----END CERTIFICATE-----"):
        assert validity(whole) is None and validity_warning(whole, NOW) is None
    assert validity_warning(None, NOW) is None


@pytest.mark.parametrize(
    ("begins", "ends", "warning"),
    [
        (NOW + DAY, NOW + 90 * DAY, "The certificate is not valid before 2027-01-1"),
        (NOW - 90 * DAY, NOW - 1, "The certificate has expired, and clients refuse it."),
        (NOW - DAY, NOW + 3 * DAY, "The certificate expires in 3 days."),
        (NOW - DAY, NOW + 90 * DAY, None),
    ],
)
def test_a_certificate_that_clients_refuse_is_warned_of(
    tmp_path: Path, begins: int, ends: int, warning: str | None
) -> None:
    certificate, _ = issue(tmp_path, begins=begins, ends=ends)
    told = validity_warning(certificate.read_bytes(), NOW)
    assert told is None if warning is None else told is not None and told.startswith(warning)
