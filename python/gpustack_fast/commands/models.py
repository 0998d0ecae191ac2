"""`gpustack-fast models list`, `pull` and `remove`: what was fetched to this machine."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import msgspec
from msgspec import Struct

from gpustack_fast.commands.interruption import told_of_interruption
from gpustack_fast.commands.output import complain, in_json, say
from gpustack_fast.config import Config, ModelConfig
from gpustack_fast.config.sentences import closest, quoted
from gpustack_fast.errors import UsageError, printable
from gpustack_fast.faults import Faults
from gpustack_fast.model_store.documents import (
    Download,
    Hub,
    ModelStoreError,
    Repository,
    readable_size,
)
from gpustack_fast.model_store.repositories import adapters_of, parse, repositories_of
from gpustack_fast.model_store.store import Store

__all__ = ["pull", "remove", "show"]

_TELL_EVERY = 10.0
"""Seconds between two lines about a download, where no terminal shows one that changes."""
_HEADER = ("REPOSITORY", "REVISION", "COMMIT", "SIZE", "COMPLETE", "USED BY")


class Row(Struct, kw_only=True, forbid_unknown_fields=True):
    """A repository in the store, as `models list --json` shows it."""

    hub: Hub
    repository: str
    revisions: list[str]
    """That stand for this commit; none: an older one."""
    commit: str
    size: int
    """Bytes on the disk."""
    complete: bool
    models: list[str]
    """Those of the configuration that use it, by name."""


class Pulled(Struct, kw_only=True, forbid_unknown_fields=True):
    """What `models pull --json` prints of each repository."""

    repository: str
    path: str


class RemovedAdapter(Struct, kw_only=True, forbid_unknown_fields=True):
    """The repository of an adapter that went with its model."""

    hub: Hub
    repository: str
    size: int
    """Bytes that are free again."""


class Removed(Struct, kw_only=True, forbid_unknown_fields=True):
    """What `models remove --json` prints."""

    hub: Hub
    repository: str
    size: int
    """Bytes that are free again, without those of adapters."""
    adapters: list[RemovedAdapter]
    kept: dict[str, str]
    """Repositories of the model's adapters that stay, with the reason."""


def show(config: Config, *, as_json: bool) -> int:
    """Prints what the store has, as a table or as a JSON list of Row."""
    uses = [(model.name, repositories_of(model)) for model in config.models]
    rows = [
        Row(
            hub=one.hub,
            repository=one.repository,
            revisions=list(one.revisions),
            commit=one.commit,
            size=one.size,
            complete=one.complete,
            models=[
                name
                for name, repositories in uses
                if any(_is_of(wanted, one.hub, one.repository) for wanted in repositories)
            ],
        )
        for one in _store(config).listing()
    ]
    if as_json:
        say(in_json(rows))
        return 0
    table = [_HEADER, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADER))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(printable("  ".join(cells).rstrip()))
    return 0


def pull(config: Config, which: str, *, as_json: bool) -> int:
    """Fetches what a model needs, at the commit that its revision stands for now.

    `which`: a model of the configuration, or `huggingface:ORG/NAME[@REVISION][:FILE]`. Raises
    ModelStoreError, and Interrupted on Ctrl-C: what was downloaded is kept.
    """
    environment, repositories = _wanted(config, which)
    _make_private(config)
    store = _store(config)
    done: list[Pulled] = []
    go_on = f"gpustack-fast models pull {shlex.quote(printable(which))}"
    with told_of_interruption(f"What was downloaded is kept: repeat `{go_on}` to go on."):
        for repository in repositories:
            with _progress() as report:
                path = asyncio.run(store.pull(repository, environment, report))
            done.append(Pulled(repository=repository.reference, path=str(path)))
            if not as_json:
                say(f"{repository.name} is complete: {path}")
    if as_json:
        say(in_json(done))
    return 0


def remove(config: Config, which: str, *, as_json: bool) -> int:
    """Removes a repository, every commit of it; of a model its adapters' as well, unless another
    model of the configuration needs them, too.

    Raises ModelStoreError where it is in use; an adapter that is stays, and is told.
    """
    store = _store(config)
    hub, name = _named(config, store, which)
    done = Removed(hub=hub, repository=name, size=store.remove(hub, name), adapters=[], kept={})
    for one in _adapters(config, store, which):
        if (one.hub, one.name) == (hub, name):
            continue
        if users := _others(config, which, one):
            done.kept[one.name] = f"{', '.join(map(quoted, users))} of the configuration needs it"
            continue
        try:
            size = store.remove(one.hub, one.name)
        except ModelStoreError as error:
            done.kept[one.name] = str(error)
        else:
            done.adapters.append(RemovedAdapter(hub=one.hub, repository=one.name, size=size))
    if as_json:
        say(msgspec.json.encode(done).decode())
        return 0
    gone = {done.repository: done.size, **{one.repository: one.size for one in done.adapters}}
    for repository, size in gone.items():
        say(f"{repository} is removed: {readable_size(size)} are free again.")
    for repository, why in done.kept.items():
        say(f"The adapter {repository} stays: {why.removesuffix('.')}.")
    return 0


