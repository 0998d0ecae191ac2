"""What a person should know of the time in which a certificate is good."""

from __future__ import annotations

import base64
import binascii
import datetime
import re

__all__ = ["expiry_warning", "validity", "validity_warning"]

_DAY = 24 * 3600
_RENEW_WITHIN = 14 * _DAY
"""Seconds before its end in which a certificate is warned of."""
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_TIME = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
_VALIDITY = re.compile(rb"\x30[\x1e\x20\x22]" + _TIME + _TIME)
"""RFC 5280, 4.1.2.5: two times in DER, of which each says its form. The first such pair is it: only
the number and the issuer's name stand before it.
"""


def validity(pem: bytes) -> tuple[int, int] | None:
    """The begin and the end of the first certificate in a PEM file, in Unix seconds.

    None where they cannot be read: whether it is right in all else is for others to say.
    """
    block = _BLOCK.search(pem)
    try:
        found = _VALIDITY.search(base64.b64decode(block[1])) if block else None
        return found and (_seconds(found[1], found[2]), _seconds(found[3], found[4]))
    except (binascii.Error, ValueError):
        return None


def _seconds(short: bytes | None, long: bytes | None) -> int:
    digits = (long or short or b"").decode("ascii")
    if long is None:
        digits = ("20" if digits < "50" else "19") + digits
    time = datetime.datetime.strptime(f"{digits}+0000", "%Y%m%d%H%M%S%z")
    return int(time.timestamp())


def validity_warning(pem: bytes | None, now: float) -> str | None:
    """What is to be said of a certificate that clients refuse, or soon will; None: there is none.

    `now`: Unix seconds.
    """
    times = None if pem is None else validity(pem)
    if times is None:
        return None
    begins, ends = times
    if begins > now:
        begin = datetime.datetime.fromtimestamp(begins).astimezone()
        return (
            f"The certificate is not valid before {begin.isoformat(sep=' ', timespec='seconds')}, "
            "and clients refuse it. Take the former one until then, or set this machine's clock."
        )
    return expiry_warning(ends, now)


def expiry_warning(ends: int | None, now: float) -> str | None:
    """What is to be said of a certificate that ends at a Unix second, or has ended."""
    if ends is None or ends - now >= _RENEW_WITHIN:
        return None
    if ends <= now:
        when = "The certificate has expired, and clients refuse it."
    else:
        days = int((ends - now) // _DAY)
        left = f"{days} days" if days > 1 else "one day" if days else "less than a day"
        when = f"The certificate expires in {left}."
    return f"{when} Renew its files; the server takes them up within a minute, or with SIGHUP."
