"""An engine or a client whose machine vanishes in silence is noticed, and an engine that is only
slow is left alone.

The machine is a network namespace behind a pair of virtual interfaces, one of which is taken down.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpustack_fast.seam.documents import InstanceFailed
from harness import KEY, DataPlaneRouter, FakeEngine, stop
from raw_http import Client, build, chat, eventually

Routers = Callable[..., DataPlaneRouter]

PORT = 8000
LIMITS = {"tcp_keepalive_idle": 1, "tcp_keepalive_interval": 1, "tcp_keepalive_probes": 2}
"""Short ones; all others are half an hour."""


def ip(*arguments: str) -> None:
    """Runs `ip`; raises CalledProcessError with its words."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


_NUMBERS = itertools.count()


class FarMachine:
    """A network namespace with an engine or a client in it."""

    def __init__(self) -> None:
        # Never one that a test before this one had: the system removes it in its own time.
        number = os.getpid() * 8 + next(_NUMBERS)
        self.name = f"gpf-{number}"
        self.near, self.far = f"gpn{number}", f"gpf{number}"
        # Of the networks for benchmarks none is routed anywhere; other runs have others of them.
        network = ipaddress.IPv4Address("198.18.0.0") + 4 * (number % 32_768)
        self.near_address, self.far_address = str(network + 1), str(network + 2)

    def begin(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
        ip("address", "add", f"{self.near_address}/30", "dev", self.near)
        ip("link", "set", self.near, "up")
        ip("-n", self.name, "address", "add", f"{self.far_address}/30", "dev", self.far)
        ip("-n", self.name, "link", "set", self.far, "up")

    def run(self, script: str, address: str, port: int, request: bytes = b"") -> None:
        """Runs a script of this folder there, with the request as its input."""
        path = str(Path(__file__).with_name(script))
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, path, address, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        with self.process.stdin:
            self.process.stdin.write(request)

    def run_engine(self) -> str:
        """Starts an engine there, and returns its address."""
        self.run("far_engine.py", self.far_address, PORT)
        self.hear("ready")
        return f"http://{self.far_address}:{PORT}"

    def hear(self, word: str) -> None:
        """Waits until the script says so."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().decode().strip() == word

    def vanish(self) -> None:
        """Cuts the way: from now on every packet is lost."""
        ip("-n", self.name, "link", "set", self.far, "down")

    def end(self) -> None:
        if hasattr(self, "process"):
            stop(self.process, patience=1.0)
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


@pytest.fixture
def machine() -> Iterator[FarMachine]:
    if shutil.which("ip") is None:
        pytest.skip("There is no `ip` (iproute2) here to make a network namespace with.")
    machine = FarMachine()
    try:
        try:
            machine.begin()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"Network namespaces are not permitted here: {error.stderr.strip()}")
        yield machine
    finally:
        machine.end()


def assert_noticed(plane: DataPlaneRouter) -> None:
    failed: list[InstanceFailed] = []

    def noticed() -> bool:
        events = plane.plane.poll().events
        failed.extend(event for event in events if isinstance(event, InstanceFailed))
        return bool(failed)

    eventually(noticed, "the control plane to be told")


def test_a_stream_from_a_machine_that_vanishes_ends(machine: FarMachine, router: Routers) -> None:
    plane = router([machine.run_engine()], timeouts=LIMITS)
    with Client(plane.address) as client:
        plane.send_chat(client, chat(stream=True))
        client.read_until(b'{"first":1}')
        machine.hear("received")
        machine.vanish()
        assert b'data: {"error":' in client.read_to_the_end()
    assert_noticed(plane)
    eventually(plane.is_idle, "the lease to be returned")


def test_an_upload_to_a_machine_that_vanishes_ends(machine: FarMachine, router: Routers) -> None:
    """While bytes are not acknowledged the system sends no probe."""
    plane = router([machine.run_engine()], timeouts={**LIMITS, "tcp_unacknowledged": 1})
    body = chat(prompt="x" * 20_000_000)
    with Client(plane.address) as client:
        sending = threading.Thread(
            target=send_all, args=[client, build("POST", "/v1/completions", body, key=KEY)]
        )
        sending.start()
        machine.hear("received")
        machine.vanish()
        status = client.read_until(b"\r\n")
    # 503: nothing of the body was sent yet, so a second attempt was made, which could not connect.
    assert status.startswith((b"HTTP/1.1 502", b"HTTP/1.1 503"))
    sending.join()
    assert_noticed(plane)


def test_a_client_that_vanishes_leaves_neither_a_connection_nor_a_request(
    machine: FarMachine, router: Routers, shared_engine: FakeEngine
) -> None:
    plane = router([shared_engine], timeouts=LIMITS, listen=machine.near_address)
    silent = {"fault": {"how": "stall", "at": "at_frame", "after": 1}}
    body = chat(stream=True, fake=silent)
    request = build("POST", "/v1/chat/completions", body, key=KEY)
    port = int(plane.address.rpartition(":")[2])
    machine.run("far_client.py", machine.near_address, port, request)
    machine.hear("streaming")
    eventually(lambda: plane.plane.stats().connections == 2, "both connections")
    machine.vanish()
    eventually(lambda: plane.plane.stats().connections == 0, "both connections to end")
    eventually(plane.is_idle, "the lease to be returned")
    assert [record.end for record in plane.records()] == ["client_gone"]


def send_all(client: Client, data: bytes) -> None:
    try:
        client.send(data)
    except OSError:
        """The server has responded before it had read all."""


def test_an_engine_that_does_not_read_yet_is_left_alone(router: Routers) -> None:
    """Its window is closed, but its machine answers to each probe of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plane = router(
            [f"http://127.0.0.1:{listener.getsockname()[1]}"],
            timeouts={"tcp_unacknowledged": 0.2},
        )
        body = chat(text="x" * 20_000_000)
        request = threading.Thread(target=lambda: statuses.append(plane.chat(body).status))
        statuses: list[int] = []
        request.start()
        engine, _ = listener.accept()
        # Long enough for several questions to the system.
        time.sleep(2)
        with engine:
            received = b""
            while not received.endswith(b"}]}"):
                received = (received + engine.recv(1 << 20))[-64:]
            engine.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            request.join()
    assert statuses == [200]
