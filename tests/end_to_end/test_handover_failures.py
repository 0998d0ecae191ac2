"""A successor that is of no use, or that is killed: the server goes on, and no client notices."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpustack_fast.errors import ControlError
from handovers import Succeeding, succeeding, wait_for_end
from harness import KEY, FakeEngine, external
from load import Load
from raw_http import chat, eventually

KILLED_AT_READY = """
from gpustack_fast import app

async def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

app.become_ready = killed
"""
KILLED_BEFORE_IT_SERVES = """
from gpustack_fast.app import Server
Server._accept = lambda self: os.kill(os.getpid(), signal.SIGKILL)
"""
OTHER_WORDS = """
from gpustack_fast.handover.successor import Inheritance
Inheritance.tell_wait = Inheritance.tell_serving = lambda self, _: None
Inheritance.tell_error = lambda self, _: None

async def take_over(self):
    self._channel._writer.write(b"?\\n")
    await asyncio.sleep(1000)

Inheritance.take_over = take_over
"""


@pytest.fixture
def engines(fake_engines: Callable[..., list[FakeEngine]]) -> list[FakeEngine]:
    return fake_engines(1)


@pytest.fixture
def served(engines: list[FakeEngine]) -> Iterator[Succeeding]:
    with succeeding(external(engines)) as one:
        yield one


def refused(served: Succeeding, python: str, timeout: float = 60.0) -> str:
    """The reason why nothing is handed over to a process of this program, under load."""
    with Load(served.address, KEY, "m", rate=100, streams=20, frames=20) as load:
        eventually(lambda: load.open_streams == 20, "load")
        with served.control() as control, pytest.raises(ControlError) as caught:
            control.hand_over(python, timeout)
        enough = load.succeeded("request") + 100
        eventually(lambda: load.succeeded("request") > enough, "load behind it")
    assert load.problems() == []
    goes_on(served)
    return str(caught.value)


def goes_on(served: Succeeding) -> None:
    """The first process does all that it did, and nobody else is there."""
    assert served.processes() == []
    assert served.pid() == served.process.pid
    made = served.keys("create", "another").stdout.split()[-1]
    assert served.chat(chat(), key=made).status == 200
    assert served.keys("revoke", "another").returncode == 0
    assert served.chat(chat(), key=made).status == 401
    assert served.request("GET", "/v2/models").status == 200


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexit 3\n", "has ended with the status 3"),
        ("#!/bin/sh\nkill -9 $$\n", "was ended by SIGKILL"),
        (
            "#!/bin/sh\necho 'error: No module named gpustack_fast' >&2\nexit 1\n",
            "has ended with the status 1. It wrote: No module named gpustack_fast",
        ),
        (
            "#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' w >&2\necho ' Last words.' >&2\n",
            " Last words.",
        ),
        ("", "cannot be started: Exec format error"),
    ],
)
def test_a_program_that_ends_at_once(served: Succeeding, script: str, reason: str) -> None:
    told = refused(served, served.script(script))
    assert told.startswith("Nothing was handed over, and the server goes on as it was. ")
    assert reason in told


def test_an_interpreter_that_is_not_there(served: Succeeding) -> None:
    assert "No such file or directory" in refused(served, str(served.folder / "none"))


@pytest.mark.parametrize("ignoring", ["", "trap '' TERM; "])
def test_a_program_that_never_gets_ready_is_ended(served: Succeeding, ignoring: str) -> None:
    pid = served.folder / "pid"
    script = served.script(f"#!/bin/sh\n{ignoring}echo $$ > {pid}\nwhile :; do sleep 0.1; done\n")
    assert "did not take over within 1 s, and was ended" in refused(served, script, timeout=1.0)
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_version_that_says_what_nobody_knows(served: Succeeding) -> None:
    assert "says something unknown" in refused(served, served.interpreter(OTHER_WORDS))


@pytest.mark.parametrize("code", [KILLED_AT_READY, KILLED_BEFORE_IT_SERVES])
def test_a_successor_that_is_killed_on_its_way(served: Succeeding, code: str) -> None:
    assert "was ended by SIGKILL" in refused(served, served.interpreter(code))


def test_a_configuration_that_is_wrong_is_quoted_and_the_command_says_so(
    served: Succeeding,
) -> None:
    good = served.config.read_text()
    served.config.write_text(good + "\n[server.x]\n")
    done = served.try_command("restart")
    assert done.returncode == 1
    assert "the server goes on as it was" in done.stderr and "config.toml:" in done.stderr
    served.config.write_text("")  # an editor is just writing it
    assert "The file is empty" in served.try_command("restart").stderr
    served.config.write_text(good.replace('"m"', '"n"'))
    goes_on(served)
    served.command("restart")
    assert served.chat(chat(model="n")).status == 200


def test_a_successor_whose_engines_cannot_be_reached_does_not_take_over(
    served: Succeeding, engines: list[FakeEngine]
) -> None:
    before = served.config.read_text()
    served.config.write_text(before.replace(engines[0].address, "http://127.0.0.1:1"))
    python = served.interpreter("")
    told = refused(served, python, timeout=4.0)
    assert "did not take over within 4 s, and was ended. It waits for an instance of m." in told


def test_a_port_that_is_taken_is_told(engines: list[FakeEngine], served: Succeeding) -> None:
    with succeeding(external(engines)) as other:
        port = other.address.rpartition(":")[2]
        code = f'sys.argv += ["--port", "{port}"]'
        assert f"The port {port} of 127.0.0.1 is in use" in refused(
            served, served.interpreter(code)
        )


def test_one_hand_over_at_a_time(served: Succeeding) -> None:
    with served.handing_over() as begun:
        done = served.try_command("restart")
        assert done.returncode == 1 and "under way already" in done.stderr
        served.go()
        assert served.pid() in (begun.result().pid, begun.result().former_pid)


def test_a_stop_of_the_server_ends_a_successor_that_is_on_its_way(served: Succeeding) -> None:
    with served.handing_over() as begun:
        served.process.terminate()
        assert served.ended() == 0
        with pytest.raises(ControlError, match="told to stop"):
            begun.result()
    assert served.processes() == []


def test_a_successor_ends_when_the_server_is_killed_before_it_has_given_the_word(
    served: Succeeding,
) -> None:
    with served.handing_over() as begun:
        served.process.kill()
        served.process.wait()
        with pytest.raises(ControlError):
            begun.result()
    eventually(lambda: served.processes() == [], "the end of the successor")
    served.start()
    served.wait_until_ready()
    assert served.chat(chat()).status == 200


def test_the_new_process_serves_on_when_the_former_one_is_killed(
    served: Succeeding,
) -> None:
    with served.client() as client:
        served.open_stream(client)
        pid = served.command("restart")["pid"]
        served.process.kill()
        client.read_to_the_end()
    assert served.chat(chat()).status == 200 and served.pid() == pid


def test_streams_of_the_former_process_outlive_the_new_one(
    served: Succeeding, engines: list[FakeEngine]
) -> None:
    with served.client() as client:
        served.open_stream(client)
        wait_for_end(served.command("restart")["pid"], signal.SIGKILL)
        former = served.process
        # Somebody starts another one meanwhile.
        eventually(lambda: "Start a server anew" in served.output(), "a word about it")
        served.start()
        served.wait_until_ready()
        assert served.chat(chat()).status == 200
        engines[0].go_on()
        client.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert former.wait(60) == 1, "a service manager starts it again"


def test_a_server_can_be_started_however_many_former_ones_still_have_streams(
    served: Succeeding, engines: list[FakeEngine]
) -> None:
    with served.client() as first, served.client() as second:
        served.open_stream(first)
        served.command("restart")
        served.open_stream(second)
        wait_for_end(served.command("restart")["pid"], signal.SIGKILL)
        former = served.process
        served.start()
        served.wait_until_ready()
        assert served.chat(chat()).status == 200
        assert former.poll() is None
        for engine in engines:
            engine.go_on()
        for client in (first, second):
            client.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    former.wait(60)


def test_the_service_manager_is_told_which_process_serves(
    engines: list[FakeEngine], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with succeeding(external(engines), environment=environment) as served:
            first = served.process.pid
            assert manager.recv(100) == b"READY=1"
            with served.client() as client:
                served.open_stream(client)
                pid = served.command("restart")["pid"]
                told = {manager.recv(100), manager.recv(100)}
                assert told == {b"MAINPID=%d" % pid, b"READY=1"}
                wait_for_end(pid, signal.SIGKILL)
                assert manager.recv(100) == b"MAINPID=%d" % first
                engines[0].go_on()
                client.read_until(b"data: [DONE]\n\n")
            assert served.ended() == 1
