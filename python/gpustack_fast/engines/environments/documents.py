"""What the files of this folder hand around."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from gpustack_fast.errors import GpustackFastError

__all__ = ["BuildError", "Environment", "Report", "check_version", "gigabytes", "version_order"]

Report = Callable[[str], None]
"""Shows one line to the person who waits."""

_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9.]+)?")
"""Of a package, in the normal form of PEP 440; it becomes a part of paths and requirements."""


class BuildError(GpustackFastError):
    """An engine's environment cannot be had. The text has the cause and the next step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment that is there, whole."""

    python: Path
    """Its interpreter."""
    version: str
    """Of the engine in it."""
    variant: str
    """`cpu`, `cuda`: what it computes with."""


def check_version(version: str) -> None:
    """Raises BuildError for what is no version."""
    if not _VERSION.fullmatch(version):
        raise BuildError(
            f"{version!r} is no version of a package. Write it as its releases are named, such as "
            "0.33.0."
        )


def version_order(version: str) -> list[tuple[int, str]]:
    """Numbers as numbers: 0.10 is later than 0.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in version.split(".")]


def gigabytes(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
