"""Where a model's files are, and what people call it."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path

from gpustack_fast.backends.base import BackendError, Model, Place

__all__ = ["files_of", "gguf_of", "names_of"]

_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.ASCII)


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
    chosen = model.huggingface_filename or model.model_scope_file_path
    found = sorted(
        file
        for file in folder.rglob("*.gguf")
        if not file.name.lower().startswith("mmproj")
        and _LATER_PART.search(file.name) is None
        and (chosen is None or _is_chosen(file, folder, chosen))
    )
    if not found:
        raise BackendError(
            f"The model {model.name} has no GGUF file in {folder}, or none of the name that "
            "was chosen. Choose a repository with one."
        )
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found[:5])
        raise BackendError(
            f"The model {model.name} has {len(found)} GGUF files: {names}. Name one with "
            "huggingface_filename or model_scope_file_path."
        )
    return found[0]


def _is_chosen(file: Path, folder: Path, chosen: str) -> bool:
    path = str(file.relative_to(folder))
    return fnmatch.fnmatchcase(path, chosen) or fnmatch.fnmatchcase(file.name, chosen)
