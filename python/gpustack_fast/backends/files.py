"""Where a model's files are, and what people call it."""

from __future__ import annotations

import os
from pathlib import Path

from gpustack_fast.backends.base import BackendError, Model, Place
from gpustack_fast.sizing import FactsError, gguf_file

__all__ = ["files_of", "gguf_of", "names_of"]


def names_of(model: Model) -> list[str]:
    """What people call what it loads."""
    local = Path(model.local_path).name if model.local_path else None
    named = (model.huggingface_repo_id, model.model_scope_model_id, local)
    return [name for name in named if name]


def files_of(model: Model, place: Place) -> str:
    """The folder or file to load. Raises BackendError."""
    found = place.files or (Path(model.local_path) if model.local_path else None)
    if found is None or not os.access(found, os.R_OK):
        raise BackendError(
            f"The files of the model {model.name} are not there, or this user may not read them"
            f"{'' if found is None else f': {found}'}. Check local_path, and the rights."
        )
    return str(found)


def gguf_of(model: Model, folder: Path) -> Path:
    """The GGUF file of a folder; of one in parts the first, which leads to the others.

    Raises BackendError.
    """
    try:
        return gguf_file(folder, model.huggingface_filename or model.model_scope_file_path or "")
    except FactsError as error:
        raise BackendError(f"The model {model.name} has no one file to load. {error}") from error
