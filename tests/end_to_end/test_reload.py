"""Reloads: what changes while requests run, all of it or nothing, and nobody gets in meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certificates
import msgspec
import trustme

import seam_samples
from gpustack_fast.config import ServerConfig
from gpustack_fast.seam.settings import plane_settings
from harness import KEY, SMOLLM2, DataPlaneRouter, FakeEngine, ServedRouter, external
from raw_http import Client, build, chat, eventually

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]
Serve = Callable[..., ServedRouter]


# The data plane: settings come with a table.


def reload(plane: DataPlaneRouter, **settings: Any) -> None:
    """Publishes the table of now with these settings of `[server]`."""
    server = msgspec.convert(settings, ServerConfig)
    table = msgspec.structs.replace(plane.table(), settings=plane_settings(server))
    plane.plane.publish(table)


def test_limits_of_a_reload_hold_from_the_next_request_on_until_the_next_reload(
    plane: DataPlaneRouter,
) -> None:
    body = chat(text="x" * 2000)
    assert plane.chat(body).status == 200
    reload(plane, limits={"max_body_bytes": 1024})
    assert plane.chat(body).status == 413
    plane.publish()
    assert plane.chat(body).status == 413, "a table without settings leaves them as they are"
    reload(plane)
    assert plane.chat(body).status == 200


def test_timeouts_and_extras_of_a_reload_hold_from_the_next_request_on(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    assert plane.chat(chat()).header("server-timing") is not None
    reload(plane, timeouts={"first_frame": 0.05}, server_timing=False)
    engine.defaults(fault={"at": "before_head", "how": "stall"})
    late = plane.chat(chat())
    assert (late.status, late.header("server-timing")) == (504, None)


def test_a_request_that_waits_ends_under_the_settings_that_it_began_with(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    with plane.client() as client:
        request = build("POST", "/v1/chat/completions", chat(text="x" * 2000), key=KEY)
        client.send(request[:-200])
        eventually(lambda: plane.plane.stats().in_flight == 1, "the request to have begun")
        reload(plane, limits={"max_body_bytes": 1024}, server_timing=False)
        client.send(request[-200:])
        response = client.read_response()
    assert response.status == 200
    assert response.header("server-timing") is not None, "no half of each"


def test_other_origins_of_a_reload_are_granted_from_the_next_request_on(
    plane: DataPlaneRouter,
) -> None:
    def granted() -> str | None:
        origin = [("Origin", "https://a.example")]
        response = plane.request("GET", "/v1/models", headers=origin)
        return response.header("access-control-allow-origin")

    assert granted() is None
    reload(plane, cors={"origins": ["https://a.example"]})
    assert granted() == "https://a.example"
    reload(plane)
    assert granted() is None


def test_a_retry_does_not_follow_a_table_whose_engine_serves_what_the_caller_may_not_use(
    fake_engines: Engines, router: Routers
) -> None:
    """The body of a proxied request without a model is not read, and could name any."""
    (engine,) = fake_engines(1)
    limited = "limited-key-of-enough-length"
    routes = [
        seam_samples.route_entry("m", [seam_samples.target_entry()], generic_proxy=True),
        seam_samples.route_entry("s", [seam_samples.target_entry(served_name="lora")]),
    ]
    header = [("X-GPUStack-Model", "m")]
    request = build("POST", "/model/proxy/v1/x", {"input": "a"}, key=limited, headers=header)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(unanswered())
        plane = router([address], routes=routes[:1], timeouts={"connect": 3.0})
        plane.add_key("fedcba9876543210", limited, allowed_models=["m"])
        client = stack.enter_context(plane.client())
        client.send(request)
        eventually(lambda: plane.plane.stats().instances[0].outstanding == 1, "the first attempt")
        plane.addresses, plane.states = [address, engine.address], ["error", "running"]
        plane.routes = routes
        plane.publish()
        assert client.read_response().status == 504
        assert engine.received("/v1/x") == []
        client.send(request)
        assert client.read_response().status == 403, "nor may it begin with that table"
        plane.routes = routes[:1]
        plane.publish()
        client.send(request)
        client.read_response()
        assert len(engine.received("/v1/x")) == 1


@contextlib.contextmanager
def unanswered() -> Iterator[str]:
    """An address that takes no connection and refuses none: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# The whole product.


