"""What a person should know of the time in which a certificate is good.

The data plane reads that time, and tells it with its counters.
"""

from __future__ import annotations

from gpustack_fast.machine import local_time

__all__ = ["validity_warning"]

_DAY = 24 * 3600
_RENEW_WITHIN = 14 * _DAY
"""Seconds before its end in which a certificate is warned of."""


def validity_warning(begins: int | None, ends: int | None, now: float) -> str | None:
    """What is to be said of a certificate that clients refuse, or soon will; None: nothing.

    All are Unix seconds. None: there is no certificate, or its time cannot be read.
    """
    if begins is not None and begins > now:
        return (
            f"The certificate is not valid before {local_time(begins)}, and clients refuse it. "
            "Take the former one until then, or set this machine's clock."
        )
    if ends is None or ends - now >= _RENEW_WITHIN:
        return None
    if ends <= now:
        when = "The certificate has expired, and clients refuse it."
    else:
        days = int((ends - now) // _DAY)
        left = f"{days} days" if days > 1 else "one day" if days else "less than a day"
        when = f"The certificate expires in {left}."
    return f"{when} Renew its files; the server takes them up within a minute, or with SIGHUP."
