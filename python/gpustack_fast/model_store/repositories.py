"""A model's settings → the repository that has its files, and that of each of its adapters."""

from __future__ import annotations

import re

from gpustack_fast.errors import UsageError
from gpustack_fast.model_store.documents import Hub, Model, Repository

__all__ = [
    "adapters_of",
    "is_commit",
    "local_adapters_of",
    "parse",
    "repositories_of",
    "repository_of",
]

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}(?:/{_PART})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_REFERENCE = re.compile(r"(huggingface|model_scope):([^:]+)(?::(.+))?")
_FIRST_REVISION: dict[Hub, str] = {"huggingface": "main", "model_scope": "master"}


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never changes its meaning."""
    return _COMMIT.fullmatch(revision) is not None


def repository_of(model: Model) -> Repository | None:
    """The repository of a model, or None where it comes from no hub. Raises UsageError."""
    if model.source == "huggingface":
        name, files = model.huggingface_repo_id, model.huggingface_filename
        return _repository("huggingface", name or "", files or "")
    if model.source == "model_scope":
        name, files = model.model_scope_model_id, model.model_scope_file_path
        return _repository("model_scope", name or "", files or "")
    return None


def adapters_of(model: Model) -> dict[str, Repository]:
    """The repositories of its adapters (LoRA), by their names. Raises UsageError."""
    found: dict[str, Repository] = {}
    for one in model.lora_list:
        if one.source == "huggingface":
            found[one.lora_name] = _repository("huggingface", one.repository or "", "")
        elif one.source == "model_scope":
            found[one.lora_name] = _repository("model_scope", one.repository or "", "")
    return found


def local_adapters_of(model: Model) -> dict[str, str]:
    """The paths of those adapters that are on this machine already, by their names."""
    return {
        one.lora_name: one.local_path
        for one in model.lora_list
        if one.source == "local_path" and one.local_path
    }


def repositories_of(model: Model) -> list[Repository]:
    """Every repository that a model needs. Raises UsageError."""
    own = repository_of(model)
    return [*([own] if own else []), *adapters_of(model).values()]


def parse(text: str) -> Repository | None:
    """Reads `huggingface:ORG/NAME[@REVISION][:FILE]`; None: it is something else.

    Raises UsageError for a name that no repository can have.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    hub: Hub = "huggingface" if found[1] == "huggingface" else "model_scope"
    return _repository(hub, found[2], found[3] or "")


def _repository(hub: Hub, text: str, files: str) -> Repository:
    name, _, revision = text.partition("@")
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or len(name) > 200:
        raise UsageError(
            f"`{name}` cannot be a repository at {hub}. Write it as the hub shows it, "
            "`ORGANISATION/NAME`."
        )
    revision = revision or _FIRST_REVISION[hub]
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(
            f"`{revision}` cannot be a revision of {name}. Write a branch, a tag or a commit."
        )
    return Repository(hub=hub, name=name, revision=revision, files=files)