def hang_up(server: ServedRouter, config: str | None = None) -> str:
    """Writes a configuration, sends SIGHUP, and returns what the log says from then on."""
    before = len(server.output())

    def told() -> str | None:
        text = server.output()[before:]
        return text if re.search(r"Reloaded\. Changed: .*\n|Not reloaded, .*\n", text) else None

    if config is not None:
        server.config.write_text(config)
    server.process.send_signal(signal.SIGHUP)
    text: str = eventually(told, "the reload to be told")
    assert server.process.poll() is None, server.output()
    return text


def test_a_good_change_is_in_force_when_it_is_told(fake_engines: Engines, serve: Serve) -> None:
    one, other = fake_engines(2)
    server = serve(external([one]), "--timeouts-idle", "77")
    route = '[[routes]]\nname = "new"\ntargets = [{ model = "m" }]\n'
    changed = external([other]) + route
    told = hang_up(
        server, "[server]\nworkers = 3\n[server.limits]\nmax_body_bytes = 1024\n" + changed
    )
    assert "Reloaded. Changed: `limits.max_body_bytes`, the model `m`, the route `new`." in told
    assert "WARN  reload" in told and "until a restart: `workers`." in told
    assert server.chat(chat("new")).status == 200
    assert (len(one.inference()), len(other.inference())) == (0, 1)
    assert server.chat(chat("m", text="x" * 2000)).status == 413
    views = server.request("GET", "/v2/model-routes").json()["items"]
    assert [view["name"] for view in views] == ["m", "default", "new"]
    told = hang_up(server, "[server]\ntimeouts.idle = 5\n" + changed)
    assert "Changed: `limits.max_body_bytes`." in told, "the flag still wins over the file"
    assert "until a restart" not in told


def test_a_mistake_is_told_with_its_line_and_changes_nothing(
    fake_engines: Engines, serve: Serve
) -> None:
    one, other = fake_engines(2)
    server = serve(external([one]))
    wrong = "[server.limits]\nmax_body_bytes = 2000\nmax_nesting = 0\n" + external([other])
    told = hang_up(server, wrong)
    assert f"ERROR reload Not reloaded, and everything stays as it was. {server.config}:3: " in told
    assert server.chat(chat()).status == 200
    assert (len(one.inference()), len(other.inference())) == (1, 0)
    server.config.unlink()
    assert "cannot be read: No such file" in hang_up(server)
    assert server.chat(chat()).status == 200
    assert "Changed: nothing." in hang_up(server, external([one]))


def test_a_file_that_was_emptied_takes_no_model_away(fake_engines: Engines, serve: Serve) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]))
    for left, reason in (("", "The file is empty"), ("[server]\n", "The file has no model")):
        told = hang_up(server, left)
        assert f"everything stays as it was. {server.config}: {reason}" in told
        assert server.chat(chat()).status == 200


def test_the_metrics_of_faults_are_there_after_a_reload(
    fake_engines: Engines, serve: Serve
) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]))
    families = ("gpustack_fast_own_faults_total{", "gpustack_fast_unsaved_revocations ")

    def shown() -> list[bool]:
        text = server.request("GET", "/metrics").body.decode()
        return [family in text for family in families]

    assert shown() == [True, True]
    hang_up(server)
    assert shown() == [True, True]


def test_a_route_that_narrows_shuts_out_whom_it_does_not_name(
    fake_engines: Engines, serve: Serve
) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]))
    bob = server.keys("create", "bob").stdout.strip()
    assert server.chat(chat("default"), key=bob).status == 200
    narrow = 'access_policy = "allowed_keys"\nallowed_keys = ["alice"]\n'
    hang_up(server, external([engine]) + narrow)
    assert server.chat(chat("default"), key=bob).status == 403
    assert server.chat(chat("m"), key=bob).status == 200
    alice = server.keys("create", "alice").stdout.strip()
    assert server.chat(chat("default"), key=alice).status == 200


