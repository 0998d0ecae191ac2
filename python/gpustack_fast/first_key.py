"""The first key of a new store, and how a person learns of it."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

from gpustack_fast import console
from gpustack_fast.keys.live import bootstrap
from gpustack_fast.keys.store import Store
from gpustack_fast.seam.log import announce
from gpustack_fast.storage import durable
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["first_key"]

log = logging.getLogger(__name__)


def first_key(store: Store, directory: DataDirectory, given: str | None) -> str | None:
    """Makes a new store's first key, and shows it; how a shell finds it, if one was made.

    `given`: the key that the environment names. To be called behind all that can keep the server
    from starting, and told at once: nobody could learn that key any more, were the server to end
    first. Raises GpustackFastError and OSError.
    """
    # A log is kept, and read by many: the first key is shown to a terminal alone.
    key_file = None if os.isatty(2) else directory.first_key_file
    keep = None if key_file is None else functools.partial(_keep, key_file)
    first = bootstrap(store, given, keep)
    if first.notice:
        announce(first.notice)
    if first.created is None or given is not None:
        return None
    announce(console.first_key(first.created.text, key_file))
    for warning in first.created.warnings:
        log.warning("%s", warning)
    return console.bearer_in(key_file)


def _keep(file: Path, key: str) -> None:
    if doubt := durable.write_bytes(file, f"{key}\n".encode()):
        log.warning("%s", doubt)
