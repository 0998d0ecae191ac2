"""The seam: every field of every document passes both sides; the module loads late, on a thread."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from certificates import issue

import seam_samples
from gpustack_fast.backends import Dialect, ReasoningNames
from gpustack_fast.config import CorsConfig, LimitsConfig, TimeoutsConfig
from gpustack_fast.config.schema import (
    AccessPolicy,
    ModelTimeoutsConfig,
    StatusClass,
    SystemMessages,
)
from gpustack_fast.config.server import LogFormat, LogLevel
from gpustack_fast.engines.replica import InstanceState
from gpustack_fast.keys.store import Scope
from gpustack_fast.seam import documents
from gpustack_fast.seam.dataplane import DataPlane, DataPlaneError, __version__
from gpustack_fast.seam.documents import DataPlaneConfig
from limits import limited
from raw_http import DEADLINE, eventually

ROOT = Path(__file__).parents[3]
KEY = "seam-test-key-of-enough-length"
SALT = "00ff"

CONFIG = DataPlaneConfig(
    host="localhost",
    workers=2,
    control_socket="/nonexistent/api.sock",
    timeouts=TimeoutsConfig(
        head=1.001,
        keep_alive=1.006,
        body=1.002,
        send=1.007,
        connect=1.003,
        first_frame=1.004,
        idle=1.005,
        tcp_keepalive_idle=1.006,
        tcp_keepalive_interval=1.007,
        tcp_keepalive_probes=8,
        tcp_unacknowledged=1.009,
    ),
    limits=LimitsConfig(
        max_body_bytes=4096,
        body_rate=12,
        replay_bytes=1024,
        memory_bytes=2048,
        total_memory_bytes=65_536,
        spool_bytes=131_072,
        decoded_ratio=10,
        max_nesting=16,
        connections=8,
        connections_per_address=9,
        idle_connections=3,
        record_queue=8,
    ),
    response_extras=documents.ResponseExtras(
        server_timing=False,
        server_timing_in_streams=True,
        usage_timings=False,
        sse_keep_alive=1.006,
    ),
    cors=CorsConfig(
        origins=["https://a.example"],
        methods=["POST"],
        headers=["x-one"],
        expose=["x-two"],
        credentials=True,
        max_age=7,
    ),
    tls=None,
    spool_folder="/nonexistent/spool",
    responses_kept=5,
    log_level="warn",
    log_format="json",
    trusted_proxies=["10.0.0.0/8", "unix"],
    allowed_hosts=["a.example"],
)
TLS = documents.Tls(certificate="/nonexistent/certificate.pem", key="/nonexistent/key.pem")
INSTANCE = documents.InstanceEntry(
    id="i-1",
    address="http://127.0.0.1:9",
    state="running",
    api_key="k",
    idle_timeout=1.5,
    requests_per_connection=7,
    closes_after_stream=True,
    cancel_lag=0.02,
    context_length=32_768,
)
TABLE = documents.Table(
    models=[
        documents.ModelEntry(
            name="m",
            served_name="s",
            backend="external",
            dialects=["openai", "anthropic"],
            stream_usage=True,
            system_messages="anywhere",
            reasoning_names="both",
            redacted_names=["/models/s"],
            response_headers=["x-queue-time"],
            repair=["tool_ids", "system_first", "result_order"],
            proxy_denied=["/sleep"],
            proxy_allowed=["/v1"],
            timeouts=ModelTimeoutsConfig(connect=1.007, first_frame=1.008, idle=1.009),
            max_in_flight=6,
            wake=documents.Wake(queue=3, timeout=1.5),
            instances=[INSTANCE],
        )
    ],
    routes=[
        documents.RouteEntry(
            name="r",
            created=12,
            targets=[documents.TargetEntry(model="m", weight=5, served_name="t", fallback=["5xx"])],
            categories=["llm"],
            generic_proxy=True,
            number=9,
            access_policy="allowed_keys",
            allowed_keys=["a"],
            meta={"size": 1},
        )
    ],
    default_route="r",
    metrics=[
        documents.MetricFamily(
            name="own",
            help="The control plane's.",
            kind="gauge",
            samples=[documents.MetricSample(labels=[("label", 'a"b\\c\nd')], value=7)],
        )
    ],
    settings=documents.Settings(
        timeouts=CONFIG.timeouts,
        limits=CONFIG.limits,
        cors=CONFIG.cors,
        response_extras=CONFIG.response_extras,
    ),
)
KEYS = documents.KeyDelta(
    salt=SALT,
    replace=True,
    upsert=[
        documents.KeyEntry(
            id="a",
            digest=hashlib.sha256(bytes.fromhex(SALT) + KEY.encode()).hexdigest(),
            name="the first",
            allowed_models=["r"],
            scopes=["inference"],
            expires=4_000_000_000,
        )
    ],
    remove=["b"],
)
TOKENS = documents.Tokens(
    routes=[documents.RouteTokens(name="r", input=3, cached=1, output=2)],
)


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plane = DataPlane(CONFIG, [listener.fileno()])
        yield plane
        plane.drain(0)


def fields_left_at_their_default(document: msgspec.Struct) -> list[str]:
    """Fields that the sample does not set: a later setting must be added to the samples above.

    (The seam's own Structs have no defaults.)
    """
    found = []
    for field in msgspec.structs.fields(document):
        value = getattr(document, field.name)
        factory = field.default_factory
        default = field.default if factory is msgspec.NODEFAULT else factory()
        if value == default:
            found.append(f"{type(document).__name__}.{field.name}")
        if isinstance(value, msgspec.Struct):
            found += fields_left_at_their_default(value)
    return found


def test_the_sample_of_the_configuration_sets_every_field() -> None:
    assert fields_left_at_their_default(CONFIG) == []


def test_no_document_has_a_default_of_its_own() -> None:
    for document in documents.Document.__subclasses__():
        assert all(field.required for field in msgspec.structs.fields(document)), document


def places(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every field in a document, but for what an operator may write freely."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield (*path, name)
            if name != "meta":
                yield from places(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from places(value, (*path, index))


def changed(document: Any, path: tuple[str | int, ...], change: Callable[[Any], None]) -> bytes:
    """The document with a change in what holds the last step of a path."""
    plain = msgspec.to_builtins(document)
    inner = plain
    for step in path[:-1]:
        inner = inner[step]
    change(inner)
    return msgspec.json.encode(plain)


Send = Callable[[bytes], object]


def send(plane: DataPlane, document: msgspec.Struct) -> Send:
    """The way of a document of this type to the other side."""
    native = plane._native
    if isinstance(document, DataPlaneConfig):
        return lambda encoded: type(native)(encoded, [])
    if isinstance(document, documents.Tokens):
        return native.add_tokens
    return native.publish if isinstance(document, documents.Table) else native.update_keys


DOCUMENTS = pytest.mark.parametrize(
    "document",
    [msgspec.structs.replace(CONFIG, tls=TLS), TABLE, KEYS, TOKENS],
    ids=lambda document: type(document).__name__,
)


@DOCUMENTS
def test_a_field_that_is_missing_or_unknown_is_rejected_with_its_name(
    plane: DataPlane, document: msgspec.Struct
) -> None:
    for path in places(msgspec.to_builtins(document)):
        name = path[-1]
        with pytest.raises(DataPlaneError, match=f"missing field `{name}`"):
            send(plane, document)(changed(document, path, lambda inner, name=name: inner.pop(name)))  # type: ignore[misc]
        with pytest.raises(DataPlaneError, match="unknown field `other`"):
            send(plane, document)(changed(document, path, lambda inner: inner.update(other=1)))


def listed_by_rust(error: str) -> set[str]:
    """The words in the error about one that is unknown."""
    _, _, expected = error.partition("expected ")
    return set(re.findall(r"`([^`]+)`", expected))


@pytest.mark.parametrize(
    ("document", "path", "entry", "words"),
    [
        (CONFIG, ("log_level",), "", LogLevel),
        (CONFIG, ("log_format",), "", LogFormat),
        (TABLE, ("models", 0, "instances", 0, "state"), "i-1", InstanceState),
        (TABLE, ("models", 0, "dialects", 0), "m", Dialect),
        (TABLE, ("models", 0, "system_messages"), "m", SystemMessages),
        (TABLE, ("models", 0, "reasoning_names"), "m", ReasoningNames),
        (TABLE, ("routes", 0, "access_policy"), "r", AccessPolicy),
        (TABLE, ("routes", 0, "targets", 0, "fallback", 0), "r", StatusClass),
        (TABLE, ("metrics", 0, "kind"), "own", documents.MetricKind),
        (KEYS, ("upsert", 0, "scopes", 0), "a", Scope),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_both_sides_know_the_same_words_and_reject_others_with_their_entry(
    plane: DataPlane,
    document: msgspec.Struct,
    path: tuple[str | int, ...],
    entry: str,
    words: object,
) -> None:
    def write(word: str) -> bytes:
        return changed(document, path, lambda inner: inner.__setitem__(path[-1], word))

    for word in get_args(words):
        send(plane, document)(write(word))
    with pytest.raises(DataPlaneError) as caught:
        send(plane, document)(write("runing"))
    assert "`runing`" in str(caught.value)
    assert f" ({entry}): " in str(caught.value) or not entry
    assert listed_by_rust(str(caught.value)) == set(get_args(words))


def variants(name: str) -> set[str]:
    """The words of an enum that Rust writes, by its source."""
    source = (ROOT / "rust" / "sans_io" / "src" / "seam" / "report.rs").read_text()
    found = re.search(rf"pub enum {name} {{\n(.*?)\n}}", source, re.DOTALL)
    assert found, name
    words = re.findall(r"^    ([A-Z]\w+)", found[1], re.MULTILINE)
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower() for word in words}


@pytest.mark.parametrize(
    ("begins", "ends"), [(0, 631_152_000), (9, 2_524_607_999), (2_524_608_000, 253_402_300_799)]
)
def test_the_time_of_the_first_certificate_in_its_file_is_told(
    tmp_path: Path, begins: int, ends: int
) -> None:
    issue(tmp_path)
    issuer = (tmp_path / "c.pem").read_bytes()
    certificate, key = issue(tmp_path, begins=begins, ends=ends)
    certificate.write_bytes(b"# the server's own\n" + certificate.read_bytes() + issuer)
    tls = documents.Tls(certificate=str(certificate), key=str(key))
    stats = DataPlane(msgspec.structs.replace(CONFIG, tls=tls), []).stats()
    assert (stats.certificate_begins, stats.certificate_expires) == (begins, ends)


def test_what_rust_writes_in_words_is_known_here() -> None:
    assert variants("End") == set(get_args(documents.End))
    events = {event.__struct_config__.tag for event in get_args(documents.Event)}
    assert variants("Event") == events


def test_every_document_passes_through_both_sides(plane: DataPlane) -> None:
    address = plane.start().addresses[0]
    assert plane.publish(TABLE) == 1
    plane.update_keys(KEYS)
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    models = json.loads(connection.getresponse().read())
    (model,) = models["data"]
    assert model == {
        "id": "r",
        "object": "model",
        "created": 12,
        "owned_by": "gpustack",
        "max_model_len": 32_768,
        "context_length": 32_768,
    }
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    assert page.endswith('# TYPE own gauge\nown{label="a\\"b\\\\c\\nd"} 7\n')
    plane.add_tokens(TOKENS)
    other = documents.RouteTokens(name="other", input=1, cached=1, output=1)
    plane.add_tokens(documents.Tokens(routes=[*TOKENS.routes, other]))
    stats = plane.stats()
    assert stats.routes == [documents.RouteTokens(name="r", input=6, cached=2, output=4)]
    assert stats.models == [documents.ModelStats(name="m", waiting=0)]
    assert stats.certificate_begins is None and stats.certificate_expires is None
    assert (stats.version, stats.connections, [instance.id for instance in stats.instances]) == (
        1,
        1,
        ["i-1"],
    )
    connection.close()

    records: list[documents.Record] = []
    events: list[documents.Event] = []

    def fetch(enough: Any) -> None:
        deadline = time.monotonic() + DEADLINE
        while not enough():
            assert time.monotonic() < deadline, (records, events)
            polled = plane.poll()
            assert polled.finished == len(polled.records)
            assert polled.dropped == 0
            records.extend(polled.records)
            events.extend(polled.events)
            time.sleep(0.01)

    assert (
        plane.publish(
            documents.Table(models=[], routes=[], default_route=None, metrics=[], settings=None)
        )
        == 2
    )
    fetch(lambda: len(records) == 2 and events)
    assert [(record.path, record.status, record.key, record.end) for record in records] == [
        ("/v1/models", 200, "", "done"),
        ("/metrics", 200, "", "done"),
    ]
    assert all(
        record.started > 0 and len(record.request_id) == 32 and record.duration_ms >= 0
        for record in records
    )
    assert events[0] == documents.InstanceIdle(instance="i-1", version=2)
    plane.drain(0)
    fetch(lambda: len(events) == 2)
    assert events[1] == documents.Drained(cut=0)


@pytest.mark.parametrize(
    ("call", "document"),
    [
        (
            "publish",
            {
                "models": [],
                "routes": [],
                "default_route": None,
                "metrics": [],
                "settings": None,
                "unknown": 1,
            },
        ),
        ("publish", {"models": [], "routes": [], "default_route": None, "metrics": []}),
        ("publish", {"models": [], "routes": [], "metrics": [], "settings": None}),
        ("update_keys", {"salt": "", "replace": True, "upsert": [], "remove": [], "unknown": 1}),
        ("update_keys", {"salt": "zz", "replace": True, "upsert": [], "remove": []}),
        ("publish", "no object"),
    ],
)
def test_a_document_of_another_shape_is_rejected_with_a_reason(
    plane: DataPlane, call: str, document: object
) -> None:
    with pytest.raises(
        DataPlaneError, match=r"^(The (table|key delta) does not have its shape|the salt)"
    ):
        getattr(plane._native, call)(json.dumps(document).encode())


def test_what_is_no_listening_socket_is_rejected() -> None:
    with socket.socket() as unbound, pytest.raises(DataPlaneError, match="does not listen"):
        DataPlane(CONFIG, [unbound.fileno()])
    for fd in (-1, 1_000_000):
        with pytest.raises(DataPlaneError, match=str(fd)):
            DataPlane(CONFIG, [fd])


def test_it_starts_once(plane: DataPlane) -> None:
    plane.start()
    with pytest.raises(DataPlaneError, match="started before"):
        plane.start()


def test_a_drain_without_a_start_is_told_too(plane: DataPlane) -> None:
    plane.drain(5)
    assert plane.poll().events == [documents.Drained(cut=0)]


def test_a_start_that_fails_half_way_ends_what_has_begun_and_tells_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = seam_samples.data_plane_config(workers=64)  # four descriptors each, at least
        plane = DataPlane(config, [listener.fileno()])
        enough_for_a_few = listener.fileno() + 30
        with (
            limited(0, resource.RLIMIT_NOFILE, enough_for_a_few),
            pytest.raises(DataPlaneError, match=r"could not be started: Too many open files"),
        ):
            plane.start()
        events: list[documents.Event] = []

        def told() -> bool:
            events.extend(plane.poll().events)
            return bool(events)

        eventually(told, "the end of the workers")
        assert events == [documents.Drained(cut=0)]


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_limit_of_a_drain_that_is_none_is_rejected(plane: DataPlane, limit: float) -> None:
    with pytest.raises(DataPlaneError, match="deadline"):
        plane.drain(limit)
    with pytest.raises(DataPlaneError, match="idle grace"):
        plane.drain(1.0, idle_grace=limit)


def test_keys_and_routes_that_are_published_before_the_start_hold_for_the_first_request(
    plane: DataPlane,
) -> None:
    plane.update_keys(KEYS)
    assert plane.publish(TABLE) == 1
    assert plane.stats().not_ready is None
    host, _, port = plane.start().addresses[0].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert [model["id"] for model in json.loads(connection.getresponse().read())["data"]] == ["r"]
    connection.close()


def test_the_module_loads_after_all_others_and_on_a_thread() -> None:
    """Its allocator must not need static thread-local space, which others may have used up."""
    script = """
import threading
import granian, granian.server.embed, msgspec, uvloop, pynvml
def load():
    from pathlib import Path
    from gpustack_fast.config import ServerConfig
    from gpustack_fast.seam import dataplane, settings
    here = Path("/nonexistent")
    dataplane.DataPlane(settings.plane_config(ServerConfig(), here, here), [])
    print(dataplane.__version__)
thread = threading.Thread(target=load)
thread.start()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == __version__, done.stderr