def test_a_secret_in_a_file_is_read_again_and_one_in_a_variable_is_kept(
    fake_engines: Engines, serve: Serve, tmp_path: Path
) -> None:
    (engine,) = fake_engines(1)
    secret = tmp_path / "secret"
    secret.write_text("first-secret\n")

    def config(place: str) -> str:
        return external([engine]).replace("served_name", f"{place}\nserved_name")

    def sent() -> str:
        assert server.chat(chat()).status == 200
        headers = {name.lower(): value for name, value in engine.last()["headers"]}
        return str(headers["authorization"])

    in_file, in_variable = f'api_key_file = "{secret}"', 'api_key_env = "ENGINE_KEY"'
    server = serve(config(in_file), environment={"ENGINE_KEY": "from-the-variable"})
    assert sent() == "Bearer first-secret"
    secret.write_text("second-secret\n")
    assert "Changed: the key of the engines of `m`." in hang_up(server)
    assert sent() == "Bearer second-secret"
    for _ in range(2):
        hang_up(server, config(in_variable))
        assert sent() == "Bearer from-the-variable", "also when it is taken a second time"
    secret.write_text("")
    told = hang_up(server, config(in_file))
    assert "Not reloaded" in told and "is empty or not there" in told
    assert sent() == "Bearer from-the-variable"
    assert "secret" not in re.sub(re.escape(str(secret)), "", server.output())


def test_a_renewed_certificate_is_taken_up_and_a_wrong_one_keeps_everything(
    fake_engines: Engines, serve: Serve, tmp_path: Path
) -> None:
    def issue() -> trustme.CA:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        (tmp_path / "c.pem").write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(tmp_path / "k.pem")
        return authority

    def is_trusted(authority: trustme.CA) -> bool:
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        host, port = server.address.removeprefix("http://").split(":")
        with Client(f"http://{host}:{port}") as client:
            try:
                with trust.wrap_socket(client.socket, server_hostname="127.0.0.1"):
                    return True
            except ssl.SSLCertVerificationError:
                return False

    first = issue()
    (engine,) = fake_engines(1)
    files = f'tls_certificate = "{tmp_path}/c.pem"\ntls_key = "{tmp_path}/k.pem"\n'
    config = f"[server]\n{files}" + external([engine])
    server = serve(config, wait=False)
    eventually(lambda: "Ready: https://" in server.output(), "the server to be ready")
    assert is_trusted(first)
    second = issue()
    assert "Changed: the certificate, which was renewed." in hang_up(server)
    assert "Changed: nothing." in hang_up(server)
    assert is_trusted(second) and not is_trusted(first)
    (tmp_path / "k.pem").write_text("no key")
    route = '[[routes]]\nname = "new"\ntargets = [{ model = "m" }]\n'
    told = hang_up(server, config + route)
    assert f"The TLS key file {tmp_path}/k.pem holds no private key in PEM" in told
    assert is_trusted(second)
    assert "routes=3" not in server.output(), "the route has not come either"


def test_other_files_of_a_certificate_change_nothing_before_a_restart(
    fake_engines: Engines, serve: Serve, tmp_path: Path
) -> None:
    def tls(folder: Path) -> str:
        folder.mkdir()
        certificate, key = certificates.issue(folder)
        return f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'

    models = external(fake_engines(1))
    server = serve(f"[server]\n{tls(tmp_path / 'first')}{models}", wait=False)
    eventually(lambda: "Ready: https://" in server.output(), "the server to be ready", 60)
    for files in (tls(tmp_path / "second"), ""):
        told = hang_up(server, f"[server]\n{files}{models}")
        assert "Changed: nothing." in told
        eventually(lambda: "until a restart: `tls_certificate`" in server.output(), "the line")


def test_a_certificate_that_clients_refuse_is_told_at_the_start_and_by_a_reload(
    fake_engines: Engines, serve: Serve, tmp_path: Path
) -> None:
    certificates.issue(tmp_path, begins=0, ends=1_000_000_000)
    files = f'tls_certificate = "{tmp_path}/c.pem"\ntls_key = "{tmp_path}/k.pem"\n'
    server = serve(f"[server]\n{files}" + external(fake_engines(1)), wait=False)
    eventually(lambda: "WARN  app The certificate has expired" in server.output(), "the line")
    certificates.issue(tmp_path, begins=4_000_000_000, ends=4_100_000_000)
    assert "Changed: the certificate, which was renewed." in hang_up(server)
    eventually(lambda: "WARN  reload The certificate is not valid" in server.output(), "the line")


