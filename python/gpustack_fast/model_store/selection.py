"""A repository's files → those that an engine needs. Pure.

What is taken is listed, and nothing else comes: most repositories also hold pictures, other
formats of the same weights, and what training has left.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from gpustack_fast.model_store.documents import ModelStoreError, RemoteFile

__all__ = ["check_files", "choose", "is_weight", "model_file"]

_SMALL = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "*.py",
    "*.txt",
    "*.spm",
    "*.bpe",
    "*.yaml",
)
"""Configuration, tokenizers, chat templates, and code that an engine runs when it is told to."""
_OTHER_COPIES = re.compile(
    r"(?:^|/)(?:original|onnx|openvino|coreml|metal|flax|tf|runs|\.[^/]*|checkpoint-\d+)/"
)
"""Folders with the same weights in other formats, or with what training has left."""
_TRAINING = re.compile(
    r"(?:^|/)(?:training_args|optimizer|scheduler|rng_state[^/]*|trainer_state|requirements)\.[a-z]+$"
)
_SAFETENSORS = (".safetensors",)
_PICKLES = (".bin",)
_OLDER = (".pth", ".pt")
_ENGINES = (".engine", ".plan")
"""Of TensorRT, built for one kind of GPU."""
_GGUF = (".gguf",)
_WEIGHTS = (*_SAFETENSORS, *_PICKLES, *_OLDER, *_ENGINES, *_GGUF)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def is_weight(name: str) -> bool:
    """Whether a file may be large: one of those that hold weights."""
    return name.endswith(_WEIGHTS)


def check_files(repository: str, files: Iterable[RemoteFile]) -> None:
    """Raises ModelStoreError for a file that cannot be kept or verified as its hub describes it.

    Its name and its hash become names in the store, and must not lead out of it.
    """
    for file in files:
        parts = file.name.split("/")
        wrong = any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)
        if wrong or len(file.name) > 1024:
            raise ModelStoreError(
                f"The repository {repository} has a file of the name {file.name[:200]!r}, which "
                "cannot be kept on this machine. Use another repository."
            )
        known = file.sha256 == "" or _SHA256.fullmatch(file.sha256)
        if not known or not (file.git_sha1 == "" or _SHA1.fullmatch(file.git_sha1)):
            raise ModelStoreError(
                f"The hub says of the file {file.name[:200]!r} of {repository} a hash that is "
                "none, so that it could not be verified. Check whether what is asked "
                "(HF_ENDPOINT) is a hub; another mirror may do."
            )


def choose(repository: str, files: Sequence[RemoteFile], pattern: str) -> list[RemoteFile]:
    """The files that are wanted, in order of their names.

    `pattern`: file names as a shell writes them; empty: what a whole model needs. Raises
    ModelStoreError where that is nothing, or where it may mean several models.
    """
    ordered = sorted(files, key=lambda file: file.name)
    return _matching(repository, ordered, pattern) if pattern else _model(repository, ordered)


def model_file(chosen: Sequence[RemoteFile]) -> str:
    """The GGUF file that an engine is given, of a split one its first part; empty: none is."""
    weights = [
        file.name for file in chosen if is_weight(file.name) and not _is_projector(file.name)
    ]
    return weights[0] if weights and all(name.endswith(_GGUF) for name in weights) else ""


def _matching(repository: str, files: list[RemoteFile], pattern: str) -> list[RemoteFile]:
    found = [file for file in files if fnmatch.fnmatchcase(file.name, pattern)]
    if not found:
        # A pattern without folders means the file wherever it is.
        found = [file for file in files if fnmatch.fnmatchcase(_base(file.name), pattern)]
    if not found:
        raise ModelStoreError(
            f"No file of the repository {repository} fits `{pattern}`. "
            f"{_offer([file.name for file in files if is_weight(file.name)])}"
        )
    gguf = [file for file in found if file.name.endswith(_GGUF)]
    models = {_model_of(file.name) for file in gguf if not _is_projector(file.name)}
    if len(models) > 1:
        raise ModelStoreError(
            f"`{pattern}` fits several models of the repository {repository}. Write a pattern that "
            f"fits one of them. {_offer(sorted(models))}"
        )
    return _with_all_parts(repository, files, found, models)


def _with_all_parts(
    repository: str, files: list[RemoteFile], found: list[RemoteFile], models: set[str]
) -> list[RemoteFile]:
    """A pattern may name one part of a split file alone; an engine needs them all."""
    names = {file.name for file in found}
    whole = [file for file in files if file.name in names or _model_of(file.name) in models]
    for name in (file.name for file in whole):
        part = _PART.search(name)
        if part is None:
            continue
        count = sum(1 for file in whole if _model_of(file.name) == _model_of(name))
        if count != int(part[2]):
            raise ModelStoreError(
                f"The repository {repository} has {count} of the {int(part[2])} parts of "
                f"`{_model_of(name)}`. Use another repository, or another file of it."
            )
    return whole


def _model(repository: str, files: list[RemoteFile]) -> list[RemoteFile]:
    kept = [
        file
        for file in files
        if not _OTHER_COPIES.search(file.name) and not _TRAINING.search(file.name)
    ]
    chosen = [file for file in kept if any(fnmatch.fnmatchcase(file.name, one) for one in _SMALL)]
    by_folder: dict[str, list[RemoteFile]] = {}
    for file in kept:
        by_folder.setdefault(str(PurePosixPath(file.name).parent), []).append(file)
    weights = [file for one in by_folder.values() for file in _weights(one)]
    if weights:
        return sorted([*chosen, *weights], key=lambda file: file.name)
    models = sorted({_model_of(file.name) for file in kept if file.name.endswith(_GGUF)})
    models = [name for name in models if not _is_projector(name)]
    if len(models) == 1:
        return [*chosen, *(file for file in kept if _model_of(file.name) == models[0])]
    if models:
        raise ModelStoreError(
            f"The repository {repository} has several GGUF files. Say which one with "
            f"`huggingface_filename`, or `model_scope_file_path`. {_offer(models)}"
        )
    raise ModelStoreError(
        f"The repository {repository} has no weights in a format that an engine here loads "
        "(safetensors, PyTorch's or GGUF). Use another repository."
    )


def _weights(files: list[RemoteFile]) -> list[RemoteFile]:
    """Of the files of one folder the weights, in one format alone: the best that there is."""
    engines = [file for file in files if file.name.endswith(_ENGINES)]
    if engines:
        return engines
    for endings in (_SAFETENSORS, _PICKLES, _OLDER):
        found = [file for file in files if file.name.endswith(endings)]
        # Mistral's repositories have their weights twice, once with names of its own.
        usual = [file for file in found if not _base(file.name).startswith("consolidated")]
        if found:
            return usual or found
    return []


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _model_of(name: str) -> str:
    """What all parts of a split GGUF file have in common; of any other file its name."""
    return _PART.sub(".gguf", name)


def _is_projector(name: str) -> bool:
    """Whether it is the part of a multimodal model that sees, which comes beside the model."""
    return _base(name).startswith("mmproj")


def _offer(names: Sequence[str]) -> str:
    if not names:
        return "It has no weights at all."
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"There are: {', '.join(f'`{name}`' for name in names[:12])}{more}."
