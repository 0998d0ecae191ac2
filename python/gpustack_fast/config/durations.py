"""Durations that may be written with their unit, as in `30m`."""

from __future__ import annotations

import re

__all__ = ["seconds_of"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_WRITTEN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([smhd]?)", re.ASCII)


def seconds_of(written: float | str) -> float | None:
    """The seconds that are meant; None: the text is no duration."""
    if not isinstance(written, str):
        return written
    found = _WRITTEN.fullmatch(written)
    return None if found is None else float(found[1]) * _UNITS[found[2]]
