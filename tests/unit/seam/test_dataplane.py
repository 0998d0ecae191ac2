"""The seam: every field of every document passes through both sides, and the module loads late and
on a thread.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gpustack_fast.seam import documents
from gpustack_fast.seam.dataplane import DataPlane, DataPlaneError, __version__
from gpustack_fast.seam.documents import DataPlaneConfig

KEY = "seam-test-key-of-enough-length"
SALT = "00ff"

CONFIG = DataPlaneConfig(
    workers=2,
    control_socket="/nonexistent/api.sock",
    timeouts=documents.Timeouts(head=1001, body=1002, connect=1003, first_frame=1004, idle=1005),
    limits=documents.Limits(body=4096, replay=1024, memory=2048, ratio=10, nesting=16),
    connections=documents.ConnectionLimits(idle_per_instance=3),
    telling=documents.Telling(
        server_timing=False, server_timing_in_streams=True, usage_timings=False, sse_keep_alive=1006
    ),
    cors=documents.Cors(
        origins=["https://a.example"],
        methods=["POST"],
        headers=["x-one"],
        expose=["x-two"],
        credentials=True,
        max_age=7,
    ),
    spool_folder="/nonexistent/spool",
    responses_kept=5,
    record_queue=8,
    log_level="warn",
    log_format="json",
)
TLS = documents.Tls(certificate="/nonexistent/certificate.pem", key="/nonexistent/key.pem")
INSTANCE = documents.InstanceEntry(
    id="i-1",
    address="http://127.0.0.1:9",
    state="running",
    api_key="k",
    idle_timeout=1500,
    requests_per_connection=7,
    cancel_lag=20,
)
TABLE = documents.Table(
    models=[
        documents.ModelEntry(
            name="m",
            served_name="s",
            backend="external",
            dialects=["openai", "anthropic"],
            stream_usage=True,
            hidden_names=["/models/s"],
            proxy_denied=["/sleep"],
            proxy_allowed=["/v1"],
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
    metrics="# the control plane's own\n",
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


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plane = DataPlane(CONFIG, [listener.fileno()])
        yield plane
        plane.drain(0)


def fields_left_at_their_default(document: msgspec.Struct) -> list[str]:
    """Fields that the sample does not set: a field that was added later must be added to the
    samples above.
    """
    found = []
    for field in msgspec.structs.fields(document):
        value = getattr(document, field.name)
        default = field.default if field.default is not msgspec.NODEFAULT else None
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if value == default:
            found.append(f"{type(document).__name__}.{field.name}")
        nested = value if isinstance(value, list) else [value]
        for item in nested:
            if isinstance(item, msgspec.Struct):
                found += fields_left_at_their_default(item)
    return found


@pytest.mark.parametrize(
    "document",
    [msgspec.structs.replace(CONFIG, tls=TLS), TABLE, KEYS],
    ids=lambda document: type(document).__name__,
)
def test_the_samples_below_set_every_field(document: msgspec.Struct) -> None:
    assert fields_left_at_their_default(document) == []


def test_every_document_passes_through_both_sides(plane: DataPlane) -> None:
    address = plane.start().addresses[0]
    assert plane.publish(TABLE) == 1
    plane.update_keys(KEYS)
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    models = json.loads(connection.getresponse().read())
    assert models["data"] == [{"id": "r", "object": "model", "created": 12, "owned_by": "gpustack"}]
    connection.request("GET", "/metrics")
    assert TABLE.metrics in connection.getresponse().read().decode()
    stats = plane.stats()
    assert (stats.version, stats.connections, [instance.id for instance in stats.instances]) == (
        1,
        1,
        ["i-1"],
    )
    connection.close()

    records: list[documents.Record] = []
    events: list[documents.Event] = []

    def fetch(enough: Any) -> None:
        deadline = time.monotonic() + 10
        while not enough():
            assert time.monotonic() < deadline, (records, events)
            polled = plane.poll()
            assert polled.finished == len(polled.records)
            assert polled.dropped == 0
            records.extend(polled.records)
            events.extend(polled.events)
            time.sleep(0.01)

    assert plane.publish(documents.Table()) == 2
    fetch(lambda: len(records) == 2 and events)
    assert [(record.path, record.status, record.key, record.end) for record in records] == [
        ("/v1/models", 200, "", "done"),
        ("/metrics", 200, "", "done"),
    ]
    assert all(
        record.started > 0 and len(record.request_id) == 32 and record.duration >= 0
        for record in records
    )
    assert (events[0].type, events[0].instance, events[0].version) == ("instance_idle", "i-1", 2)
    plane.drain(0)
    fetch(lambda: len(events) == 2)
    assert (events[1].type, events[1].cut) == ("drained", 0)


@pytest.mark.parametrize(
    ("call", "document"),
    [
        ("publish", {"models": [], "routes": [], "metrics": "", "unknown": 1}),
        ("publish", {"models": [], "routes": []}),
        ("update_keys", {"salt": "", "replace": True, "upsert": [], "remove": [], "unknown": 1}),
        ("update_keys", {"salt": "zz", "replace": True, "upsert": [], "remove": []}),
        ("publish", "no object"),
    ],
)
def test_a_document_of_another_shape_is_refused_with_a_reason(
    plane: DataPlane, call: str, document: object
) -> None:
    with pytest.raises(
        DataPlaneError, match=r"^(The (table|key delta) does not have its shape|the salt)"
    ):
        getattr(plane._native, call)(json.dumps(document).encode())


def test_what_is_no_listening_socket_is_refused() -> None:
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
    assert [event.type for event in plane.poll().events] == ["drained"]


@pytest.mark.parametrize("deadline", [-1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(plane: DataPlane, deadline: float) -> None:
    with pytest.raises(DataPlaneError, match="deadline"):
        plane.drain(deadline)


def test_the_module_loads_after_all_others_and_on_a_thread() -> None:
    """Its allocator's thread-local storage must not need the static space that others have used
    up.
    """
    script = """
import threading
import granian, granian.server.embed, msgspec, uvloop, pynvml
def load():
    from gpustack_fast.seam import dataplane, documents
    dataplane.DataPlane(documents.DataPlaneConfig(), [])
    print(dataplane.__version__)
thread = threading.Thread(target=load)
thread.start()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == __version__, done.stderr