def test_a_hang_up_while_the_server_starts_reloads_when_it_has_started(
    fake_engines: Engines, serve: Serve
) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]), wait=False)
    caught = f"/proc/{server.process.pid}/status"

    def is_caught() -> bool:
        # From the first line of the command on; before it there is nothing that could be left.
        mask = re.search(r"SigCgt:\t(\w+)", Path(caught).read_text())
        return mask is not None and bool(int(mask[1], 16) & 1 << signal.SIGHUP - 1)

    eventually(is_caught, "the signal to be caught")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "Reloaded. Changed: nothing." in server.output(), "the reload")
    server.wait_until_ready()
    assert server.stop() == 0, server.output()


def test_log_files_that_were_moved_are_opened_again(fake_engines: Engines, serve: Serve) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]))
    eventually(lambda: "\nReady: " in server.output(), "the last line of the start")
    moved = server.log.with_suffix(".1")
    for number in (signal.SIGUSR1, signal.SIGHUP):
        server.log.rename(moved)
        before = moved.read_text()
        server.process.send_signal(number)
        eventually(lambda: server.log.exists() and "opened again" in server.output(), "a new file")
        assert moved.read_text() == before, "nothing goes into the old one any more"
    server.log.rename(moved)
    os.mkdir(server.log)
    server.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "cannot be opened again: Is a directory" in moved.read_text(), "the reason")
    os.rmdir(server.log)
    server.process.send_signal(signal.SIGUSR1)
    eventually(server.log.exists, "a new file")
    assert server.is_ready()


def test_log_files_that_cannot_be_opened_again_are_not_told_as_opened(
    fake_engines: Engines, serve: Serve
) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]))
    moved = server.log.rename(server.log.with_suffix(".1"))
    server.log.mkdir()
    server.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "cannot be opened again" in moved.read_text(), "the reason")
    server.process.send_signal(signal.SIGUSR2)
    eventually(lambda: "asks for nothing now" in moved.read_text(), "what follows")
    assert "were opened again" not in moved.read_text()
    server.log.rmdir()
    server.process.send_signal(signal.SIGUSR1)
    eventually(lambda: server.log.exists() and "opened again." in server.output(), "the new one")


def test_signals_without_a_meaning_are_told_and_end_nothing(
    fake_engines: Engines, serve: Serve
) -> None:
    (engine,) = fake_engines(1)
    server = serve(external([engine]))
    told = [signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGSYS, signal.SIGTRAP]
    for number in (*told, signal.SIGPIPE):
        server.process.send_signal(number)
    for name in (number.name for number in told):
        eventually(lambda name=name: f"{name} came" in server.output(), name)
    assert server.is_ready()
    # Many at once, whose frames lie on one stack.
    server.process.send_signal(signal.SIGSTOP)
    for number in (*told, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)):
        server.process.send_signal(number)
    server.process.send_signal(signal.SIGCONT)
    eventually(lambda: "SIGRTMAX came" in server.output(), "the last one")
    server.process.send_signal(signal.SIGQUIT)
    assert server.wait() == 0, server.output()


def test_each_mistake_of_a_reload_is_a_line(fake_engines: Engines, serve: Serve) -> None:
    good = external(fake_engines(1))
    server = serve(good)
    files = 'tls_certificate = "/dev/zero"\ntls_key = "/"\n'
    hang_up(server, f"[server]\nprot = 1\n{files}" + good)
    for line, words in (
        (2, "There is no key `prot`"),
        (3, "The file /dev/zero of `tls_certificate` cannot be read: it is a device"),
        (4, "The file / of `tls_key` cannot be read: it is a directory"),
    ):
        told = f"Not reloaded, and everything stays as it was. {server.config}:{line}: {words}"
        eventually(lambda told=told: told in server.output(), told)
    server.config.unlink()
    server.config.symlink_to("/dev/zero")
    assert "config.toml: The configuration file cannot be read: it is a device" in hang_up(server)
    assert server.is_ready()


def test_a_crash_has_a_last_word(fake_engines: Engines, serve: Serve) -> None:
    server = serve(external(fake_engines(1)))
    server.process.send_signal(signal.SIGSEGV)
    assert server.wait() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in server.output()


