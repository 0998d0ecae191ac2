"""The folders of one repository: what is there, and what it lacks. Everything may wait for a disk.

Documents are replaced by a rename, so that a reader finds the old one or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.model_store.documents import (
    Inspected,
    Manifest,
    ModelStoreError,
    RemoteFile,
    Repository,
)
from gpustack_fast.model_store.repositories import is_commit
from gpustack_fast.model_store.selection import choose, is_weight, model_file

__all__ = ["HEAD_BYTES", "Folder", "folders", "head_on_its_way"]

T = TypeVar("T")

HEAD_BYTES = 24 * 1024 * 1024
"""Of a GGUF file, for its metadata: those of large vocabularies were seen to take 10 MB."""


class Folder:
    """The folder of a repository. Making the object touches nothing.

    The methods raise OSError where the disk cannot be read or written.
    """

    def __init__(self, hub: Path, name: str) -> None:
        """`hub`: the folder of all repositories of its hub. `name`: as `Repository.folder`."""
        self.path = hub / name
        self.lock = hub / f"{name}.lock"
        self.use = hub / f"{name}.use"
        self.partial = self.path / "partial"

    def files(self, commit: str) -> Path:
        """Where the whole files are."""
        return self.path / commit / "files"

    def heads(self, commit: str) -> Path:
        return self.path / commit / "heads"

    def commit(self, revision: str) -> str | None:
        """The commit that a revision stands for, as far as that was looked up."""
        return revision if is_commit(revision) else self.pins().get(revision)

    def pins(self) -> dict[str, str]:
        return _read(self.path / "pins.json", dict[str, str]) or {}

    def pin(self, revision: str, commit: str) -> None:
        """Lets a revision stand for a commit from now on."""
        if not is_commit(revision):
            _write(self.path / "pins.json", {**self.pins(), revision: commit})

    def manifest(self, commit: str) -> Manifest | None:
        return _read(self.path / commit / "manifest.json", Manifest)

    def keep(self, manifest: Manifest) -> None:
        """Keeps what a hub said of a commit."""
        (self.path / manifest.commit).mkdir(parents=True, exist_ok=True)
        _write(self.path / manifest.commit / "manifest.json", manifest)

    def wanted(self, commit: str) -> list[str]:
        """The patterns that were asked for."""
        return _read(self.path / commit / "wanted.json", list[str]) or []

    def want(self, commit: str, pattern: str) -> None:
        wanted = self.wanted(commit)
        if pattern not in wanted:
            _write(self.path / commit / "wanted.json", [*wanted, pattern])

    def commits(self) -> list[str]:
        """Those of which anything is known."""
        try:
            names = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if is_commit(name))

    def has(self, commit: str, file: RemoteFile) -> bool:
        """Whether a file is there: what is there was verified, and can only have been cut since."""
        return size_of(self.files(commit) / file.name) == file.size

    def missing(self, commit: str, chosen: list[RemoteFile]) -> list[RemoteFile]:
        return [file for file in chosen if not self.has(commit, file)]

    def is_complete(self, commit: str) -> bool:
        """Whether all is there that was ever asked for, and something was."""
        manifest, wanted = self.manifest(commit), self.wanted(commit)
        if manifest is None or not wanted:
            return False
        return all(not self.missing(commit, _choose(manifest, pattern)) for pattern in wanted)

    def whole(self, repository: Repository) -> Path | None:
        """What an engine is given, where nothing of it is missing: the folder, or a GGUF file."""
        found = self._chosen(repository)
        if found is None or self.missing(*found):
            return None
        commit, chosen = found
        return self.files(commit) / model_file(chosen)

    def inspected(self, repository: Repository) -> Inspected | None:
        """What an estimate goes by, where nothing of that is missing."""
        found = self._chosen(repository)
        if found is None:
            return None
        commit, chosen = found
        filename = model_file(chosen)
        sizes = {file.name: file.size for file in chosen}
        if self.lacks_to_inspect(commit, chosen):
            return None
        is_head = any(file.name.endswith(".gguf") for file in self.missing(commit, chosen))
        folder = self.heads(commit) if is_head else self.files(commit)
        return Inspected(folder=folder, filename=filename, sizes=sizes)

    def lacks_to_inspect(self, commit: str, chosen: list[RemoteFile]) -> list[RemoteFile]:
        """The files of which an estimate needs something that is not there yet.

        Of safetensors their sizes are enough. The parts of a GGUF model are looked at together.
        """
        missing = self.missing(commit, chosen)
        lacks = [file for file in missing if not is_weight(file.name)]
        if any(file.name.endswith(".gguf") for file in missing):
            lacks += [file for file in chosen if not self.has_head(commit, file)]
        return lacks

    def has_head(self, commit: str, file: RemoteFile) -> bool:
        """Whether the first bytes are there of a GGUF file; of others there is nothing to have."""
        if not file.name.endswith(".gguf"):
            return True
        return size_of(self.heads(commit) / file.name) == min(file.size, HEAD_BYTES)

    def drop_heads(self, commit: str, files: list[RemoteFile]) -> None:
        """Removes the first bytes of files that are whole; those of others are still looked at."""
        top = self.heads(commit)
        for file in files:
            head = top / file.name
            for path in (head, head_on_its_way(head)):
                path.unlink(missing_ok=True)
            for folder in head.parents[: len(head.relative_to(top).parts)]:
                with contextlib.suppress(OSError):  # it is not empty, or was not there
                    folder.rmdir()

    def on_its_way(self, commit: str, file: RemoteFile) -> Path:
        """Where a file is before it counts: by its content, for another commit goes on with it."""
        name = file.hash or hashlib.sha256(f"{commit}/{file.name}".encode()).hexdigest()
        return self.partial / name

    def twin(self, file: RemoteFile) -> Path | None:
        """The same file at another commit, where it is there."""
        for commit in self.commits():
            manifest = self.manifest(commit)
            for other in manifest.files if manifest else ():
                same = other.hash == file.hash and other.size == file.size and file.hash
                if same and self.has(commit, other):
                    return self.files(commit) / other.name
        return None

    def size(self) -> int:
        """Bytes on the disk, of all commits."""
        return _disk_size(self.path)

    def commit_size(self, commit: str) -> int:
        return _disk_size(self.path / commit)

    def partial_size(self) -> int:
        """Bytes of what is on its way, to whichever commit."""
        return _disk_size(self.partial)

    def drop_commit(self, commit: str) -> None:
        shutil.rmtree(self.path / commit)

    def drop_partials(self) -> None:
        """Removes what is on its way to no commit that is here. Nobody may be fetching."""
        awaited = {
            self.on_its_way(commit, file).name
            for commit in self.commits()
            if (manifest := self.manifest(commit)) is not None
            for file in self.missing(commit, manifest.files)
        }
        with contextlib.suppress(FileNotFoundError):
            for path in self.partial.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in awaited:
                    path.unlink()

    def drop(self) -> None:
        """Removes all of it; what is half removed when the machine fails counts no more."""
        # First, for without a commit nothing is listed that could be removed.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.partial)
        for commit in self.commits():
            (self.path / commit / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(self.path)

    def _chosen(self, repository: Repository) -> tuple[str, list[RemoteFile]] | None:
        commit = self.commit(repository.revision)
        manifest = None if commit is None else self.manifest(commit)
        if commit is None or manifest is None:
            return None
        return commit, choose(repository.name, manifest.files, repository.files)


def folders(hub: Path) -> Iterator[Folder]:
    """The repositories in a hub's folder."""
    try:
        names = sorted(os.listdir(hub))
    except FileNotFoundError:
        return
    for name in names:
        if (hub / name).is_dir():
            yield Folder(hub, name)


def head_on_its_way(head: Path) -> Path:
    """Where the first bytes of a file are, until they are all there."""
    return head.with_name(f"{head.name}.partial")


def size_of(path: Path) -> int | None:
    """The size of a plain file; None: there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _choose(manifest: Manifest, pattern: str) -> list[RemoteFile]:
    try:
        return choose(manifest.repository, manifest.files, pattern)
    except ModelStoreError:
        return []  # of a version that chose otherwise


def _disk_size(folder: Path) -> int:
    """A file with two names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(path, name))
            except FileNotFoundError:
                continue  # a download goes on meanwhile
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def _read(path: Path, kind: type[T]) -> T | None:
    """A document; None: there is none, or none that can be understood, and it is fetched anew."""
    try:
        return msgspec.json.decode(plain_files.read_bytes(path, 64 << 20), type=kind)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def _write(path: Path, document: Any) -> None:
    """Replaces a document, for good."""
    fresh = path.with_name(f"{path.name}.new")
    with open(fresh, "wb") as file:
        file.write(msgspec.json.encode(document))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
