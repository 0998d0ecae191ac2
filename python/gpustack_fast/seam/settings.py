"""`[server]` → the data plane's configuration at the start, and its settings after a reload."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gpustack_fast.config import ServerConfig
from gpustack_fast.seam.documents import DataPlaneConfig, ResponseExtras, Settings, Tls

__all__ = ["plane_config", "plane_settings"]

RESPONSES_KEPT = 65_536
"""Responses of the Responses API that are remembered with the instance that made them."""


def plane_config(server: ServerConfig, control_socket: Path, spool: Path) -> DataPlaneConfig:
    """The data plane's part of `[server]`.

    `control_socket`: the management API's socket. `spool`: the folder for bodies that wait for
    their model.
    """
    return DataPlaneConfig(
        host=server.host,
        workers=server.worker_count(),
        control_socket=str(control_socket),
        spool_folder=str(spool),
        timeouts=server.timeouts,
        limits=server.limits,
        cors=server.cors,
        response_extras=response_extras(server),
        log_level=server.log_level,
        log_format=server.log_format,
        trusted_proxies=server.trusted_proxies,
        allowed_hosts=server.allowed_hosts,
        tls=tls(server),
        responses_kept=RESPONSES_KEPT,
    )


def plane_settings(server: ServerConfig) -> Settings:
    """The part of `[server]` that goes with a table to the running data plane."""
    return Settings(
        timeouts=server.timeouts,
        limits=server.limits,
        cors=server.cors,
        response_extras=response_extras(server),
    )


def response_extras(server: ServerConfig) -> ResponseExtras:
    """The fields of `[server]` that it names."""
    return msgspec.convert(server, ResponseExtras, from_attributes=True)


def tls(server: ServerConfig) -> Tls | None:
    """The files for TLS; None where they are not set (`check_server` allows both or none)."""
    if server.tls_certificate is None or server.tls_key is None:
        return None
    return Tls(certificate=str(server.tls_certificate), key=str(server.tls_key))
