"""What an engine is started with, once its replica has a place, an environment and its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from gpustack_fast.backends import Shape
from gpustack_fast.sizing import ModelFacts

__all__ = ["Prepared"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """As `backends.Place`, without what the instance makes for itself."""

    python: Path
    version: str = ""
    files: Path | None = None
    adapters: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    facts: ModelFacts | None = None
    devices: tuple[str, ...] = ()
    shape: Shape = dataclasses.field(default_factory=Shape)
    share: float | None = None
    remark: str = ""
    """What is to be known of it as long as it runs, in sentences; empty: nothing."""
