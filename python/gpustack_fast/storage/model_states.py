"""What lasts of our models over restarts: their generations, which of them sleep, and which
instances are drained.

A model's *generation* is 1 at first, and raised by each edit that makes other engines of it; its
*observed generation* is the last one that was carried out as a whole. What an engine is made of is
known by a digest alone. A model that is gone keeps its numbers for when it comes back.

    DIR/models.json   0600
    {"version": 1, "models": [{"name": "smollm2", "generation": 1, "observed_generation": 1,
     "spec": "6dc5..."}], "drained": ["smollm2-x7k2p"], "asleep": []}
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from gpustack_fast.storage import durable
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["KnownModel", "ModelStates"]

_VERSION = 1


class KnownModel(Struct, frozen=True, kw_only=True):
    """The lasting facts of a model of ours."""

    name: str
    generation: Annotated[int, Meta(ge=1)]
    observed_generation: Annotated[int, Meta(ge=0)]
    """0: none was carried out as a whole yet."""
    spec: str
    """The digest of what its engines are made of in this generation."""


class _Document(Struct, frozen=True, kw_only=True):
    """The file."""

    version: int = _VERSION
    models: list[KnownModel] = []
    drained: list[str] = []
    asleep: list[str] = []


class ModelStates:
    """The states, as they are and as they are on the disk. May be used from several threads."""

    def __init__(self, directory: DataDirectory) -> None:
        """Reads them. Needs the directory's lock. Raises StoreError, as `durable.read`."""
        assert directory.held, "the states belong to the holder of the data directory's lock"
        self._file = directory.models_file
        found = durable.read(self._file, _Document, _VERSION, "The states of the models")
        document = found or _Document()
        self._models = {one.name: one for one in document.models}
        self._drained = set(document.drained)
        self._asleep = set(document.asleep)
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def raised(self, specs: Mapping[str, str]) -> dict[str, int]:
        """The generations of models with these specs, by name: one more where that is another.

        What is raised is on the disk when this returns, and waits for it. Raises StoreError:
        nothing is raised then.
        """
        with self._writing:
            with self._lock:
                before = dict(self._models)
                for name, spec in specs.items():
                    self._models[name] = _following(before.get(name), name, spec)
                generations = {name: self._models[name].generation for name in specs}
                changed = self._models != before
            if changed:
                try:
                    self._write()
                except BaseException:
                    with self._lock:
                        self._models = before
                    raise
        return generations

    def observed(self, name: str) -> int:
        """The last generation of a model that was carried out as a whole; 0: none."""
        found = self._models.get(name)
        return 0 if found is None else found.observed_generation

    def observe(self, name: str, generation: int) -> bool:
        """Notes that a generation is carried out; `save` writes it. False: that is known."""
        with self._lock:
            found = self._models.get(name)
            if found is None or found.observed_generation == generation:
                return False
            self._models[name] = replace(found, observed_generation=generation)
        return True

    @property
    def drained(self) -> frozenset[str]:
        """The ids of the instances of ours that their operator has drained."""
        return frozenset(self._drained)

    def drain(self, instances: Iterable[str]) -> bool:
        """Notes which are drained, in place of those that were; `save` writes it. False: these."""
        found = set(instances)
        with self._lock:
            changed = found != self._drained
            self._drained = found
        return changed

    @property
    def asleep(self) -> frozenset[str]:
        """The models that sleep."""
        return frozenset(self._asleep)

    def rest(self, models: Iterable[str]) -> bool:
        """Notes which sleep, in place of those that did; `save` writes it. False: these."""
        found = set(models)
        with self._lock:
            changed = found != self._asleep
            self._asleep = found
        return changed

    def save(self) -> None:
        """Writes what has changed, and waits for the disk. Raises StoreError."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        with self._lock:
            document = _Document(
                models=list(self._models.values()),
                drained=sorted(self._drained),
                asleep=sorted(self._asleep),
            )
        durable.write(self._file, document)


def _following(before: KnownModel | None, name: str, spec: str) -> KnownModel:
    if before is None:
        return KnownModel(name=name, generation=1, observed_generation=0, spec=spec)
    if before.spec == spec:
        return before
    return replace(before, generation=before.generation + 1, spec=spec)
