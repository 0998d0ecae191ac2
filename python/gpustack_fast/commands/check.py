"""`gpustack-fast check`: what is right, and what will astonish somebody. It starts nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from gpustack_fast.commands.output import complain, say
from gpustack_fast.config import Config, ServerConfig
from gpustack_fast.config.certificate import validity_warning
from gpustack_fast.config.warnings import missing_variables, unknown_variables, warnings_of
from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.errors import GpustackFastError, StoreError, printable
from gpustack_fast.keys.reach import unmatched
from gpustack_fast.keys.store import stored_keys
from gpustack_fast.machine import is_loopback
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["check", "load_tls"]

ANSWERED_WITHIN = 60.0
"""Seconds."""
_UNENCRYPTED = (
    "`host` is no loopback address, and keys and prompts cross the network in the clear. Set "
    "`tls_certificate` and `tls_key`; or listen on 127.0.0.1, behind a proxy that speaks TLS."
)


def check(file: Path | None, config: Config, of_files: str | None, *, look_at_files: bool) -> int:
    """Warns on standard error, and says that a configuration without mistakes is right.

    `of_files`: a warning that the files gave rise to. `look_at_files`: whether this is the machine
    that will serve.
    """
    warnings = [*unknown_variables(os.environ, config), *warnings_of(config)]
    if not is_loopback(config.server.host) and config.server.tls_certificate is None:
        warnings.append(_UNENCRYPTED)
    if look_at_files:
        warnings += [*missing_variables(config, os.environ), *_unmatched(config)]
    if of_files is not None:
        warnings.append(of_files)
    if look_at_files and file is not None:
        warnings += _interruptions(file, config)
    for warning in warnings:
        complain(f"warning: {warning}")
    name = "The embedded default" if file is None else printable(str(file))
    say(f"{name} is right: {_summary(config)}.")
    return 0


def load_tls(server: ServerConfig) -> str | None:
    """Loads the certificate and its key as `serve` does. Raises GpustackFastError.

    Returns what is to be said of the time in which it is good; None: nothing.

    What another library takes (P-521, RSA of 1024 bits), that of the data plane may not.
    """
    from gpustack_fast.seam.dataplane import DataPlane  # only a configuration with TLS needs it
    from gpustack_fast.seam.settings import plane_config

    directory = DataDirectory(server.data_dir)
    quiet = msgspec.structs.replace(server, log_level="off")
    found = DataPlane(plane_config(quiet, directory.api_socket, directory.spool), []).stats()
    return validity_warning(found.certificate_begins, found.certificate_expires, time.time())


def _unmatched(config: Config) -> list[str]:
    """The keys of the data directory beside the routes; nothing before its first start."""
    try:
        keys = stored_keys(DataDirectory(config.server.data_dir))
    except StoreError as error:
        return [f"The keys were not compared with the routes. {error}"]
    return [] if keys is None else unmatched(config.all_routes(), keys, time.time())


def _interruptions(file: Path, config: Config) -> list[str]:
    """The models that it would interrupt in the server that runs here; nothing without one."""
    try:
        socket = DataDirectory(config.server.data_dir).control_socket
        with ControlClient(socket, ANSWERED_WITHIN) as server:
            report = server.apply(str(file.absolute()), dry_run=True)
    except NoServer:
        return []
    except GpustackFastError as error:
        return [f"What it would interrupt in the server that runs here is not known. {error}"]
    return [one.interrupts for one in report.models if one.interrupts]


def _summary(config: Config) -> str:
    def names(things: list[str], kind: str) -> str:
        listed = f" ({', '.join(things)})" if things else ""
        return f"{len(things)} {kind}{'' if len(things) == 1 else 's'}{listed}"

    models = names([model.name for model in config.models], "model")
    return f"{models}, {names([route.name for route in config.all_routes()], 'route')}"
