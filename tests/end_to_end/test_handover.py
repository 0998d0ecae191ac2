"""`restart` and `upgrade` replace the server's process, and no client notices."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handovers import Succeeding, succeeding, wait_for_end
from harness import KEY, FakeEngine, external, held_port, read_gauge
from load import Load
from raw_http import Client, chat, eventually


@pytest.fixture
def engines(fake_engines: Callable[..., list[FakeEngine]]) -> list[FakeEngine]:
    return fake_engines(2)


@pytest.fixture
def served(engines: list[FakeEngine]) -> Iterator[Succeeding]:
    """A server over two engines."""
    with succeeding(external(engines)) as one:
        yield one


@pytest.mark.parametrize("command", ["restart", "upgrade"])
def test_another_process_serves_and_no_request_fails(served: Succeeding, command: str) -> None:
    with Load(served.address, KEY, "m", rate=200, streams=50, frames=60) as load:
        eventually(lambda: load.open_streams == 50 and load.succeeded("request") > 100, "load")
        before = served.pid()
        done = served.command(command)
        assert done["former_pid"] == before and done["pid"] == served.pid() != before
        assert done["addresses"] == [served.address]
        enough = load.succeeded("request") + 300
        eventually(lambda: load.succeeded("request") > enough, "load behind it")
    assert load.problems() == []
    assert load.succeeded("stream") >= 50
    assert served.ended() == 0


def test_a_client_that_keeps_its_connection_is_served_once_more_and_told_of_its_end(
    served: Succeeding,
) -> None:
    with served.client() as client:
        assert client.request("POST", "/v1/chat/completions", chat(), key=KEY).status == 200
        served.command("restart")
        response = client.request("POST", "/v1/chat/completions", chat(), key=KEY)
        assert (response.status, response.header("connection")) == (200, "close")
        assert client.is_closed()


SLOW_TO_SHOW = """
import time
from gpustack_fast.local_sockets import LocalSockets
show = LocalSockets.show
LocalSockets.show = lambda self: (time.sleep(0.5), show(self))
"""


def test_who_was_told_of_the_new_process_reaches_it(served: Succeeding) -> None:
    with served.control() as control:
        done = control.hand_over(served.interpreter(SLOW_TO_SHOW), 60.0)
    assert served.pid() == done.pid


def test_the_former_process_finishes_its_streams_and_then_leaves(
    served: Succeeding, engines: list[FakeEngine]
) -> None:
    with served.client() as client:
        served.open_stream(client)
        for _ in range(2):
            served.command("restart")
        assert served.process.poll() is None
        for engine in engines:
            engine.go_on()
        client.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert served.ended() == 0
    assert served.chat(chat()).status == 200


def test_keys_change_for_both_processes(served: Succeeding, engines: list[FakeEngine]) -> None:
    made = served.keys("create", "one").stdout.split()[-1]
    with served.client() as streaming, served.client() as kept:
        assert kept.request("POST", "/v1/chat/completions", chat(), key=KEY).status == 200
        served.key = made
        served.open_stream(streaming)
        served.command("restart")
        # A new key is known to the former process, too, which a kept connection belongs to.
        new = served.keys("create", "two").stdout.split()[-1]
        assert kept.request("POST", "/v1/chat/completions", chat(), key=new).status == 200
        assert served.keys("revoke", "one").returncode == 0
        assert b"revoked" in streaming.read_to_the_end()
    assert served.chat(chat(), key=made).status == 401


def test_what_changes_while_the_successor_starts_is_not_lost(
    served: Succeeding, engines: list[FakeEngine]
) -> None:
    made = {name: served.keys("create", name).stdout.split()[-1] for name in ("old", "kept")}
    with served.handing_over() as begun:
        new = served.keys("create", "new").stdout.split()[-1]
        assert served.keys("revoke", "old").returncode == 0
        with served.control() as control:
            control.drain(engines[0].address)
        served.config.write_text(served.config.read_text().replace('"default"', '"renamed"'))
        os.kill(served.process.pid, signal.SIGHUP)
        eventually(lambda: served.chat(chat(model="default")).status == 200, "as before")
        served.go()
        done = begun.result()
    assert served.pid() == done.pid
    assert [served.chat(chat(), key=one).status for one in (made["old"], made["kept"], new)] == [
        401,
        200,
        200,
    ]
    eventually(lambda: served.chat(chat(model="renamed")).status == 200, "the new name")
    (model,) = served.status().models
    assert sorted(one.drained for one in model.instances) == [False, True]
    assert model.instances[0].address == engines[0].address and model.instances[0].drained


def test_the_file_that_was_applied_last_is_read_and_one_that_is_applied_meanwhile_waits(
    served: Succeeding,
) -> None:
    for name in ("first", "second"):
        text = served.config.read_text().replace('"default"', f'"{name}"')
        (served.folder / f"{name}.toml").write_text(text)
    with served.control() as control:
        control.apply(str(served.folder / "first.toml"), dry_run=False)
    served.command("restart")
    assert served.chat(chat(model="first")).status == 200
    with served.handing_over() as begun, ThreadPoolExecutor(1) as pool:
        with served.control() as control:
            applying = pool.submit(control.apply, str(served.folder / "second.toml"), dry_run=False)
            served.go()
            begun.result()
            applying.result()
    assert served.chat(chat(model="second")).status == 200
    assert served.pid() == begun.result().pid


def test_a_revocation_that_cannot_be_saved_holds_in_the_new_process(served: Succeeding) -> None:
    made = served.keys("create", "one").stdout.split()[-1]
    keys = served.data_dir / "keys.json.new"
    keys.mkdir()  # where the new file would be written
    (keys / "x").touch()
    served.keys("revoke", "one")
    assert served.chat(chat(), key=made).status == 401
    served.command("restart")
    assert served.chat(chat(), key=made).status == 401
    assert "one" in (served.data_dir / "keys.json").read_text()
    (keys / "x").unlink()
    keys.rmdir()
    file = served.data_dir / "keys.json"
    eventually(lambda: '"one"' not in file.read_text(), "the revocation on the disk")


def test_another_port_is_listened_on_and_the_former_one_no_more(served: Succeeding) -> None:
    former, port = served.address, held_port(served)
    with served.control() as control:
        done = control.hand_over(served.interpreter(f'sys.argv += ["--port", "{port}"]'), 60.0)
    served.address = f"http://127.0.0.1:{port}"
    assert done.addresses == [served.address]
    assert served.chat(chat()).status == 200
    with pytest.raises(ConnectionRefusedError):
        Client(former)


def test_tokens_go_on_being_counted_and_those_of_the_former_process_are_added(
    served: Succeeding, engines: list[FakeEngine]
) -> None:
    def tokens() -> float:
        return read_gauge(served.metrics(), "gpustack_fast_tokens_total")

    assert served.chat(chat()).status == 200
    counted = eventually(tokens, "tokens")
    with served.client() as client:
        served.open_stream(client)
        served.command("restart")
        assert tokens() == counted
        for engine in engines:
            engine.go_on()
        client.read_until(b"data: [DONE]\n\n")
    assert served.ended() == 0
    eventually(lambda: tokens() > counted, "those of the stream")


def test_the_management_api_and_commands_are_those_of_the_new_process(served: Succeeding) -> None:
    with served.client() as kept:
        assert kept.request("GET", "/v2/models", key=KEY).status == 200
        served.command("restart")
        assert kept.request("GET", "/v2/models", key=KEY).status == 200
    assert served.ended() == 0
    assert served.request("GET", "/v2/models").status == 200
    assert sorted(
        path.name for path in (served.data_dir / "run").iterdir() if path.is_socket()
    ) == [
        "api.sock",
        "control.sock",
    ]


def test_a_stop_of_the_new_process_takes_the_former_one_with_it(
    engines: list[FakeEngine],
) -> None:
    with succeeding(external(engines, more="[server]\ndrain_timeout = 0.5\n")) as served:
        with served.client() as client:
            served.open_stream(client)
            pid = served.command("restart")["pid"]
            wait_for_end(pid, signal.SIGTERM)
            assert b"error" in client.read_to_the_end()
        assert served.ended() == 0


def test_processes_that_still_have_requests_heed_what_the_newest_is_told(
    engines: list[FakeEngine],
) -> None:
    with succeeding(external(engines, more="[server]\ndrain_timeout = 0.5\n")) as served:
        key = served.keys("create", "one").stdout.split()[-1]
        with served.client() as revoked, served.client() as client:
            served.open_stream(client)
            served.key = key
            served.open_stream(revoked)
            served.command("restart")
            newest = served.command("restart")["pid"]
            assert served.keys("revoke", "one").returncode == 0
            assert b"revoked" in revoked.read_to_the_end()
            wait_for_end(newest, signal.SIGTERM)
            assert b"error" in client.read_to_the_end()
        assert served.ended() == 0
        # The one between tells that it leaves before it has left.
        eventually(lambda: served.processes() == [], "the end of the second process")


def test_a_stop_of_the_former_process_cuts_what_does_not_end_in_time(
    engines: list[FakeEngine],
) -> None:
    with succeeding(external(engines, more="[server]\ndrain_timeout = 0.5\n")) as served:
        with served.client() as client:
            served.open_stream(client)
            served.command("restart")
            served.process.terminate()
            assert b"error" in client.read_to_the_end()
        assert served.ended() == 0
        assert served.chat(chat()).status == 200


IMPORTS = """
import os, sys
said = os.open({file!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(event, arguments):
    if event == "import":
        os.write(said, str(arguments[0]).encode() + b"\\n")

sys.addaudithook(note)
from gpustack_fast.__main__ import main
sys.exit(main())
"""
"""The program, which notes what it imports."""


def test_a_server_imports_nothing_once_it_is_asked_for_its_files_may_be_of_another_version(
    engines: list[FakeEngine], tmp_path: Path
) -> None:
    file = tmp_path / "imports"
    program = [sys.executable, "-c", IMPORTS.format(file=str(file))]
    with succeeding(external(engines), program=program) as served:
        assert served.chat(chat()).status == 200
        before = len(file.read_text().splitlines())
        assert before > 100
        good = served.config.read_text()
        served.config.write_text("")
        assert served.try_command("restart").returncode == 1
        served.config.write_text(good)
        with served.client() as client:
            served.open_stream(client)
            served.command("restart")
            for engine in engines:
                engine.go_on()
        assert served.ended() == 0
        assert file.read_text().splitlines()[before:] == []
