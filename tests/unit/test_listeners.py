"""The sockets where clients arrive."""

from __future__ import annotations

import errno
import socket
import threading
from pathlib import Path

import pytest
import uvloop

from gpustack_fast import listeners
from gpustack_fast.api.application import Application
from gpustack_fast.api.routes import Sources
from gpustack_fast.api.server import ApiServer
from gpustack_fast.control.server import ControlServer
from gpustack_fast.listeners import BindError, NeverBound, bind, urls_of
from gpustack_fast.storage.data_directory import DataDirectory


def test_port_0_takes_a_free_port() -> None:
    (listener,) = bind("127.0.0.1", 0)
    with listener, socket.create_connection(listener.getsockname()):
        assert listener.getsockname()[1] > 0


def test_a_name_with_several_addresses_gets_one_port_for_all() -> None:
    listeners = bind("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
    finally:
        for listener in listeners:
            listener.close()


def test_a_port_that_is_taken_is_reported_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(BindError, match=r"in use by another program.*--port"):
            bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "message", "status"),
    [("203.0.113.7", "does not belong to this machine", 1), ("no such host", "is unknown", 2)],
)
def test_a_host_that_cannot_be_used_is_reported(host: str, message: str, status: int) -> None:
    with pytest.raises(BindError, match=message) as caught:
        bind(host, 0)
    assert caught.value.exit_status == status, "an address may come, a wrong name stays wrong"


def test_a_port_without_the_right_to_it_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listeners, "listen", forbidden)
    with pytest.raises(NeverBound, match="needs more rights"):
        bind("127.0.0.1", 80)


def test_without_a_descriptor_no_other_port_is_recommended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(listeners, "listen", none_left)
    with pytest.raises(BindError, match=r"Too many open files: raise the limit") as caught:
        bind("127.0.0.1", 0)
    assert caught.value.exit_status == 1 and "--port" not in str(caught.value)


def test_a_server_of_names_that_does_not_answer_may_answer_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with pytest.raises(BindError) as caught:
        bind("a.example", 80)
    assert caught.value.exit_status == 1


def test_a_disk_that_does_not_respond_keeps_no_socket_from_closing(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listeners, "REMOVED_WITHIN", 0.05)
    responds = threading.Event()
    nothing = Sources(version="", models=list, routes=list, find_key=lambda _: None)

    def wait(*_: object, **__: object) -> None:
        responds.wait()

    async def run() -> None:
        control = ControlServer(directory.control_socket, None)  # type: ignore[arg-type]
        api = ApiServer(Application(nothing), directory.api_socket)
        await control.start()
        await api.start()
        with monkeypatch.context() as stuck:
            stuck.setattr(Path, "unlink", wait)
            await api.close()
            await control.close()
            responds.set()

    uvloop.run(run())
    for path, line in zip(
        (directory.api_socket, directory.control_socket), caplog.messages, strict=True
    ):
        assert f"{path} could not be removed: the disk does not respond" in line


def test_addresses_are_written_as_clients_write_them() -> None:
    listeners = [*bind("127.0.0.1", 0), *bind("::1", 0)]
    ports = [one.getsockname()[1] for one in listeners]
    assert urls_of(listeners) == [f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}"]
    for one in listeners:
        one.close()


def test_who_connects_meets_the_former_server_or_the_new_one_and_never_nobody(
    directory: DataDirectory,
) -> None:
    nothing = Sources(version="", models=list, routes=list, find_key=lambda _: None)

    async def run() -> None:
        former, new = (
            (
                ControlServer(directory.control_socket, None),  # type: ignore[arg-type]
                ApiServer(Application(nothing), directory.api_socket),
            )
            for _ in "12"
        )
        paths = (directory.control_socket, directory.api_socket)
        for one in former:
            await one.start()
        before = [path.stat().st_ino for path in paths]
        for one in new:
            await one.start(shown=False)
        assert [path.stat().st_ino for path in paths] == before
        for one in new:
            one.show()
        after = [path.stat().st_ino for path in paths]
        assert set(after).isdisjoint(before)
        for one in former:
            await one.close(taken_over=True)
        assert [path.stat().st_ino for path in paths] == after
        for one in new:
            await one.close()
        assert not any(path.exists() for path in paths)
        assert list(directory.run.iterdir()) == []

    uvloop.run(run())
