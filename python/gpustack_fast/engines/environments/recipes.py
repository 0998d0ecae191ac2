"""What can be built: `backends/locks/NAME.toml` for each backend, and the files that it names.

A recipe is data, so that another engine, version or variant needs no code. A lock is a file of
requirements of which each has a version and hashes; a variant without one, and a version other than
the variant's own, are resolved when somebody asks for them (`resolving`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from gpustack_fast.engines.environments.documents import BuildError

__all__ = ["Needs", "Pin", "Recipe", "Variant", "has_driver", "known", "read"]

LOCKS = Path(__file__).parents[2] / "backends" / "locks"
DRIVER = Path("/proc/driver/nvidia/version")
"""It is there as long as the NVIDIA driver is loaded."""


class Needs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine has to have for a variant."""

    driver: str | None = None
    """The oldest NVIDIA driver that will do; None: it needs none."""
    glibc: str | None = None
    """The oldest that its wheels run on."""
    python: tuple[str, ...] = ()
    """The only versions of Python that it has wheels for, the preferred one first; empty: ours."""
    mpi: bool = False
    cuda_toolkit: bool = False


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to build an engine."""

    package: str
    """The package whose version is the engine's."""
    version: str
    """The one that is installed where nobody asks for another."""
    requirements: str
    """A file of requirements in this folder; `package` has its version there."""
    overrides: str | None = None
    """A file of requirements that replace those of packages."""
    lock: str | None = None
    dependencies: bool = True
    """Whether what the packages ask for is installed with them."""
    indexes: tuple[str, ...] = ()
    """Public indexes beside the configured one."""
    download: int
    """Bytes."""
    size: int
    """Bytes on the disk."""
    needs: Needs = Needs()
    files: dict[str, str] = {}
    """Files to write among the packages, by their paths there; `{version}` is the version."""
    note: str = ""
    """What a person should know before it is built."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is known of a backend's environments."""

    packages: tuple[str, ...]
    """Those that tell the engine's version in an environment of somebody else's."""
    variants: dict[str, Variant] = {}
    """Empty: nothing is built, and an environment has to be there."""

    def default_variant(self) -> str | None:
        """The one for this machine: for its NVIDIA GPUs, where it has a driver for them."""
        wanted = "cuda" if has_driver() else "cpu"
        return wanted if wanted in self.variants else next(iter(self.variants), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pin:
    """What exactly is to be built."""

    backend: str
    variant: str
    version: str
    recipe: Variant
    lock: Path | None
    """None: it is still to be resolved."""

    def __str__(self) -> str:
        return f"{self.backend} {self.version} ({self.variant})"


def has_driver() -> bool:
    """Whether an NVIDIA driver is loaded."""
    return DRIVER.exists()


def known() -> list[str]:
    """The backends that have environments."""
    return sorted(path.stem for path in LOCKS.glob("*.toml"))


def read(backend: str) -> Recipe:
    """The recipe of a backend. Raises BuildError for one that has none, OSError."""
    if backend not in known():
        raise BuildError(
            f"There is no engine {backend!r} that can be installed. Those that can: "
            f"{', '.join(known())}."
        )
    return msgspec.toml.decode((LOCKS / f"{backend}.toml").read_bytes(), type=Recipe)
