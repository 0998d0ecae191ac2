"""The process that downloads. It is run by its path, gets a Job as a line of JSON on its standard
input, and writes Messages, a line of JSON each, to its standard output.

It ends as soon as its standard input does: whoever started it is gone then, however it ended. What
it has downloaded stays, and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import msgspec

from gpustack_fast.errors import GpustackFastError
from gpustack_fast.model_store.documents import (
    Done,
    Download,
    Failed,
    Job,
    Manifest,
    Message,
    ModelStoreError,
    RemoteFile,
    Repository,
    readable_size,
)
from gpustack_fast.model_store.explanations import EXPLAINED, explain
from gpustack_fast.model_store.hubs import HubAccess, open_hub
from gpustack_fast.model_store.layout import Folder, size_of
from gpustack_fast.model_store.selection import check_files, choose, is_weight
from gpustack_fast.model_store.transfer import bring, bring_head

AT_ONCE = 4
"""Files that come at the same time: a hub gives one connection a part of what a line carries."""
TELL_EVERY = 0.5
"""Seconds between two lines about the progress."""


def main() -> NoReturn:
    output = _own_output()
    sys.excepthook = _end_with_traceback
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress = Progress(job.repository.name, output)
    try:
        done = carry_out(job, progress)
    except GpustackFastError as error:
        known = error if isinstance(error, ModelStoreError) else ModelStoreError(str(error))
        progress.write(Failed(message=str(known), may_pass=known.may_pass, wait=known.wait))
    else:
        progress.write(done)
    # At once: other files of a job that has failed may still be on their way.
    os._exit(0)


def carry_out(job: Job, progress: Progress) -> Done:
    """Brings what the job asks for. Raises GpustackFastError."""
    repository = job.repository
    folder = Folder(Path(job.folder), repository.folder)
    hub = open_hub(repository, progress.tell)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        manifest = _look_up(hub, folder, repository, renew=job.renew)
        chosen = choose(repository.name, manifest.files, repository.files)
        missing = folder.missing(manifest.commit, chosen)
        if job.stage == "inspect" and hub.has_ranges:
            _inspect(hub, folder, manifest.commit, chosen)
        else:
            _fetch(hub, folder, manifest.commit, chosen, progress, repository)
    except EXPLAINED as error:
        said = explain(error, repository, hub.near)
        raise ModelStoreError(said.message, may_pass=said.may_pass, wait=said.wait) from error
    if job.stage == "fetch":
        folder.pin(repository.revision, manifest.commit)
    return Done(commit=manifest.commit, unverified=sum(not file.hash for file in missing))


def _look_up(hub: HubAccess, folder: Folder, repository: Repository, *, renew: bool) -> Manifest:
    commit = None if renew else folder.commit(repository.revision)
    known = None if commit is None else folder.manifest(commit)
    if known is not None:
        return known
    manifest = hub.manifest()
    check_files(repository.name, manifest.files)
    folder.keep(manifest)
    if folder.commit(repository.revision) is None:
        folder.pin(repository.revision, manifest.commit)
    return manifest


def _inspect(hub: HubAccess, folder: Folder, commit: str, chosen: list[RemoteFile]) -> None:
    """Brings what an estimate goes by: small files whole, of GGUF files their beginning."""
    for file in folder.lacks_to_inspect(commit, chosen):
        bring_one = bring_head if is_weight(file.name) else bring
        bring_one(hub, folder, commit, file)


def _fetch(
    hub: HubAccess,
    folder: Folder,
    commit: str,
    chosen: list[RemoteFile],
    progress: Progress,
    repository: Repository,
) -> None:
    folder.want(commit, repository.files)
    missing = folder.missing(commit, chosen)
    _check_room(folder, commit, missing, repository)
    progress.watch(folder, commit, chosen)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for one in [pool.submit(_bring_all, hub, folder, commit, same) for same in _twins(missing)]:
            one.result()
    finally:
        # After a failure, what still comes is not waited for: the process ends with its last line.
        pool.shutdown(wait=False, cancel_futures=True)
    with contextlib.suppress(OSError):
        folder.drop_heads(commit, chosen)


def _twins(files: list[RemoteFile]) -> list[list[RemoteFile]]:
    """Files of the same content together: the first one comes, the others are links to it."""
    found: dict[str, list[RemoteFile]] = {}
    for file in files:
        found.setdefault(file.hash or f"name {file.name}", []).append(file)
    return list(found.values())


def _bring_all(hub: HubAccess, folder: Folder, commit: str, files: list[RemoteFile]) -> None:
    for file in files:
        bring(hub, folder, commit, file)


def _check_room(
    folder: Folder, commit: str, missing: list[RemoteFile], repository: Repository
) -> None:
    """Raises ModelStoreError where the disk has not the room for what is missing."""
    needed = sum(
        file.size - (size_of(folder.on_its_way(commit, file)) or 0)
        for file, *_ in _twins(missing)
        if folder.twin(file) is None
    )
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise ModelStoreError(
            f"The disk of {folder.path.parent} has no room for {repository.name}: "
            f"{readable_size(needed)} are needed, and {readable_size(free)} are free. Free some "
            "space (`gpustack-fast models list` shows what the store holds), or choose another "
            "folder with `models_dir`.",
            may_pass=True,
        )


class Progress:
    """Writes lines about a download, from any thread."""

    def __init__(self, repository: str, output: int) -> None:
        self._repository = repository
        self._output = output
        self._lock = threading.Lock()
        self._note = ""
        self._count: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def tell(self, note: str) -> None:
        """Says why nothing comes; empty: it comes again."""
        self._note = note
        self._tell_now()

    def watch(self, folder: Folder, commit: str, chosen: list[RemoteFile]) -> None:
        """Tells from now on how much of these files is there: as the disk says it."""
        total = sum(file.size for file in chosen)

        def count() -> tuple[int, int]:
            sizes = (
                size_of(folder.files(commit) / file.name)
                or size_of(folder.on_its_way(commit, file))
                or 0
                for file in chosen
            )
            return sum(sizes), total

        self._count = count
        self._tell_now()
        threading.Thread(target=self._go_on, daemon=True).start()

    def write(self, message: Message) -> None:
        """Writes one line; where nobody reads it any more, the process ends."""
        line = msgspec.json.encode(message) + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._output, line) :]
            except BrokenPipeError:
                os._exit(1)

    def _tell_now(self) -> None:
        done, total = self._count()
        self.write(Download(repository=self._repository, done=done, total=total, note=self._note))

    def _go_on(self) -> None:
        pause = threading.Event()
        while not pause.wait(TELL_EVERY):
            self._tell_now()


def _own_output() -> int:
    """A descriptor for our lines alone: what a library prints goes to standard error."""
    output = os.dup(1)
    os.dup2(2, 1)
    return output


def _end_with_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A mistake of ours: files that are still on their way shall not keep the process."""
    sys.__excepthook__(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
