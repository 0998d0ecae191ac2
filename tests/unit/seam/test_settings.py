"""`[server]` as the data plane is told it."""

from __future__ import annotations

from pathlib import Path

from gpustack_fast.config import CorsConfig, LimitsConfig, ServerConfig, TimeoutsConfig
from gpustack_fast.seam.documents import Cors, DataPlaneConfig, Tls
from gpustack_fast.seam.settings import plane_config


def told(server: ServerConfig) -> DataPlaneConfig:
    return plane_config(server, Path("/run/api.sock"), Path("/data/spool"))


def test_seconds_become_milliseconds_and_no_limit_stays_none() -> None:
    server = ServerConfig(
        timeouts=TimeoutsConfig(head=1.5, body=0.0001, connect=0, first_frame=2, idle=3),
        sse_keep_alive=1.5,
    )
    times = told(server).timeouts
    assert (times.head, times.body, times.connect, times.first_frame, times.idle) == (
        1500,
        1,
        0,
        2000,
        3000,
    )
    assert told(server).telling.sse_keep_alive == 1500
    assert told(ServerConfig()).telling.sse_keep_alive == 0


def test_every_limit_reaches_its_place() -> None:
    limits = LimitsConfig(
        max_body_bytes=10,
        replay_bytes=5,
        memory_bytes=65_536,
        decoded_ratio=9,
        max_nesting=6,
        idle_connections=7,
        record_queue=8,
    )
    made = told(ServerConfig(workers=3, limits=limits))
    bounds = made.limits
    assert (bounds.body, bounds.replay, bounds.memory, bounds.ratio, bounds.nesting) == (
        10,
        5,
        65_536,
        9,
        6,
    )
    assert (made.connections.idle_per_instance, made.record_queue, made.workers) == (7, 8, 3)
    assert (made.control_socket, made.spool_folder) == ("/run/api.sock", "/data/spool")


def test_the_defaults_of_the_configuration_are_those_of_the_data_plane() -> None:
    assert told(ServerConfig(workers=1)) == DataPlaneConfig(
        control_socket="/run/api.sock", spool_folder="/data/spool"
    )


def test_what_is_told_to_clients_can_be_turned_on_and_off() -> None:
    telling = told(
        ServerConfig(server_timing=False, server_timing_in_streams=True, usage_timings=False)
    ).telling
    assert (telling.server_timing, telling.server_timing_in_streams, telling.usage_timings) == (
        False,
        True,
        False,
    )


def test_tls_and_cors_are_there_only_when_they_are_written() -> None:
    assert (told(ServerConfig()).tls, told(ServerConfig()).cors) == (None, None)
    server = ServerConfig(
        tls_certificate=Path("/c.pem"),
        tls_key=Path("/k.pem"),
        cors=CorsConfig(
            origins=["https://a"],
            methods=["GET"],
            headers=["X-A"],
            expose=["X-B"],
            credentials=True,
            max_age=1,
        ),
    )
    assert told(server).tls == Tls(certificate="/c.pem", key="/k.pem")
    assert told(server).cors == Cors(
        origins=["https://a"],
        methods=["GET"],
        headers=["X-A"],
        expose=["X-B"],
        credentials=True,
        max_age=1,
    )
