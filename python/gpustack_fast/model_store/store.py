"""The store: what a model needs is looked at, fetched, listed and removed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar, get_args

from gpustack_fast.errors import UsageError
from gpustack_fast.faults import Faults, is_ours, open_in_thread, reason_of, run_in_thread
from gpustack_fast.model_store import locks
from gpustack_fast.model_store.documents import (
    Download,
    Hub,
    Inspected,
    Job,
    Model,
    ModelStoreError,
    Report,
    Repository,
    Stored,
)
from gpustack_fast.model_store.downloads import check_endpoint, download, environment_for
from gpustack_fast.model_store.layout import Folder, folders
from gpustack_fast.model_store.repositories import adapters_of, local_adapters_of, repository_of

__all__ = ["Store"]

T = TypeVar("T")

_NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)
POLL = 0.2
"""Seconds between two tries for a lock."""


class Store:
    """The models of a folder. Several stores of several processes may share it.

    What was looked at or fetched is in use until `close`, or until the process ends: nobody removes
    it.
    """

    def __init__(
        self, folder: Path, faults: Faults, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment`: where tokens and HF_ENDPOINT come from; None: our own."""
        self.folder = folder
        self._faults = faults
        self._environment = os.environ if environment is None else environment
        self._uses: dict[Path, int] = {}
        """The descriptors that keep repositories in use."""

    async def inspect(self, model: Model) -> Inspected | None:
        """What an estimate goes by; fetches no weights. None: the engine has the files itself.

        Raises ModelStoreError, UsageError.
        """
        repository = repository_of(model)
        if repository is None:
            return await run_in_thread(_local, model)
        folder = self._folder(repository)
        await self._use(folder)
        found = await self._read(folder.inspected, repository)
        if found is None:
            await self._download(repository, "inspect", model.env, lambda _: None)
            found = await self._read(folder.inspected, repository)
        return _there(found, repository)

    async def fetch(self, model: Model, report: Report) -> Path | None:
        """The folder or file that an engine is given, whole and verified; fetches what is missing.

        None: the engine has the files itself (`python_package`). A cancelled one ends the download,
        which the next goes on with. Raises ModelStoreError, UsageError.
        """
        repository = repository_of(model)
        if repository is None:
            local = await run_in_thread(_local, model)
            return local.folder if local else None
        return await self._fetch(repository, model.env, report)

    async def adapters(self, model: Model, report: Report) -> dict[str, Path]:
        """The folder of each adapter (LoRA) of a model, by its name. As `fetch`."""
        found = {
            name: await run_in_thread(_existing, Path(path), f"The adapter `{name}`")
            for name, path in local_adapters_of(model).items()
        }
        for name, repository in adapters_of(model).items():
            found[name] = await self._fetch(repository, model.env, report)
        return found

    async def pull(
        self, repository: Repository, environment: Mapping[str, str], report: Report
    ) -> Path:
        """Looks the revision up anew, and fetches what it stands for now.

        Older commits go, unless a server uses the repository. `environment`: as the `env` of a
        model. Raises ModelStoreError.
        """
        await self._download(repository, "fetch", environment, report, renew=True)
        folder = self._folder(repository)
        found = _there(await self._read(folder.whole, repository), repository)
        with contextlib.suppress(OSError):
            await run_in_thread(_drop_older, folder)
        return found

    def listing(self) -> list[Stored]:
        """What is in the store. Raises ModelStoreError."""
        found: list[Stored] = []
        try:
            for hub in get_args(Hub):
                for folder in folders(self.folder / hub):
                    found += _stored(hub, folder)
        except OSError as error:
            raise self._of_disk(error) from error
        return found

    def remove(self, hub: Hub, name: str) -> int:
        """Removes a repository, and returns how many bytes that were.

        Raises ModelStoreError, also where a server uses it, or somebody fetches it.
        """
        folder = Folder(self.folder / hub, name.replace("/", "--"))
        if not folder.path.is_dir():
            raise UsageError(
                f"There is no {name} in {self.folder}. `gpustack-fast models list` shows what is."
            )
        try:
            with contextlib.ExitStack() as held:
                for lock, why in (
                    (
                        folder.use,
                        "a running server uses it. Take it out of the configuration and "
                        "restart that server, or stop it, first",
                    ),
                    (
                        folder.lock,
                        "another process fetches it. Wait for its end, or stop it, first",
                    ),
                ):
                    handle = locks.open_lock(lock)
                    held.callback(os.close, handle)
                    if not locks.try_lock(handle):
                        raise ModelStoreError(f"{name} cannot be removed: {why}.")
                size = folder.size()
                folder.drop()
        except OSError as error:
            raise self._of_disk(error) from error
        return size

    def close(self) -> None:
        """What was fetched may be removed from now on."""
        while self._uses:
            os.close(self._uses.popitem()[1])

    async def _fetch(
        self, repository: Repository, environment: Mapping[str, str], report: Report
    ) -> Path:
        folder = self._folder(repository)
        await self._use(folder)
        found = await self._read(folder.whole, repository)
        if found is None:
            await self._download(repository, "fetch", environment, report)
            found = await self._read(folder.whole, repository)
        return _there(found, repository)

    async def _download(
        self,
        repository: Repository,
        stage: Literal["inspect", "fetch"],
        environment: Mapping[str, str],
        report: Report,
        *,
        renew: bool = False,
    ) -> None:
        """Has the rest brought; whoever held the lock before may have brought it."""
        folder = self._folder(repository)
        job = Job(repository=repository, folder=str(folder.path.parent), stage=stage, renew=renew)
        looks = folder.inspected if stage == "inspect" else folder.whole
        try:
            async with self._held(folder, repository, report) as handle:
                if renew or await run_in_thread(looks, repository) is None:
                    whole = environment_for(environment, self._environment)
                    check_endpoint(whole)
                    await download(job, whole, handle, report)
        except OSError as error:
            raise self._of_disk(error) from error

    @contextlib.asynccontextmanager
    async def _held(
        self, folder: Folder, repository: Repository, report: Report
    ) -> AsyncIterator[int]:
        """Holds a repository's lock, as one of all processes; gives its descriptor."""
        handle = await open_in_thread(locks.open_lock, folder.lock)
        waits = False
        try:
            while not locks.try_lock(handle):
                if not waits:
                    report(Download(repository=repository.name, note="it is being fetched already"))
                    waits = True
                await asyncio.sleep(POLL)
            yield handle
        finally:
            os.close(handle)

    async def _use(self, folder: Folder) -> None:
        """Keeps everybody from removing it. Whoever removes it now is waited for.

        A store that this process cannot write is somebody else's to look after.
        """
        if folder.use in self._uses:
            return
        try:
            handle = await open_in_thread(locks.open_lock, folder.use)
            try:
                while not locks.share(handle):  # noqa: ASYNC110 - a lock's file tells nobody
                    await asyncio.sleep(POLL)
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            if error.errno in _NOT_OURS:
                return
            raise self._of_disk(error) from error
        if (other := self._uses.get(folder.use)) is not None:
            os.close(other)
        self._uses[folder.use] = handle

    async def _read(self, look: Callable[[Repository], T], repository: Repository) -> T:
        try:
            return await run_in_thread(look, repository)
        except OSError as error:
            raise self._of_disk(error) from error

    def _folder(self, repository: Repository) -> Folder:
        return Folder(self.folder / repository.hub, repository.folder)

    def _of_disk(self, error: OSError) -> ModelStoreError:
        may_pass = is_ours(error)
        if may_pass:
            self._faults.note("models", error)
        return ModelStoreError(
            f"The model store {self.folder} cannot be used: {reason_of(error)}. Check the folder, "
            "or choose another one with `models_dir`.",
            may_pass=may_pass,
        )


