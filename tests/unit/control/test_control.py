"""The control socket: real sockets, a real store, a fake data plane."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import uvloop

from gpustack_fast import faults
from gpustack_fast.backends import BACKENDS
from gpustack_fast.commands import instances
from gpustack_fast.config import Config, ModelConfig
from gpustack_fast.control import client
from gpustack_fast.control import server as control_server
from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.control.documents import (
    ApplyReport,
    DrainReport,
    Event,
    HandedOver,
    InstanceStatus,
    ModelStatus,
    ServerStatus,
    Status,
)
from gpustack_fast.control.server import ControlServer
from gpustack_fast.control.views import (
    Generations,
    instance_status,
    model_statuses,
    shown_events,
)
from gpustack_fast.engines.plan import ReplicaSlot
from gpustack_fast.engines.progress import Outlook
from gpustack_fast.engines.replica import Replica
from gpustack_fast.errors import (
    ConfigError,
    ControlError,
    InstanceNotFound,
    KeyNameTaken,
    KeyNotFound,
    Mistakes,
    StoreError,
    TakenOver,
    UsageError,
)
from gpustack_fast.faults import Faults
from gpustack_fast.keys.live import KeyChange, Keys
from gpustack_fast.keys.store import Grant, KeyInfo, Store
from gpustack_fast.storage.data_directory import DataDirectory
from limits import limited

T = TypeVar("T")

INSTANCE = InstanceStatus(name="a-1", model="a", state="running", since=10.0, pid=8)
STATUS = ServerStatus(
    version="1.2.3",
    pid=7,
    since=9.0,
    phase="serving",
    addresses=["http://127.0.0.1:8080"],
    models=[ModelStatus(name="a", backend="b", replicas=1, ready_replicas=1, instances=[INSTANCE])],
)


class FakeApp:
    """A handler as of `app`: notes what the data plane would hear, and what the disk held then."""

    def __init__(self, folder: Path) -> None:
        self.directory = DataDirectory(folder)
        self.directory.acquire()
        self.tries = 0
        self.changes: list[KeyChange] = []
        self.on_disk: list[list[str]] = []
        self.heard = asyncio.Event()
        self.store = Store(self.directory)
        self.keys = Keys(self.store, self.publish, Faults())

    def publish(self, change: KeyChange) -> None:
        self.changes.append(change)
        self.heard.set()
        self.on_disk.append([key.name for key in Store(self.directory).keys])

    def key_warnings(self, key: KeyInfo) -> list[str]:
        return []

    async def apply(self, file: str, *, dry_run: bool) -> ApplyReport:
        raise NotImplementedError

    def status(self) -> ServerStatus:
        return STATUS

    def drain(self, which: str) -> DrainReport:
        if which != INSTANCE.name:
            raise InstanceNotFound("There is no such instance.")
        return DrainReport(instances=[INSTANCE], warnings=["It was the last."])

    def resume(self, which: str) -> DrainReport:
        return DrainReport(instances=[INSTANCE])

    async def hand_over(self, python: str | None, timeout: float) -> HandedOver:
        self.tries += 1
        if self.tries < 3:
            raise TakenOver("Another process takes over.")
        return HandedOver(pid=2, version="1", former_pid=1, former_version="0", addresses=[])


def with_server(
    folder: Path,
    scenario: Callable[[Path], T],
    loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> tuple[T, FakeApp]:
    """Runs a blocking scenario, which gets the socket's path, against a server."""
    app = FakeApp(folder)

    async def run() -> T:
        server = ControlServer(app.directory.control_socket, app)
        await server.start()
        try:
            return await asyncio.to_thread(scenario, app.directory.control_socket)
        finally:
            await server.close()

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(run()), app
    finally:
        app.directory.release()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_keys_are_made_listed_and_revoked(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    def scenario(path: Path) -> str:
        with ControlClient(path) as client:
            assert client.list_keys() == []
            created = client.create_key(
                "laptop", Grant(allowed_models=["smollm2"], scopes=["inference"], expires_in=60)
            )
            custom = client.create_key("mine", text="my-own-key-of-16")
            assert custom.text == "my-own-key-of-16"
            assert client.list_keys() == [created.info, custom.info]
            assert client.revoke_key("laptop") == created.info
            assert client.list_keys() == [custom.info]
            assert client.status() == STATUS
            return created.text

    text, app = with_server(tmp_path, scenario, loop)
    assert app.store.find(text) is None
    made, mine, revoked = app.changes
    assert [key.allowed_models for key in made.upsert] == [["smollm2"]]
    assert [(key.scopes, key.expires) for key in made.upsert] == [
        (["inference"], made.upsert[0].created + 60)
    ]
    assert (made.remove, made.replace, made.salt) == ([], False, app.store.salt)
    assert [key.name for key in mine.upsert] == ["mine"]
    assert (revoked.upsert, revoked.remove) == ([], [made.upsert[0].access_key])


def test_instances_are_drained_and_resumed(tmp_path: Path) -> None:
    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            assert client.drain("a-1").warnings == ["It was the last."]
            assert client.resume("a-1") == DrainReport(instances=[INSTANCE])
            with pytest.raises(InstanceNotFound):
                client.drain("a-2")

    with_server(tmp_path, scenario)


def test_a_model_whose_edit_is_being_carried_out_says_how_far_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [
        ModelConfig(name="edited", backend="vllm", replicas=2),
        ModelConfig(name="calm", backend="vllm"),
        ModelConfig(name="far", backend="external", urls=["http://far:1"]),
    ]
    old, new = (
        Replica(ReplicaSlot("edited", n), models[0], BACKENDS["vllm"], id=f"e-{n}", created=9.0)
        for n in range(2)
    )
    old.edited, new.generation = True, 2
    generations = {"edited": Generations(2, 1), "calm": Generations(1, 1)}
    outlooks = {"calm": Outlook(settled=False, given_up=True, retired=["c-0", "c-1"])}
    told = model_statuses(Config(models=models), [old, new], {}, generations, {}, outlooks)
    assert [(one.settled, one.given_up, one.retired) for one in told] == [
        (True, False, []),
        (False, True, ["c-0", "c-1"]),
        (True, False, []),
    ]
    assert [(one.generation, one.observed_generation) for one in told] == [
        (2, 1),
        (1, 1),
        (None, None),
    ]
    assert [(one.generation, one.outdated) for one in told[0].instances] == [(1, True), (2, False)]
    found = msgspec.structs.replace(STATUS, models=told)
    monkeypatch.setattr(FakeApp, "status", lambda _: found)
    with_server(tmp_path, lambda _: instances.status(tmp_path, as_json=False))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "generation" in line] == [
        "edited: generation 2 is not carried out yet; the last one that was: 1.",
        "edited: An edit is being carried out. Instances of generation 2: 1; older ones: 1.",
    ]
    retired = "Instances that are retired, and still have requests or are being ended: 2."
    assert f"calm: {retired}" in lines
    new.state = "error"
    failing = model_statuses(Config(models=models), [old, new], {}, generations)[0].state_message
    assert failing.endswith(
        "older ones: 1. The new one fails, and the older ones serve on: write "
        "the model otherwise, or take the edit back."
    )
    old.state, new.state = "error", "running"
    calm = model_statuses(Config(models=models), [old, new], {}, generations)[0].state_message
    assert "fails" not in calm, "the old one's failure is none of the edit's"


