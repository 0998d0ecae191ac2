"""The facts of a model from whatever of its files is there."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpustack_fast.errors import printable
from gpustack_fast.sizing import gguf, safetensors
from gpustack_fast.sizing.bounds import MOST
from gpustack_fast.sizing.config_json import Weights, facts_of_config, read_json
from gpustack_fast.sizing.documents import ModelFacts
from gpustack_fast.sizing.errors import FactsError
from gpustack_fast.sizing.gguf_facts import facts_of_gguf

__all__ = ["gguf_file", "missing_weights", "read_facts"]

_MOST_FILES = 20_000
_MOST_HEADS = 256 * 1024 * 1024
"""Bytes of the heads of all files of one model."""
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_BESIDE = ("mmproj", "imatrix")
"""GGUF files whose names begin so go with a model, and are none."""


def read_facts(
    path: Path, filename: str = "", sizes: Mapping[str, int] | None = None
) -> ModelFacts:
    """The facts of a model in a folder, or of a GGUF file.

    `filename`: which GGUF file of the folder, by its name or a pattern as `*Q4_K_M*`. `sizes`:
    bytes of files that are not there, or not whole, by their paths in the folder; a GGUF file
    needs its head here all the same. Raises FactsError.
    """
    folder = _Folder(path, sizes or {})
    if folder.alone is not None:
        return _gguf(folder, folder.alone)
    if filename or folder.holds_gguf_alone():
        return _gguf(folder, _choose(folder, filename))
    if folder.has("config.json"):
        return facts_of_config(
            read_json(path / "config.json"),
            printable(str(path / "config.json")),
            _weights(folder),
            embeds=folder.has("modules.json"),
        )
    if folder.has("model_index.json"):
        return _pipeline(folder)
    raise _nothing(folder)


def gguf_file(path: Path, filename: str = "") -> Path:
    """The GGUF file of a folder that is the model, by the same rules: of one in parts the first,
    which leads to the others. Raises FactsError.
    """
    return path / _choose(_Folder(path, {}), filename)


def missing_weights(path: Path) -> str | None:
    """A file of weights that the index in a folder names, and that is not there; None: all are, or
    there is no index. Raises FactsError.
    """
    folder = _Folder(path, {})
    names, _ = _listed(folder) or ([], 0)
    return next((name for name in names if not folder.has(name)), None)


class _Folder:
    """What is there, and what is known to come. Names are paths below the folder."""

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        self.path = path
        self.where = printable(str(path))
        self.coming = sizes
        self.alone: str | None = None
        if os.path.isfile(path):  # which is false, too, where the system refuses to look
            if path.suffix != ".gguf":
                raise FactsError(
                    f"{self.where} is a file, but no GGUF file. Name a GGUF file, or the folder "
                    "that holds the model's config.json."
                )
            self.path, self.alone = path.parent, path.name
            self.here = {one.name for one in self.path.glob("*.gguf")}
        elif os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK):
            self.here = set(_files(path))
        else:
            raise FactsError(
                f"{self.where} does not exist, or may not be read. Check the path of the model, "
                "and whether the user that runs gpustack-fast may read it."
            )

    def has(self, name: str) -> bool:
        """Whether it is here, to be read."""
        return name in self.here

    def knows(self, name: str) -> bool:
        """Whether its size is known."""
        return name in self.here or name in self.coming

    def names(self, suffix: str) -> list[str]:
        """Of what is here or comes, sorted."""
        return sorted(name for name in self.here | set(self.coming) if name.endswith(suffix))

    def size(self, name: str) -> int:
        """Bytes of a file when it is whole. Raises FactsError when neither is known."""
        coming = self.coming.get(name)
        try:
            found = (self.path / name).stat().st_size if name in self.here else None
        except OSError:  # it went away
            found = None
        if coming is None and found is None:
            raise FactsError(
                f"{printable(str(self.path / name))} is missing. The model may have been fetched "
                "in part: fetch it again."
            )
        return max(coming or 0, found or 0)

    def check_heads(self, read: int) -> None:
        """Ends a reading that would not end. `read`: bytes of heads so far. Raises FactsError."""
        if read > _MOST_HEADS:
            raise FactsError(
                f"The heads of the files in {self.where} are larger than those of any model. Fetch "
                "the model again, from where its author published it."
            )

    def holds_gguf_alone(self) -> bool:
        """Whether there are GGUF files and nothing else that a model could be."""
        others = any(self.has(name) for name in ("config.json", "model_index.json"))
        weights = self.names(".safetensors") or self.names(".bin")
        return bool(self.names(".gguf")) and not (others and weights)


def _files(path: Path) -> list[str]:
    """All below a folder but hidden ones."""
    found: list[str] = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        found += (os.path.relpath(os.path.join(folder, name), path) for name in files)
        if len(found) > _MOST_FILES:
            raise FactsError(
                f"{printable(str(path))} holds more files than any model has. Name the folder of "
                "one model."
            )
    return found


def _nothing(folder: _Folder) -> FactsError:
    if folder.has("adapter_config.json"):
        return FactsError(
            f"{folder.where} holds an adapter (LoRA) and no model. Name the model that it belongs "
            "to, and the adapter in lora_list."
        )
    if folder.has("params.json"):
        return FactsError(
            f"{folder.where} has no config.json, but Mistral's own params.json. Fetch the version "
            "of the model that has a config.json, or say in its settings how much memory it takes."
        )
    return FactsError(
        f"{folder.where} has no config.json and no GGUF file, so nothing says what model it is. "
        "The model may have been fetched in part, or its repository is gated and asks for a token "
        "(HF_TOKEN): fetch it again, or name the folder that holds its files."
    )


# ---- safetensors


def _weights(folder: _Folder) -> Weights | None:
    """What the files of the weights tell; None: there are none."""
    listed = _listed(folder)
    if listed is not None:
        names, total = listed
    else:
        names, total = _loose(folder, ".safetensors"), 0
    if names and all(folder.has(name) for name in names):
        return _from_heads(folder, names)
    if total and not all(folder.knows(name) for name in names):
        return Weights(
            bytes=total,
            assumptions=("The size of its weights is what their index says.",),
        )
    if not names and (names := _loose(folder, ".bin")):
        return Weights(
            bytes=sum(folder.size(name) for name in names),
            assumptions=("Its weights are PyTorch's files, of which the sizes alone are known.",),
        )
    if not names:
        return None
    return Weights(
        bytes=sum(folder.size(name) for name in names),
        assumptions=("The size of its weights is that of their files.",),
    )


def _listed(folder: _Folder) -> tuple[list[str], int] | None:
    """The files that an index names, and the bytes that it says they come to (0: it does not)."""
    name = "model.safetensors.index.json"
    if not folder.has(name):
        others = [
            one
            for one in folder.names(".safetensors.index.json")
            if folder.has(one) and "/" not in one and not one.startswith("consolidated")
        ]
        if not others:
            return None
        name = others[0]
    where = folder.path / name
    content = read_json(where)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FactsError(
            f"{printable(str(where))} names no files of weights (weight_map). Fetch it again."
        )
    files = sorted({one for one in places.values() if isinstance(one, str)})
    if len(files) > _MOST_FILES or any("/" in one or one.startswith(".") for one in files):
        raise FactsError(
            f"{printable(str(where))} names files that lie elsewhere than beside it. Fetch the "
            "model again, from where its author published it."
        )
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    return files, total if type(total) is int and 0 < total <= MOST else 0


def _loose(folder: _Folder, suffix: str) -> list[str]:
    """Files of weights that no index names, as vLLM takes them."""
    names = [name for name in folder.names(suffix) if "/" not in name]
    if suffix == ".bin":
        return [name for name in names if name.startswith("pytorch_model")]
    names = [name for name in names if not name.startswith("adapter_model")]
    return [name for name in names if not name.startswith("consolidated")] or names


def _from_heads(folder: _Folder, names: Sequence[str]) -> Weights:
    total, parameters, read = 0, 0, 0
    values: Counter[str] = Counter()
    for name in names:
        head = safetensors.read_head(folder.path / name)
        if head.here < head.size and folder.coming.get(name, 0) < head.size:
            raise FactsError(
                f"{printable(str(folder.path / name))} was fetched in part: {head.here:,} of "
                f"{head.size:,} bytes are there. Fetch the model again."
            )
        read += head.begin
        folder.check_heads(read)
        total += head.bytes
        parameters += head.parameters
        values.update(head.values)
    common = values.most_common(1)
    return Weights(bytes=total, parameters=parameters, dtype=common[0][0] if common else "")


# ---- GGUF


def _choose(folder: _Folder, filename: str) -> str:
    """The file that is meant; of several parts the first."""
    names = [
        name
        for name in folder.names(".gguf")
        if not name.rsplit("/", 1)[-1].lower().startswith(_BESIDE)
    ]
    if filename in names:
        names = [filename]
    elif filename:
        names = [
            name
            for name in names
            if fnmatch.fnmatchcase(name, filename)
            or fnmatch.fnmatchcase(name.rsplit("/", 1)[-1], filename)
        ]
    firsts = [name for name in names if (part := _PART.search(name)) is None or int(part[1]) == 1]
    if len(firsts) == 1:
        return firsts[0]
    if not firsts:
        raise FactsError(
            f"No GGUF file in {folder.where} is named {printable(filename)}. Compare the name with "
            "those of the files there."
            if filename
            else f"{folder.where} has no GGUF file that begins a model. Choose a repository with "
            "one; of a file in parts fetch the first part, too."
        )
    some = ", ".join(printable(name) for name in firsts[:8])
    raise FactsError(
        f"{folder.where} has several GGUF models ({some}{', ...' if len(firsts) > 8 else ''}). "
        "Say which one by its file name (huggingface_filename or model_scope_file_path)."
    )


def _gguf(folder: _Folder, first: str) -> ModelFacts:
    names = _parts(first)
    if not folder.has(first):
        raise FactsError(
            f"{printable(str(folder.path / first))} is not there yet, and a GGUF file alone says "
            "what model it holds. Fetch its beginning, or the whole."
        )
    total, parameters, read, whole = 0, 0, 0, True
    head = gguf.read_head(folder.path / first)
    for name in names:
        size = folder.size(name)
        if not folder.has(name):
            total, whole = total + size, False
            continue
        one = head if name == first else gguf.read_head(folder.path / name)
        read += one.begin
        folder.check_heads(read)
        if size < one.end:
            raise FactsError(
                f"{printable(str(folder.path / name))} was fetched in part: {size:,} bytes are "
                f"there, and it has at least {one.end:,}. Fetch the model again."
            )
        total += size - one.begin if one.parameters else 0
        parameters += one.parameters
    where = printable(str(folder.path / first))
    return facts_of_gguf(head, total, parameters if whole else 0, where)


def _parts(first: str) -> list[str]:
    """All parts of a file, itself among them."""
    found = _PART.search(first)
    if found is None:
        return [first]
    count = int(found[2])
    if not count:
        raise FactsError(
            f"{printable(first)} calls itself a part of none. Name the file as its author did, or "
            "fetch it again."
        )
    if int(found[1]) != 1:
        raise FactsError(
            f"{printable(first)} is not the first part of its model. Name the part "
            f"{printable(first[: found.start()])}-00001-of-{found[2]}.gguf."
        )
    stem = first[: found.start()]
    return [f"{stem}-{number:05}-of-{found[2]}.gguf" for number in range(1, min(count, 9999) + 1)]


# ---- diffusers


def _pipeline(folder: _Folder) -> ModelFacts:
    """A pipeline of several models, as for images: their files' sizes are all that is known."""
    content = read_json(folder.path / "model_index.json")
    names = [name for name in folder.names(".safetensors") if "/" in name]
    kind = content.get("_class_name")
    return ModelFacts(
        architecture=kind[:200] if isinstance(kind, str) else "DiffusionPipeline",
        format="safetensors",
        generates=False,
        weight_bytes=sum(folder.size(name) for name in names),
        parameters=0,
        dtype_bytes=2.0,
        layers=0,
        heads=0,
        kv_heads=0,
        vocabulary=0,
        hidden=0,
        context=0,
        kv_bytes_per_token=0.0,
        multimodal=True,
        assumptions=[
            "It is a pipeline of several models, of which all weights are taken to be loaded."
        ],
    )
