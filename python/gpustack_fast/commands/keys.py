"""`gpustack-fast keys …`: through a running server's control socket, else in the store.

The store is changed under the directory's lock. Nothing here imports asyncio, granian, uvloop or
the data plane: a revoke in an emergency should be done in a moment.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from gpustack_fast.commands.output import OutputFailed, complain, in_json, say
from gpustack_fast.config.sentences import quoted
from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.errors import (
    ControlError,
    DataDirectoryInUse,
    GpustackFastError,
    StoreError,
    UsageError,
    printable,
)
from gpustack_fast.keys.reach import unknown_models
from gpustack_fast.keys.store import CreatedKey, Grant, KeyInfo, Store
from gpustack_fast.machine import local_time
from gpustack_fast.storage.data_directory import DataDirectory, check_is_ours, explain_os_error

__all__ = ["create", "revoke", "seconds", "show"]

NOT_SAVED = 3
"""The exit status of a revocation that the running server obeys, and the disk does not know."""
_PATIENCE = 10.0
"""Seconds to wait for a server that starts or stops: it holds the lock, but does not reply yet."""
_POLL = 0.02
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_TIME = re.compile(r"(\d{1,12})([smhdw])", re.ASCII)


class _KeyAccess(Protocol):
    """The operations of both ways."""

    def create_key(
        self, name: str, grant: Grant | None = None, text: str | None = None
    ) -> CreatedKey: ...

    def list_keys(self) -> list[KeyInfo]: ...

    def revoke_key(self, which: str) -> KeyInfo: ...


class _StoredKeys:
    """The way without a server. `routes` are those of a configuration, if one was named."""

    def __init__(self, store: Store, routes: list[str] | None) -> None:
        self._store = store
        self._routes = routes

    def create_key(
        self, name: str, grant: Grant | None = None, text: str | None = None
    ) -> CreatedKey:
        created = self._store.create(name, grant, text)
        if self._routes is None:
            return created
        warnings = [*created.warnings, *unknown_models(created.info, self._routes)]
        return msgspec.structs.replace(created, warnings=warnings)

    def list_keys(self) -> list[KeyInfo]:
        return [key.info() for key in self._store.keys]

    def revoke_key(self, which: str) -> KeyInfo:
        return self._store.revoke(which)


def create(
    data_dir: Path, name: str, grant: Grant, text: str | None, routes: list[str] | None
) -> int:
    """Makes a key and prints it alone. A key that nobody could read is revoked again.

    Without a running server, `routes` are the names that its models are compared with; None: none
    are known.
    """
    _check_exists(data_dir)
    with _access(DataDirectory(data_dir), routes) as keys:
        created = keys.create_key(name, grant, text)
        try:
            say(created.text)
        except OutputFailed as error:
            raise _revoked_unseen(keys, created, error) from error
    for warning in created.warnings:
        complain(f"warning: {warning}")
    return 0


def _revoked_unseen(keys: _KeyAccess, created: CreatedKey, error: OutputFailed) -> OutputFailed:
    name = created.info.name
    try:
        doubt = keys.revoke_key(created.info.access_key).unsaved
    except GpustackFastError as failure:
        return OutputFailed(
            f"{error} Nobody has seen the key `{name}`, and it could not be revoked: {failure} "
            f"Repeat `gpustack-fast keys revoke {created.info.access_key}`."
        )
    told = f"{error} Nobody has seen the key `{name}`, so it was revoked."
    return OutputFailed(f"{told} {doubt}".rstrip())


def seconds(text: str) -> int:
    """A time such as `30d` in seconds: weeks, days, hours, minutes or seconds.

    Raises UsageError, also for a number without a unit: whoever writes 30 may mean any of them.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        wrong = "has no unit" if text.isdecimal() else "is no time"
        raise UsageError(
            f"{quoted(text)} {wrong}. Write a whole number and its unit, s, m, h, d or w: for "
            "example `30s`, `30m`, `12h` or `90d`."
        )
    return int(found[1]) * _UNITS[found[2]]


