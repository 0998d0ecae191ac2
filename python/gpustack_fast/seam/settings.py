"""`[server]` → what the data plane knows from its start to its end. Its times are milliseconds."""

from __future__ import annotations

from pathlib import Path

from gpustack_fast.config import CorsConfig, ServerConfig
from gpustack_fast.seam.documents import (
    ConnectionLimits,
    Cors,
    DataPlaneConfig,
    Limits,
    Telling,
    Timeouts,
    Tls,
)

__all__ = ["plane_config"]


def plane_config(server: ServerConfig, control_socket: Path, spool: Path) -> DataPlaneConfig:
    """`control_socket`: where the management API listens. `spool`: the folder for bodies that wait
    for their model.
    """
    limits = server.limits
    return DataPlaneConfig(
        workers=server.worker_count(),
        control_socket=str(control_socket),
        timeouts=timeouts(server),
        limits=Limits(
            body=limits.max_body_bytes,
            replay=limits.replay_bytes,
            memory=limits.memory_bytes,
            ratio=limits.decoded_ratio,
            nesting=limits.max_nesting,
        ),
        connections=ConnectionLimits(idle_per_instance=limits.idle_connections),
        telling=Telling(
            server_timing=server.server_timing,
            server_timing_in_streams=server.server_timing_in_streams,
            usage_timings=server.usage_timings,
            sse_keep_alive=milliseconds(server.sse_keep_alive),
        ),
        tls=tls(server),
        cors=cors(server.cors),
        spool_folder=str(spool),
        record_queue=limits.record_queue,
        log_level=server.log_level,
        log_format=server.log_format,
    )


def timeouts(server: ServerConfig) -> Timeouts:
    times = server.timeouts
    return Timeouts(
        head=milliseconds(times.head),
        body=milliseconds(times.body),
        connect=milliseconds(times.connect),
        first_frame=milliseconds(times.first_frame),
        idle=milliseconds(times.idle),
    )


def milliseconds(seconds: float) -> int:
    """0 stays 0, which means none; nothing else becomes 0."""
    return max(1, round(seconds * 1000)) if seconds else 0


def tls(server: ServerConfig) -> Tls | None:
    if server.tls_certificate is None or server.tls_key is None:
        return None
    return Tls(certificate=str(server.tls_certificate), key=str(server.tls_key))


def cors(written: CorsConfig) -> Cors | None:
    """Without origins no page of another origin is let in, and browsers are told nothing."""
    if not written.origins:
        return None
    return Cors(
        origins=written.origins,
        methods=written.methods,
        headers=written.headers,
        expose=written.expose,
        credentials=written.credentials,
        max_age=written.max_age,
    )
