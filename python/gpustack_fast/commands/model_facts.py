"""The facts of the models that are on this machine. Nothing is fetched."""

from __future__ import annotations

import shlex
from pathlib import Path

from gpustack_fast.config import ModelConfig
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.model_store.documents import Inspected
from gpustack_fast.model_store.layout import Folder
from gpustack_fast.model_store.repositories import repository_of
from gpustack_fast.sizing import ModelFacts, read_facts

__all__ = ["FactsNotHere", "LocalFacts"]


class FactsNotHere(GpustackFastError):
    """Nothing on this machine says what a model is made of. The text says how to get it."""


class LocalFacts:
    """Finds what is here of a model, and reads its facts."""

    def __init__(self, models: Path, typed: str) -> None:
        """`models`: the folder of the model store. `typed`: the flags that led there."""
        self._models = models
        self._typed = typed

    def __call__(self, model: ModelConfig) -> ModelFacts:
        """Raises FactsNotHere, FactsError, ModelStoreError."""
        if model.source == "local_path" and model.local_path is not None:
            return read_facts(Path(model.local_path))
        found = self._in_store(model)
        return read_facts(found.folder, found.filename, found.sizes)

    def _in_store(self, model: ModelConfig) -> Inspected:
        repository = repository_of(model)
        if repository is None:
            raise FactsNotHere(
                "Its files come with its engine, and are looked at only when that starts. Name "
                'them, with `source = "local_path"` and `local_path`, to have it planned.'
            )
        try:
            found = Folder(self._models / repository.hub, repository.folder).inspected(repository)
        except OSError as error:
            raise FactsNotHere(
                f"The model store {self._models} cannot be read: {error.strerror}. Check its "
                "rights, or name another one with `models_dir`."
            ) from error
        if found is None:
            raise FactsNotHere(
                f"Nothing is known here of {repository.name}, and a plan downloads nothing. Fetch "
                f"it with `gpustack-fast models pull {shlex.quote(model.name)}{self._typed}`, then "
                "plan again."
            )
        return found
