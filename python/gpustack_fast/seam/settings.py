"""`[server]` → the data plane's configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gpustack_fast.config import ServerConfig
from gpustack_fast.seam.documents import DataPlaneConfig, ResponseExtras, Tls

__all__ = ["plane_config"]

RESPONSES_KEPT = 65_536
"""Responses of the Responses API that are remembered with the instance that made them."""


def plane_config(server: ServerConfig, control_socket: Path, spool: Path) -> DataPlaneConfig:
    """The data plane's part of `[server]`.

    `control_socket`: the management API's socket. `spool`: the folder for bodies that wait for
    their model.
    """
    return DataPlaneConfig(
        workers=server.worker_count(),
        control_socket=str(control_socket),
        spool_folder=str(spool),
        timeouts=server.timeouts,
        limits=server.limits,
        cors=server.cors,
        # By name.
        response_extras=msgspec.convert(server, ResponseExtras, from_attributes=True),
        log_level=server.log_level,
        log_format=server.log_format,
        tls=tls(server),
        responses_kept=RESPONSES_KEPT,
    )


def tls(server: ServerConfig) -> Tls | None:
    """The files for TLS; None where they are not set (`check_server` allows both or none)."""
    if server.tls_certificate is None or server.tls_key is None:
        return None
    return Tls(certificate=str(server.tls_certificate), key=str(server.tls_key))