def test_an_engine_that_has_ended_is_nowhere() -> None:
    model = ModelConfig(name="a", backend="vllm")
    slot, backend = ReplicaSlot("a", 0), BACKENDS["vllm"]
    one = Replica(slot, model, backend, id="a-1", created=9.0, address="unix:/a.sock")
    for state, address in (("running", "unix:/a.sock"), ("error", "")):
        one.state = state  # type: ignore[assignment]
        assert instance_status(one, None).address == address


@pytest.mark.parametrize("what", ["state_message", "last_failure"])
def test_no_terminal_obeys_what_an_engine_wrote_last(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
) -> None:
    told = {what: "It wrote last: \x1b]0;title\x07\x9b2J\nx", "last_failure_at": 9.0}
    one = msgspec.structs.replace(INSTANCE, **told)
    model = msgspec.structs.replace(STATUS.models[0], instances=[one])
    found = msgspec.structs.replace(STATUS, models=[model])
    monkeypatch.setattr(FakeApp, "status", lambda _: found)
    with_server(tmp_path, lambda _: instances.status(tmp_path, as_json=False))
    page = capsys.readouterr().out
    assert all(line.isprintable() for line in page.splitlines()), page
    assert "It wrote last: \\x1b]0;title\\x07\\x9b2J\\nx" in page


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.create_key("a\udcff"),
        lambda client: client.create_key("a", Grant(allowed_models=["m\udcff"])),
        lambda client: client.revoke_key("a\udcff"),
        lambda client: client.drain("a\udcff"),
    ],
)
def test_what_is_no_text_is_a_mistake_of_who_typed_it(
    tmp_path: Path, ask: Callable[[ControlClient], object]
) -> None:
    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            with pytest.raises(UsageError, match="is not UTF-8"):
                ask(client)
            assert client.list_keys() == []

    with_server(tmp_path, scenario)


