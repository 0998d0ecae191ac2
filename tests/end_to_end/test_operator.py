"""What an operator sees and does on a running server: `status`, `drain` and `resume`."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from gpustack_fast.control.client import ControlClient
from gpustack_fast.storage.data_directory import DataDirectory
from harness import ENDED_WITHIN, SMOLLM2, STARTED_WITHIN, FakeEngine, ServedRouter, cli, external
from raw_http import chat, eventually

Engines = Callable[..., list[FakeEngine]]
Serve = Callable[..., ServedRouter]

SILENT_MID_STREAM = {"fault": {"how": "stall", "at": "at_frame", "after": 2}}


def command(server: ServedRouter, *arguments: str) -> list[str]:
    return [*cli(), *arguments, "--data-dir", str(server.data_dir)]


def run(server: ServedRouter, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(server, *arguments),
        capture_output=True,
        text=True,
        timeout=ENDED_WITHIN,
        env=server.environment,
        check=False,
    )


def shown(server: ServedRouter) -> dict[str, Any]:
    """The document of `status --json`, asked without a process of its own."""
    with ControlClient(DataDirectory(server.data_dir).control_socket) as client:
        document: dict[str, Any] = msgspec.to_builtins(client.status())
    return document


def instances(server: ServedRouter) -> dict[str, dict[str, Any]]:
    """The instances of all models, by name."""
    return {one["name"]: one for model in shown(server)["models"] for one in model["instances"]}


def states(server: ServedRouter) -> dict[str, str]:
    return {name: one["state"] for name, one in instances(server).items()}


def test_status_tells_of_the_server_its_models_and_why_something_does_not_run(
    fake_engines: Engines, serve: Serve
) -> None:
    engines = fake_engines(2)
    server = serve(external(engines))
    eventually(lambda: set(states(server).values()) == {"running"}, "both to be reached")
    with server.client() as client:
        server.send_chat(client, chat(stream=True, fake=SILENT_MID_STREAM))
        client.read_until(b"Hello")
        document = json.loads(run(server, "status", "--json").stdout)
        assert document.keys() == shown(server).keys()
        assert (document["phase"], document["not_ready"]) == ("serving", None)
        assert document["addresses"] == [server.address]
        assert document["pid"] == server.process.pid
        (model,) = document["models"]
        assert (model["name"], model["replicas"], model["ready_replicas"]) == ("m", 2, 2)
        assert sum(one["in_flight"] for one in model["instances"]) == 1
        assert [one["address"] for one in model["instances"]] == [e.address for e in engines]
    page = run(server, "status")
    assert page.returncode == 0, page.stderr
    assert f"{server.address}: ready" in page.stdout
    assert "MODEL" in page.stdout and "m-0" in page.stdout
    for engine in engines:
        engine.kill()
    eventually(lambda: set(states(server).values()) == {"unreachable"}, "both to be missed")
    page = run(server, "status")
    assert page.returncode == 1
    assert "not ready: no model has a running instance" in page.stdout
    assert f"m-1: Nobody can be reached at {engines[1].address}" in page.stdout


def test_status_shows_the_requests_to_which_an_instance_answers_that_it_fails(
    fake_engines: Engines, serve: Serve
) -> None:
    engines = fake_engines(2)
    server = serve(external(engines))
    eventually(lambda: set(states(server).values()) == {"running"}, "both to be reached")
    engines[1].defaults(status=500, error="CUDA error")
    statuses = [server.chat(chat()).status for _ in range(60)]
    failed = statuses.count(500)
    assert 1 <= failed < 15, "it is passed over, and nothing is sent twice"
    found = instances(server)
    assert [found[name]["failures"] for name in ("m-0", "m-1")] == [0, failed]
    assert set(states(server).values()) == {"running"}, "an answer ends no engine"
    assert "responded with status 500" in server.output()
    assert "CUDA error" not in server.output(), "an answer's body is in no log"


def test_many_engines_that_change_at_once_are_not_a_table_each(serve: Serve) -> None:
    urls = [f"unix:/nonexistent/{number}.sock" for number in range(300)]
    model = f'[[models]]\nname = "m"\nbackend = "external"\nurls = {json.dumps(urls)}\n'
    server = serve(model, wait=False)
    eventually(DataDirectory(server.data_dir).control_socket.is_socket, "the control socket")
    eventually(lambda: set(states(server).values()) == {"unreachable"}, "all to be tried")
    # In one go, they are two: before and after.
    assert 1 <= server.output().count("dataplane table published") < len(urls) / 2


def test_a_certificate_that_ends_soon_is_warned_of(
    fake_engines: Engines, serve: Serve, tmp_path: Path
) -> None:
    certificate = tmp_path / "certificate.pem"
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3, hours=1)
    key = write_certificate(certificate, soon)
    tls = f'[server]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    server = serve(tls + external(fake_engines(1)), wait=False)
    eventually(lambda: "Ready: https://" in server.output(), "the server to be ready")
    assert shown(server)["certificate_expires"] == int(soon.timestamp())
    page = run(server, "status")
    assert shown(server)["certificate_begins"] < soon.timestamp()
    assert f"Certificate: {certificate}, valid until 20" in page.stdout
    assert page.stderr.startswith("warning: The certificate expires in 3 days. Renew its files")
    assert page.returncode == 0
    later = soon + datetime.timedelta(days=30)
    write_certificate(certificate, later)
    os.kill(server.process.pid, signal.SIGHUP)
    renewed = int(later.timestamp())
    eventually(lambda: shown(server)["certificate_expires"] == renewed, "the renewed one")
    page = run(server, "status", "--json")
    assert (page.stderr, json.loads(page.stdout)["certificate_expires"]) == ("", renewed)


def write_certificate(file: Path, not_after: datetime.datetime) -> Path:
    """Makes a certificate for this machine, and returns the file of its key."""
    issued = trustme.CA().issue_cert("127.0.0.1", "localhost", not_after=not_after)
    key = file.with_name("key.pem")
    key.write_bytes(issued.private_key_pem.bytes())
    file.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    return key


def test_a_failed_request_is_the_last_failure_of_its_instance(
    fake_engines: Engines, serve: Serve
) -> None:
    engine = fake_engines(1)[0]
    server = serve(external([engine]))
    fault = {"fault": {"how": "close", "at": "before_head"}}
    assert server.chat(chat(fake=fault)).status == 502
    eventually(lambda: instances(server)["m-0"]["last_failure"].startswith("died: "), "the reason")
    found = instances(server)["m-0"]
    assert (found["state"], found["failures"]) == ("running", 2), "it was asked again"
    assert "m-0 failed last at" in run(server, "status").stdout


def test_a_drained_instance_ends_its_requests_and_gets_no_new_ones(
    fake_engines: Engines, serve: Serve
) -> None:
    first, second = engines = fake_engines(2)
    server = serve(external(engines))
    eventually(lambda: set(states(server).values()) == {"running"}, "both to be reached")
    assert run(server, "drain", second.address).returncode == 0
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(server.client())
        server.send_chat(client, chat(stream=True, fake=SILENT_MID_STREAM))
        client.read_until(b"Hello")
        assert len(first.inference()) == 1, "the other one is out"
        assert run(server, "resume", "m-1").returncode == 0
        waiting = stack.enter_context(
            subprocess.Popen(command(server, "drain", "m-0"), stdout=subprocess.PIPE, text=True)
        )
        eventually(lambda: states(server)["m-0"] == "draining", "the drain to begin")
        assert waiting.poll() is None, "a request still runs"
        assert [server.chat(chat()).status for _ in range(8)] == [200] * 8
        assert len(first.inference()) == 1
        first.go_on()
        client.read_until(b"[DONE]")
        output, _ = waiting.communicate(timeout=ENDED_WITHIN)
    assert (waiting.returncode, output) == (0, "m-0 is drained; requests in flight: 0.\n")
    assert states(server) == {"m-0": "drained", "m-1": "running"}
    assert "m-0 is drained: it gets no requests until" in run(server, "status").stdout
    assert 'instance="m-0",state="drained"} 1' in server.metrics()
    assert {one["state"] for one in server.models()[0]["instances"]} == {"drained", "running"}
    # Every change of another instance publishes a new table.
    second.kill()
    eventually(lambda: states(server)["m-1"] == "unreachable", "the other one to be missed")
    assert server.chat(chat()).status == 503
    assert run(server, "resume", "m-0").stdout == "m-0 is running; requests in flight: 0.\n"
    assert server.chat(chat()).status == 200


def test_a_drain_that_is_interrupted_says_that_the_instance_stays_drained(
    fake_engines: Engines, serve: Serve
) -> None:
    server = serve(external(fake_engines(2)))
    eventually(lambda: set(states(server).values()) == {"running"}, "both to be reached")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(2)]
        for client in clients:
            server.send_chat(client, chat(stream=True, fake=SILENT_MID_STREAM))
            client.read_until(b"Hello")
        drain = command(server, "drain", "m-0")
        waiting = stack.enter_context(
            subprocess.Popen(drain, stderr=subprocess.PIPE, text=True, env=server.environment)
        )
        eventually(lambda: states(server)["m-0"] == "draining", "the drain to begin")
        waiting.send_signal(signal.SIGINT)
        _, complaint = waiting.communicate(timeout=ENDED_WITHIN)
        assert waiting.returncode == 130
        assert "m-0 stays drained" in complaint and "`gpustack-fast resume m-0`" in complaint
        assert "Traceback" not in complaint
        assert states(server)["m-0"] == "draining"


def test_a_drain_in_the_background_is_not_interrupted(fake_engines: Engines, serve: Serve) -> None:
    engine, _ = engines = fake_engines(2)
    server = serve(external(engines))
    eventually(lambda: set(states(server).values()) == {"running"}, "both to be reached")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(2)]
        for client in clients:
            server.send_chat(client, chat(stream=True, fake=SILENT_MID_STREAM))
            client.read_until(b"Hello")
        # So a shell starts what is to run on behind a Ctrl-C.
        ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
        waiting = stack.enter_context(
            subprocess.Popen([*ignoring, *command(server, "drain", "m-0")], env=server.environment)
        )
        eventually(lambda: states(server)["m-0"] == "draining", "the drain to begin")
        waiting.send_signal(signal.SIGINT)
        engine.go_on()
        assert waiting.wait(timeout=ENDED_WITHIN) == 0
    assert states(server)["m-0"] == "drained"


def test_the_last_instance_may_be_drained_after_a_warning(
    fake_engines: Engines, serve: Serve
) -> None:
    server = serve(external(fake_engines(1)))
    with server.client() as client:
        server.send_chat(client, chat(stream=True, fake=SILENT_MID_STREAM))
        client.read_until(b"Hello")
        done = run(server, "drain", "m-0", "--timeout", "1s", "--json")
        assert done.returncode == 1
        assert "warning: No other instance of m runs" in done.stderr
        assert "requests still run there: 1" in done.stderr
        assert json.loads(done.stdout)["instances"][0]["state"] == "draining"
        at_once = run(server, "drain", "m-0", "--timeout", "0s")
        assert at_once.returncode == 1
        assert "After 0 s requests still run there: 1." in at_once.stderr
        assert at_once.stdout == "m-0 is draining; requests in flight: 1.\n"
        assert run(server, "drain", "m-0", "--no-wait").returncode == 0
    eventually(lambda: states(server) == {"m-0": "drained"}, "the request to end")
    assert server.request("GET", "/readyz").status == 503
    assert run(server, "status").returncode == 1
    refused = server.chat(chat())
    assert refused.status == 503 and "drained" in refused.json()["error"]["message"]
    assert run(server, "resume", "m-0").returncode == 0
    assert server.request("GET", "/readyz").status == 200


def test_what_is_not_there_is_said(fake_engines: Engines, serve: Serve, tmp_path: Path) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]))
    other_name = engine.address.replace("127.0.0.1", "localhost")
    for order, which in itertools.product(("drain", "resume"), ("m-7", other_name)):
        wrong = run(server, order, which)
        assert wrong.returncode == 1
        assert f"There is no instance or address {which}." in wrong.stderr
        assert f"m-0 ({engine.address})" in wrong.stderr
    for words in (["status"], ["status", "--json"], ["drain", "m-0"], ["resume", "m-0"]):
        nobody = subprocess.run(
            [*cli(), *words, "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            env=os.environ,
            check=False,
        )
        assert (nobody.returncode, nobody.stdout) == (1, "")
        assert f"No server runs on the data directory {tmp_path}" in nobody.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was made there"


def test_a_real_engine_tells_of_its_health(smollm2: ServedRouter, serve: Serve) -> None:
    (engine,) = smollm2.engines()
    config = f"""
