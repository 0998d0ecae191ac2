"""Who listens at a port: an engine, or another program that answers in its place."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_backend import PREPARED, SMALL, run, small

from gpustack_fast.engines import instance as instances
from gpustack_fast.engines.instance import Instance
from gpustack_fast.engines.listening import is_theirs, listens
from gpustack_fast.engines.processes import ProcessTable
from gpustack_fast.engines.readiness import until_ready
from gpustack_fast.errors import EngineFailed
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_is_of_who_listens_there(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            assert listens(port, [other.pid, os.getpid()])
            assert not listens(port, [other.pid])
            assert other.stdin is not None
            other.stdin.close()
        assert not listens(port, [other.pid]), "it is gone"
    assert not listens(port, [os.getpid()])


def test_an_answer_of_another_program_makes_no_engine_ready(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken the port between our choice and the engine's start."""
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        writer.close()
        answered.set()

    async def scenario(paths: EnginePaths) -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        monkeypatch.setattr(instances, "free_port", lambda: server.sockets[0].getsockname()[1])
        faults = Faults()
        backend = dataclasses.replace(SMALL, over_tcp=True)
        model = small("--never-ready", ready_timeout=0.5)
        one = Instance("small-1", model, backend, paths, ProcessTable(faults), faults)
        await one.start(PREPARED)
        try:
            with pytest.raises(EngineFailed, match="not ready after"):
                await until_ready(one)
            assert answered.is_set()
        finally:
            assert await one.stop()
            server.close()

    run(scenario, short_folder)


def test_an_address_is_of_those_who_alone_listen_there(short_folder: Path) -> None:
    path = short_folder / "with blank.sock"
    address = f"unix:{path}"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert is_theirs(address, [os.getpid()]) is None
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            assert is_theirs(address, [os.getpid()]) is None, "it does not listen yet"
            listener.listen()
            assert is_theirs(address, [other.pid, os.getpid()]) is True
            assert is_theirs(address, [other.pid]) is False
            assert is_theirs(address, []) is False
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                assert is_theirs(address, [os.getpid()]) is True, "connections are no listeners"
        path.unlink()
        other.kill()


LISTENS_AS_WELL = """
import socket, sys
one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind((sys.argv[1], int(sys.argv[2])))
one.listen()
print(one.getsockname()[1], flush=True)
input()
"""


@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_a_port_at_which_another_program_listens_as_well_is_not_theirs(where: str) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        assert is_theirs(address, [os.getpid()]) is True
        command = [sys.executable, "-c", LISTENS_AS_WELL, where, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline()
            assert is_theirs(address, [os.getpid()]) is False
            assert is_theirs(address, [os.getpid(), other.pid]) is True
            other.kill()
    assert is_theirs(address, [os.getpid()]) is None


def test_what_ends_while_it_is_looked_at_hides_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listdir, readlink, gone = os.listdir, os.readlink, set[str]()

    def ended(path: str) -> list[str]:
        if path == "/proc/1/fd":
            raise ProcessLookupError
        return listdir(path)

    def closed(path: str) -> str:
        if not gone:
            gone.add(path)
            raise FileNotFoundError
        return readlink(path)

    monkeypatch.setattr(os, "listdir", ended)
    monkeypatch.setattr(os, "readlink", closed)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert listens(listener.getsockname()[1], [1, os.getpid()])
    assert gone


def test_a_connection_that_is_over_is_no_listener() -> None:
    """The kernel shows it for a minute, and says of nobody that it is theirs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # whoever closes first is the one who waits
            assert client.recv(1) == b""
        assert is_theirs(f"http://127.0.0.1:{port}", [os.getpid()]) is True
    assert is_theirs(f"http://127.0.0.1:{port}", [os.getpid()]) is None


def test_a_listener_at_another_address_of_the_machine_takes_no_port_away() -> None:
    with socket.create_server(("127.0.0.2", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        assert is_theirs(f"http://127.0.0.1:{port}", [os.getpid()]) is None
