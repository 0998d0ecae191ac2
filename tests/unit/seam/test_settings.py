"""`[server]` in the data plane's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpustack_fast import machine
from gpustack_fast.config import CorsConfig, LimitsConfig, ServerConfig, TimeoutsConfig
from gpustack_fast.seam.documents import DataPlaneConfig, ResponseExtras, Tls
from gpustack_fast.seam.settings import plane_config


def told(server: ServerConfig) -> DataPlaneConfig:
    return plane_config(server, Path("/run/api.sock"), Path("/data/spool"))


def test_timeouts_limits_and_cors_cross_as_they_were_read() -> None:
    server = ServerConfig(
        workers=3,
        timeouts=TimeoutsConfig(head=1.5, body=0.0001, connect=0, first_frame=2, idle=3),
        limits=LimitsConfig(max_body_bytes=10, memory_bytes=65_536, record_queue=8),
        cors=CorsConfig(origins=["https://a"], max_age=1),
    )
    made = told(server)
    assert (made.timeouts, made.limits, made.cors) == (server.timeouts, server.limits, server.cors)
    assert (made.workers, made.control_socket, made.spool_folder) == (
        3,
        "/run/api.sock",
        "/data/spool",
    )


def test_what_is_told_to_clients_can_be_turned_on_and_off() -> None:
    assert told(
        ServerConfig(
            server_timing=False,
            server_timing_in_streams=True,
            usage_timings=False,
            sse_keep_alive=1.5,
        )
    ).response_extras == ResponseExtras(
        server_timing=False, server_timing_in_streams=True, usage_timings=False, sse_keep_alive=1.5
    )


def test_tls_is_there_only_when_it_is_written() -> None:
    assert told(ServerConfig()).tls is None
    server = ServerConfig(tls_certificate=Path("/c.pem"), tls_key=Path("/k.pem"))
    assert told(server).tls == Tls(certificate="/c.pem", key="/k.pem")


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (4, 1), (8, 2), (64, 4)])
def test_a_quarter_of_the_cores_carries_requests(cores: int, workers: int) -> None:
    assert machine.worker_threads(cores) == workers