[[models]]
name = "m"
backend = "external"
engine = "llama_cpp"
urls = ["unix:{engine.socket}"]

[[models]]
name = "other"
backend = "external"
engine = "llama_cpp"
urls = ["unix:{engine.socket}"]
health_path = "/nowhere"
"""
    server = serve(config)
    eventually(lambda: set(states(server).values()) == {"running"}, "it to be reached")
    found = instances(server)
    assert found["m-0"]["state_message"] == ""
    assert "answers GET /nowhere with" in found["other-0"]["state_message"]


@pytest.fixture
def two_real_engines(serve: Serve) -> ServedRouter:
    server = serve(SMOLLM2.format(replicas=2))
    eventually(lambda: server.running() == 2, "both engines to run", STARTED_WITHIN)
    return server


def test_a_drained_engine_of_ours_stays_out_when_it_is_started_anew(
    two_real_engines: ServedRouter,
) -> None:
    server = two_real_engines
    drained, other = instances(server).values()
    assert run(server, "drain", drained["name"]).returncode == 0
    body = {"model": "default", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    assert [server.chat(body).status for _ in range(4)] == [200] * 4
    os.kill(drained["pid"], 9)
    eventually(
        lambda: (
            sorted(states(server).values()) == ["drained", "running"]
            and drained["name"] not in states(server)
        ),
        "its successor to be drained, too",
        STARTED_WITHIN,
    )
    (again,) = [one for one in instances(server).values() if one["name"] != other["name"]]
    assert (again["restart_count"], again["requests"]) == (1, 0)
    assert "signal 9" in again["last_failure"]
    assert run(server, "resume", again["name"]).returncode == 0
    assert set(states(server).values()) == {"running"}