def _store(config: Config) -> Store:
    return Store(config.server.models_folder(), Faults())


def _is_of(wanted: Repository, hub: Hub, name: str) -> bool:
    return wanted.hub == hub and wanted.name.lower() == name.lower()


def _wanted(config: Config, which: str) -> tuple[dict[str, str], list[Repository]]:
    """The environment for the hub's library, and what is to be fetched. Raises UsageError."""
    if (repository := parse(which)) is not None:
        return {}, [repository]
    model = _model(config, which)
    if model is None:
        names = [one.name for one in config.models]
        raise UsageError(
            f"The configuration has no model {quoted(which)}.{closest(which, names)} Write the "
            "name of one, or `huggingface:ORGANISATION/NAME`."
        )
    repositories = repositories_of(model)
    if not repositories:
        raise UsageError(f"The model `{model.name}` comes from no hub: there is nothing to fetch.")
    return dict(model.env), repositories


def _named(config: Config, store: Store, which: str) -> tuple[Hub, str]:
    """The repository that somebody means: as `list` shows it, or by a model. Raises UsageError."""
    if (repository := parse(which)) is not None:
        if repository.files or "@" in which:
            raise UsageError(
                f"{quoted(which)} names a part of a repository, and `models remove` removes the "
                f"whole. Write `{repository.hub}:{repository.name}`, if that is meant."
            )
        return repository.hub, repository.name
    if (model := _model(config, which)) is not None and (found := repositories_of(model)):
        return found[0].hub, found[0].name
    stored = {(one.hub, one.repository) for one in store.listing()}
    hubs = [hub for hub in get_args(Hub) if (hub, which) in stored]
    if len(hubs) == 1:
        return hubs[0], which
    if hubs:
        raise UsageError(f"{which} is there from both hubs. Write `{hubs[0]}:{which}`, say.")
    raise UsageError(
        f"There is no {quoted(which)} in {store.folder}."
        f"{closest(which, [name for _, name in stored])} `gpustack-fast models list` shows what is."
    )


def _adapters(config: Config, store: Store, which: str) -> list[Repository]:
    """The repositories in the store that a model's adapters come from, each once."""
    model = None if parse(which) is not None else _model(config, which)
    if model is None:
        return []
    found = {(one.hub, one.name): one for one in adapters_of(model).values()}
    there = {(one.hub, one.repository) for one in store.listing()} if found else set()
    return [one for place, one in found.items() if place in there]


def _others(config: Config, which: str, repository: Repository) -> list[str]:
    """The other models of the configuration that need a repository, too."""
    return [
        model.name
        for model in config.models
        if model.name != which
        and any(_is_of(one, repository.hub, repository.name) for one in repositories_of(model))
    ]


def _model(config: Config, name: str) -> ModelConfig | None:
    return next((one for one in config.models if one.name == name), None)


def _make_private(config: Config) -> None:
    """Makes the data directory as the first start of a server would. Raises UsageError."""
    if config.server.models_dir is None:
        folder = config.server.data_dir
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"The data directory {folder} cannot be made: {error.strerror}. Choose another one "
                "with --data-dir, or a folder for models with --models-dir."
            ) from error


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.hub}:{row.repository}",
        ",".join(row.revisions) or "(older)",
        row.commit[:12],
        readable_size(row.size),
        "yes" if row.complete else "no",
        ",".join(row.models) or "-",
    )


@contextmanager
def _progress() -> Iterator[Callable[[Download], None]]:
    """Shows a download on standard error: on a terminal one line that changes, else lines."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    told_at, before = float("-inf"), ""

    def report(download: Download) -> None:
        nonlocal told_at, before
        now, text = time.monotonic(), _line(download)
        if is_terminal:
            _overwrite(text)
        elif now - told_at >= _TELL_EVERY or download.note != before:
            complain(text)
            told_at, before = now, download.note

    try:
        yield report
    finally:
        if is_terminal:
            _overwrite("")


def _line(download: Download) -> str:
    parts = [download.repository]
    if download.total:
        share = 100 * download.done // download.total
        parts.append(
            f"{readable_size(download.done)} of {readable_size(download.total)} ({share} %)"
        )
    if download.note:
        parts.append(download.note)
    return ": ".join([parts[0], "; ".join(parts[1:]) or "looking it up"])


def _overwrite(text: str) -> None:
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
        sys.stderr.write(f"\r\x1b[K{printable(text)[: max(columns - 1, 1)]}")
        sys.stderr.flush()
    except OSError:
        pass  # nobody looks any more