def _there(found: T | None, repository: Repository) -> T:
    if found is None:
        raise ModelStoreError(
            f"{repository.name} was changed in the store while it was fetched. Try again.",
            may_pass=True,
        )
    return found


def _local(model: Model) -> Inspected | None:
    """A model that is on this machine anyway. Raises ModelStoreError."""
    if model.local_path is None:
        return None
    path = _existing(Path(model.local_path), f"The model `{model.name}`")
    return Inspected(folder=path, filename="", sizes={})


def _existing(path: Path, what: str) -> Path:
    try:
        is_there = path.exists()
    except OSError as error:
        raise ModelStoreError(
            f"{what} cannot be looked at: {reason_of(error)}. Check the rights of the user who "
            "runs the server on every folder of that path, and whether its disk responds.",
            may_pass=True,
        ) from error
    if not is_there:
        raise ModelStoreError(
            f"{what} is not where `local_path` says: there is no {path}. Check the path, and "
            "whether its file system is mounted.",
            may_pass=True,
        )
    return path


def _stored(hub: Hub, folder: Folder) -> list[Stored]:
    pins = folder.pins()
    name = folder.path.name.replace("--", "/")
    found: list[Stored] = []
    for commit in folder.commits():
        complete = folder.is_complete(commit)
        found.append(
            Stored(
                hub=hub,
                repository=name,
                revisions=sorted(one for one, at in pins.items() if at == commit),
                commit=commit,
                size=folder.commit_size(commit) + (0 if complete else folder.partial_size()),
                complete=complete,
            )
        )
    return found


def _drop_older(folder: Folder) -> None:
    """Removes commits that no revision stands for, where nobody uses any of them, and what was on
    its way to one that has gone. Does nothing while somebody fetches.
    """
    with contextlib.ExitStack() as held:

        def takes(lock: Path) -> bool:
            handle = locks.open_lock(lock)
            held.callback(os.close, handle)
            return locks.try_lock(handle)

        if not takes(folder.lock):
            return
        pinned = set(folder.pins().values())
        if pinned and takes(folder.use):
            for commit in folder.commits():
                if commit not in pinned:
                    folder.drop_commit(commit)
        folder.drop_partials()