def test_an_error_of_the_system_in_a_command_is_told_and_the_connection_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: FakeApp) -> ServerStatus:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(FakeApp, "status", full)

    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            with pytest.raises(ControlError, match="could not do it: Too many open files"):
                client.status()
            assert client.list_keys() == []

    with_server(tmp_path, scenario)


def test_a_mistake_in_a_command_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FakeApp, "status", lambda _: int("no number"))

    def scenario(path: Path) -> None:
        with ControlClient(path) as client, pytest.raises(ControlError):
            client.status()
        with ControlClient(path) as client:
            assert client.list_keys() == []

    with_server(tmp_path, scenario)
    assert caplog.messages[0] == "A command was not carried out, by a mistake."
    assert not any("more than" in line for line in caplog.messages)


def test_the_control_socket_accepts_again_after_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(faults, "BEGIN_AGAIN_AFTER", 0.0)
    converse = ControlServer._converse

    def fails_once(server: ControlServer, connection: socket.socket) -> object:
        monkeypatch.setattr(ControlServer, "_converse", converse)
        connection.close()
        return 1 / 0

    monkeypatch.setattr(ControlServer, "_converse", fails_once)

    def scenario(path: Path) -> None:
        with ControlClient(path) as client, pytest.raises(ControlError):
            client.list_keys()
        with ControlClient(path) as client:
            assert client.list_keys() == []

    with_server(tmp_path, scenario)
    assert caplog.messages[0] == "The control socket ended by a mistake; going on."


def test_the_disk_has_a_new_key_before_the_data_plane_and_a_revoked_one_after_it(
    tmp_path: Path,
) -> None:
    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            client.create_key("a")
            client.revoke_key("a")

    _, app = with_server(tmp_path, scenario)
    assert app.on_disk == [["a"], ["a"]]
    assert b'"name": "a"' not in app.directory.keys_file.read_bytes()


def test_a_rejected_operation_raises_on_the_client_s_side_what_the_store_raised(
    tmp_path: Path,
) -> None:
    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            client.create_key("a")
            with pytest.raises(KeyNameTaken, match="There is a key named `a` already"):
                client.create_key("a")
            with pytest.raises(KeyNotFound):
                client.revoke_key("b")
            with pytest.raises(UsageError, match="16 to 1024 characters"):
                client.create_key("c", text="short")
            assert [key.name for key in client.list_keys()] == ["a"]

    _, app = with_server(tmp_path, scenario)
    assert len(app.changes) == 1


def test_a_full_disk_is_told_to_the_client_and_the_data_plane_hears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(path: Path) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with ControlClient(path) as client, monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match="The disk is full"):
                client.create_key("a")

    _, app = with_server(tmp_path, scenario)
    assert app.changes == [] and app.store.keys == []


def test_changes_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    app = FakeApp(tmp_path)

    async def run() -> None:
        await asyncio.gather(*(app.keys.create(f"k{number}") for number in range(20)))
        await asyncio.gather(*(app.keys.revoke(f"k{number}") for number in range(0, 20, 2)))

    asyncio.run(run())
    assert len(Store(app.directory).keys) == 10
    assert [len(names) for names in app.on_disk] == [*range(1, 21), *[20] * 10]


def test_a_client_that_goes_away_does_not_stop_a_change_half_way(tmp_path: Path) -> None:
    app = FakeApp(tmp_path)

    async def run() -> None:
        await app.keys.create("a")
        change = asyncio.ensure_future(app.keys.revoke("a"))
        await asyncio.sleep(0)
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(run())
    assert Store(app.directory).keys == []
    assert app.changes[1].remove == [app.changes[0].upsert[0].access_key]


def test_all_keys_are_published_after_a_start(tmp_path: Path) -> None:
    app = FakeApp(tmp_path)

    async def run() -> None:
        await app.keys.create("a")
        await app.keys.create("b")
        app.keys.publish_all()

    asyncio.run(run())
    everything = app.changes[-1]
    assert everything.replace and [key.name for key in everything.upsert] == ["a", "b"]