def show(data_dir: Path, *, as_json: bool) -> int:
    """Prints all keys, as a table or as a JSON list of KeyInfo; never their secrets."""
    _check_exists(data_dir)
    with _access(DataDirectory(data_dir)) as keys:
        known = keys.list_keys()
    if as_json:
        say(in_json(known))
        return 0
    rows = [_row(key, time.time()) for key in known]
    header = ("NAME", "ACCESS KEY", "KEY", "SCOPES", "ALLOWED MODELS", "CREATED", "EXPIRES")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    say("\n".join(lines))
    return 0


def revoke(data_dir: Path, which: str) -> int:
    """Revokes a key; when it returns, the next request with it is rejected.

    3: it could not be saved for certain yet, so that the key may come back.
    """
    _check_exists(data_dir)
    with _access(DataDirectory(data_dir)) as keys:
        revoked = keys.revoke_key(which)
        has_server = isinstance(keys, ControlClient)
    told = f"The key `{revoked.name}` (access key {revoked.access_key}) is revoked."
    if revoked.unsaved and has_server:
        complain(
            "warning: The running server rejects the key, but it may still be on the disk. "
            f"{revoked.unsaved} The server tries to save that again; until `keys list` shows the "
            "key no more, a restart may bring it back."
        )
    elif revoked.unsaved:
        complain(f"warning: {revoked.unsaved} Look at `keys list` after one.")
    try:
        say(told)
    except OutputFailed as error:
        raise OutputFailed(f"{error} {told}") from error
    return NOT_SAVED if revoked.unsaved else 0


@contextmanager
def _access(directory: DataDirectory, routes: list[str] | None = None) -> Iterator[_KeyAccess]:
    """The running server, or the store with its lock held so that no server starts meanwhile."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            client = ControlClient(directory.control_socket)
        except NoServer:
            pass
        else:
            with client:
                yield client
            return
        try:
            directory.acquire(patience=0)
        except DataDirectoryInUse as error:
            if time.monotonic() >= deadline:
                holder = "A server" if error.pid is None else f"A server (process {error.pid})"
                raise ControlError(
                    f"{holder} holds {directory.path} but does not respond on "
                    f"{directory.control_socket}. "
                    "Repeat the command when it has started, or stop it first."
                ) from error
            time.sleep(_POLL)
            continue
        try:
            yield _StoredKeys(Store(directory), routes)
        finally:
            directory.release()
        return


def _check_exists(data_dir: Path) -> None:
    """A data directory is made by `serve` alone: keys in a misspelt one would open nothing."""
    what = f"The data directory {data_dir} cannot be read"
    try:
        os.listdir(data_dir)
    except FileNotFoundError as error:
        if data_dir.is_symlink():
            raise StoreError(
                f"{what}: it is a link to something that is not there. Check --data-dir."
            ) from error
        raise StoreError(
            f"There is no data directory {data_dir}, and so no keys. Check --data-dir; the first "
            f"start of `gpustack-fast serve` makes it. For keys before that start, make it with "
            f"`mkdir -m 700 {shlex.quote(str(data_dir))}`."
        ) from error
    except NotADirectoryError as error:
        if os.path.lexists(data_dir):
            raise StoreError(f"{what}: it is no directory. Check --data-dir.") from error
        raise StoreError(explain_os_error(error, what)) from error
    except OSError as error:
        raise StoreError(explain_os_error(error, what)) from error
    check_is_ours(data_dir)


def _row(key: KeyInfo, now: float) -> tuple[str, ...]:
    models = "all" if key.allowed_models is None else printable(",".join(key.allowed_models))
    scopes = "all" if "*" in key.scopes else ",".join(key.scopes)
    expires = "never" if key.expires is None else local_time(key.expires)
    if key.is_expired(now):
        expires = f"EXPIRED {expires}"
    if key.unsaved:
        expires = "REVOKED, NOT SAVED YET"
    return key.name, key.access_key, key.masked, scopes, models, local_time(key.created), expires