def test_engines_of_ours_outlive_a_reload_and_end_with_the_terminal(
    serve: Serve, short_folder: Path
) -> None:
    controller, terminal = os.openpty()
    launch = (
        "import fcntl, os, sys, termios\n"
        "os.setsid()\n"
        f"terminal = os.open({os.ttyname(terminal)!r}, os.O_RDWR)\n"
        "fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)\n"
        "os.close(terminal)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'gpustack_fast', *sys.argv[1:]])\n"
    )
    config = SMOLLM2.format(replicas=1)
    server = serve(config, program=[sys.executable, "-c", launch])
    os.close(terminal)
    (engine,) = server.engines()
    told = hang_up(server, config.replace('"default"', '"other"'))
    assert "Changed: the route `other`, the route `default`." in told
    assert server.chat(chat("other", max_tokens=1)).status == 200
    assert server.chat(chat("default", max_tokens=1)).status == 404
    assert server.engines() == [engine]
    log = next((server.data_dir / "logs").rglob("*.log"))
    log.rename(log.with_suffix(".moved"))
    server.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "Let logrotate use `copytruncate`" in server.output(), "the hint")
    os.close(controller)
    assert server.wait() == 0, server.output()
    assert "The terminal has gone (SIGHUP); stopping." in server.output()
    assert server.engines() == []


# Nobody gets in between two states.

RELOADS = 100


def states(one: FakeEngine, other: FakeEngine) -> list[str]:
    """Two configurations that share nothing of how `r` is made, but for alice, who may use it."""
    model = '[[models]]\nname = "{0}"\nbackend = "external"\nurls = {1}\nserved_name = "m"\n'
    route = '[[routes]]\nname = "{0}"\ntargets = [{{ model = "{1}" }}]\n'
    listed = 'access_policy = "allowed_keys"\nallowed_keys = ["alice", "{0}"]\n'
    public = 'access_policy = "public"\n'
    return [
        model.format("m", f'["{one.address}"]')
        + route.format("r", "m")
        + listed.format("bob")
        + route.format("p", "m")
        + public,
        model.format("n", f'["{other.address}", "{one.address}"]')
        + listed.format("carol")
        + route.format("r", "n")
        + listed.format("carol")
        + route.format("q", "n")
        + listed.format("carol"),
    ]


class Asker(threading.Thread):
    """Asks for `r` with a right key, with a wrong one and without any, over and over."""

    def __init__(self, server: ServedRouter, alice: str, mallory: str) -> None:
        super().__init__()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.ended = False
        self._address = server.address
        self._requests = [
            (name, build("POST", "/v1/chat/completions", chat("r"), key=key))
            for name, key in (("right", alice), ("forbidden", mallory), ("none", None))
        ]

    def run(self) -> None:
        with Client(self._address) as client:
            while not self.ended:
                for name, request in self._requests:
                    client.send(request)
                    self.statuses[name, client.read_response().status] += 1


def test_no_forbidden_key_gets_through_and_no_good_one_fails_over_a_hundred_reloads(
    fake_engines: Engines, serve: Serve
) -> None:
    one, other = fake_engines(2)
    configurations = states(one, other)
    server = serve(configurations[0])
    keys = {name: server.keys("create", name).stdout.strip() for name in ("alice", "mallory")}
    askers = [Asker(server, keys["alice"], keys["mallory"]) for _ in range(4)]
    for asker in askers:
        asker.start()
    begun = time.monotonic()
    try:
        for number in range(1, RELOADS + 1):
            server.config.write_text(configurations[number % 2])
            server.process.send_signal(signal.SIGHUP)
            eventually(
                lambda number=number: server.output().count("Reloaded. Changed: ") == number,
                f"reload {number}",
            )
    finally:
        for asker in askers:
            asker.ended = True
        for asker in askers:
            asker.join()
    found = sum((asker.statuses for asker in askers), Counter())
    seconds = time.monotonic() - begun
    print(f"{found.total()} requests in {seconds:.1f} s: {found.total() / seconds:.0f}/s")
    assert set(found) == {("right", 200), ("forbidden", 403), ("none", 401)}, found
    assert min(found.values()) > RELOADS, "each state has met each of them"
    assert one.inference() and other.inference()
