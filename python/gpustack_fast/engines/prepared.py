"""What an engine is started with, once its replica has a place, an environment and its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from gpustack_fast.backends import Place, Shape
from gpustack_fast.placement import Placement
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
    placement: Placement | None = None
    """What was claimed of these devices."""
    remark: str = ""
    """What is to be known of it as long as it runs, in sentences; empty: nothing."""

    def place(self, socket: Path, port: int | None, key: str) -> Place:
        """The place of an instance that has these for itself."""
        return Place(
            python=self.python,
            version=self.version,
            socket=socket,
            port=port,
            key=key,
            files=self.files,
            adapters=self.adapters,
            devices=self.devices,
            shape=Shape() if self.placement is None else self.placement.shape,
            share=None if self.placement is None else self.placement.share,
            facts=self.facts,
        )