def test_the_management_api_s_question_is_settled_from_the_store(tmp_path: Path) -> None:
    app = FakeApp(tmp_path)

    async def run() -> None:
        created = await app.keys.create("a")
        assert app.keys.authenticate(created.text) == created.info
        assert app.keys.authenticate(created.text + "0") is None

    asyncio.run(run())


# The socket

ASK = """
import sys
from pathlib import Path
from gpustack_fast.control.client import ControlClient
for _ in sys.stdin:
    with ControlClient(Path(sys.argv[1])) as client:
        print(len(client.list_keys()), flush=True)
"""


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_command_is_obeyed_though_no_descriptor_is_left(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    def scenario(path: Path) -> list[str]:
        taken: list[int] = []
        command = [sys.executable, "-c", ASK, str(path)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            replies = []
            with limited(0, resource.RLIMIT_NOFILE, child.stdout.fileno() + 10):
                with contextlib.suppress(OSError):
                    while True:
                        taken.append(os.open("/", os.O_PATH))
                for _ in range(3):
                    child.stdin.write("go\n")
                    child.stdin.flush()
                    replies.append(child.stdout.readline())
                for descriptor in taken:
                    os.close(descriptor)
            child.stdin.close()
        return replies

    replies, _ = with_server(tmp_path, scenario, loop)
    assert replies == ["0\n"] * 3


def test_the_socket_is_for_its_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    def scenario(path: Path) -> tuple[int, int]:
        return stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)

    modes, app = with_server(tmp_path, scenario)
    assert modes == (0o600, 0o700)
    assert not app.directory.control_socket.exists()
    with pytest.raises(NoServer, match="Start one with `gpustack-fast serve`"):
        ControlClient(app.directory.control_socket)


def test_a_dead_server_s_socket_is_replaced(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.acquire()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(directory.control_socket))
    dead.close()
    directory.release()
    with pytest.raises(NoServer):
        ControlClient(directory.control_socket)

    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            assert client.list_keys() == []

    with_server(tmp_path, scenario)


def test_a_file_in_the_way_is_reported_and_kept(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "control.sock").write_text("precious")
    with pytest.raises(ControlError, match="is no socket"):
        with_server(tmp_path, lambda path: None)
    assert (tmp_path / "run" / "control.sock").read_text() == "precious"


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"{}\n",
        b'{"operation":"keys.steal"}\n',
        b'{"operation":"status","x":1}\n',
        b"\xff\n",
        b'{"x":' + b"[" * 5000 + b"\n",
        b"\n",
    ],
)
def test_a_request_that_nobody_knows_gets_a_response_and_the_connection_lives_on(
    tmp_path: Path, line: bytes
) -> None:
    def scenario(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as raw, raw.makefile("rb") as lines:
            raw.connect(str(path))
            raw.sendall(line)
            assert lines.readline().startswith(
                b'{"error":{"kind":"ControlError","message":"The control socket got a req'
            )
            raw.sendall(b'{"operation":"keys.list"}\n')
            assert lines.readline() == b'{"result":[]}\n'

    with_server(tmp_path, scenario)


def test_a_line_without_end_closes_the_connection_and_not_the_server(tmp_path: Path) -> None:
    def scenario(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                for _ in range(100_000):
                    raw.sendall(b"x" * 1000)
        with ControlClient(path) as client:
            assert client.list_keys() == []

    with_server(tmp_path, scenario)


def test_a_client_that_leaves_in_the_middle_of_a_line_harms_nobody(tmp_path: Path) -> None:
    def scenario(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.sendall(b'{"operation":"keys.cre')
        with ControlClient(path) as client:
            assert client.list_keys() == []

    with_server(tmp_path, scenario)


def test_the_server_ends_while_a_client_is_connected(tmp_path: Path) -> None:
    def scenario(path: Path) -> ControlClient:
        client = ControlClient(path)
        assert client.list_keys() == []
        return client

    client, _ = with_server(tmp_path, scenario)
    with client, pytest.raises(ControlError, match=r"closed the connection|did not respond"):
        client.list_keys()


def test_a_connection_that_was_lost_is_made_anew_for_the_status(tmp_path: Path) -> None:
    """As where a command waits for something while the server's process changes."""

    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            before = client.status()
            client._socket.shutdown(socket.SHUT_RDWR)
            assert client.status() == before
            client._socket.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ControlError):
                client.create_key("once")  # it may have been done

    with_server(tmp_path, scenario)


def test_a_socket_that_cannot_be_removed_keeps_no_stop_from_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario(path: Path) -> ControlClient:
        client = ControlClient(path)
        assert client.list_keys() == []
        path.unlink()
        path.mkdir()
        return client

    client, _ = with_server(tmp_path, scenario)
    with client, pytest.raises(ControlError, match=r"closed the connection|did not respond"):
        client.list_keys()
    (told,) = caplog.messages
    assert told == (
        f"The socket {tmp_path}/run/control.sock could not be removed: Is a directory. "
        "Remove it before the next start, if that cannot."
    )


def test_a_process_of_another_user_gets_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder's rights alone would stop a stranger; here they are opened, so that the second lock
    # is seen to hold.
    stranger = 65534 if os.geteuid() == 0 else os.geteuid()
    if stranger == os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: stranger + 1)

    def scenario(path: Path) -> bytes:
        path.parent.parent.chmod(0o755)
        path.parent.chmod(0o755)
        path.chmod(0o666)
        return ask_as(stranger, path)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        response, app = with_server(Path(folder), scenario)
    assert response == b"closed"
    assert app.changes == []


def ask_as(user: int, path: Path) -> bytes:
    """The response to a process of a user; `closed` when the server hangs up without a word."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setresuid(user, user, user)
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(path))
                try:
                    raw.sendall(b'{"operation":"keys.create","name":"stolen"}\n')
                    os.write(writer, raw.recv(1000) or b"closed")
                except (BrokenPipeError, ConnectionResetError):
                    os.write(writer, b"closed")
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as response:
        return response.read()


def test_a_command_that_takes_no_response_keeps_no_stop_waiting(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "_TAKEN_WITHIN", 3600.0)
    silent = socket.socket(socket.AF_UNIX)

    def scenario(path: Path) -> None:
        silent.connect(str(path))
        silent.settimeout(0.5)
        # Until the server reads no more, since it waits for its responses to be taken.
        with pytest.raises(TimeoutError):
            while True:
                silent.sendall(msgspec.json.encode(Status()) + b"\n")

    with silent:
        with_server(short_folder, scenario)


def test_a_command_that_has_sent_its_last_request_gets_the_response(short_folder: Path) -> None:
    def scenario(path: Path) -> bytes:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            one.sendall(msgspec.json.encode(Status()) + b"\n")
            one.shutdown(socket.SHUT_WR)
            return one.makefile("rb").read()

    assert b'"pid":7' in with_server(short_folder, scenario)[0]


def test_a_command_that_meets_the_change_of_the_process_is_repeated_at_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TRY_AGAIN_AFTER", 0.0)

    def scenario(path: Path) -> HandedOver:
        with ControlClient(path) as one:
            return one.hand_over(None, 1.0)

    done, app = with_server(tmp_path, scenario)
    assert (done.pid, app.tries) == (2, 3)


def test_a_mistake_in_a_configuration_comes_with_its_place_and_each_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ConfigError("There is no key `prot`.", Path("/etc/a.toml"), 2)
    other = ConfigError("There is no key `hots`.", Path("/etc/a.toml"), 3)
    raised: list[ConfigError] = [one, Mistakes([one, other])]

    async def refused(self: object, file: str, *, dry_run: bool) -> ApplyReport:
        assert (file, dry_run) == ("/etc/a.toml", True)
        raise raised.pop(0)

    monkeypatch.setattr(FakeApp, "apply", refused)

    def scenario(path: Path) -> None:
        with ControlClient(path) as client:
            for told in ([one], [one, other]):
                with pytest.raises(ConfigError) as found:
                    client.apply("/etc/a.toml", dry_run=True)
                assert [str(each) for each in found.value.each()] == [str(each) for each in told]
                assert found.value.exit_status == 2

    with_server(tmp_path, scenario)


def test_the_events_of_what_is_there_are_shown_and_the_newest_of_each_model() -> None:
    model = ModelConfig(name="a", backend="vllm")
    here = Replica(ReplicaSlot("a", 0), model, BACKENDS["vllm"], id="a-here", created=9.0)

    def event(number: int, name: str, instance: str) -> Event:
        return Event(time=float(number), model=name, instance=instance, what="started")

    first = event(0, "a", "a-here")
    old = [event(number, "a", "a-old") for number in range(1, 50)]
    gone = [event(number, "gone", "gone-1") for number in range(50, 60)]
    told = shown_events([first, *old, *gone], Config(models=[model]), [here])
    assert told == [first, *old[-10:]]
