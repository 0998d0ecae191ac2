"""Whoever watches the router can always ask it: is it alive, is it ready, what has it done?"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from harness import DataPlaneRouter, FakeEngine, ServedRouter, external, read_gauge, serving
from raw_http import Client, chat, eventually, sooner_or_later

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (NaN|[+-]Inf|[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)"
)
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def parse(text: str) -> tuple[Samples, dict[str, str]]:
    """Samples and types of families; fails where the text is not strictly Prometheus' 0.0.4."""
    assert text.endswith("\n")
    samples: Samples = {}
    types: dict[str, str] = {}
    family = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family not in types, f"{family} comes twice"
            assert kind in ("counter", "gauge", "histogram", "summary", "untyped")
            types[family] = kind
            continue
        if line.startswith("# HELP "):
            assert len(line.split(" ", 3)) == 4, line
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"no sample: {line!r}"
        name, labels = match[1], match[2] or ""
        found = LABEL.findall(labels)
        assert "".join(f'{key}="{value}",' for key, value in found).rstrip(",") == labels.rstrip(
            ","
        ), line
        suffixes = ("_bucket", "_sum", "_count") if types.get(family) == "histogram" else ("",)
        assert name in [family + suffix for suffix in suffixes], f"{name} stands under {family}"
        key = (name, tuple(sorted(found)))
        assert key not in samples, f"{line!r} comes twice"
        samples[key] = float(match[3])
    assert_histograms(samples, types)
    return samples, types


def assert_histograms(samples: Samples, types: dict[str, str]) -> None:
    """Buckets rise, and the last one is the count."""
    for family in (name for name, kind in types.items() if kind == "histogram"):
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        for (name, labels), value in samples.items():
            if name == f"{family}_bucket":
                bound = float(dict(labels)["le"])
                rest = tuple(label for label in labels if label[0] != "le")
                series.setdefault(rest, []).append((bound, value))
        for labels, buckets in series.items():
            counts = [count for _, count in sorted(buckets)]
            assert counts == sorted(counts)
            assert sorted(buckets)[-1][0] == float("inf")
            assert counts[-1] == samples[f"{family}_count", labels]
            assert samples[f"{family}_sum", labels] >= 0


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of that name which have these labels."""
    wanted = set(labels.items())
    return sum(
        number for (found, has), number in samples.items() if found == name and wanted <= set(has)
    )


def read(router: DataPlaneRouter | ServedRouter) -> Samples:
    response = router.request("GET", "/metrics", key=None)
    assert response.status == 200
    assert (response.header("content-type") or "").startswith("text/plain; version=0.0.4")
    return parse(response.body.decode())[0]


def test_metrics_count_what_happened(fake_engines: Engines, router: Routers) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    for _ in range(3):
        plane.chat(chat())
    plane.chat(chat("default", stream=True))
    plane.chat(chat("unknown"))
    plane.chat(chat(fake={"fault": {"how": "close", "at": "before_head"}}))
    plane.records(6)
    samples = read(plane)
    requests = "gpustack_fast_requests_total"
    assert value(samples, requests, route="m", code="200") == 3
    assert value(samples, requests, route="default", code="200") == 1
    assert value(samples, requests, route="", code="404") == 1
    assert value(samples, requests, route="m", code="502") == 1
    assert value(samples, "gpustack_fast_request_duration_seconds_count", route="m") == 4
    assert value(samples, "gpustack_fast_first_frame_seconds_count", route="default") == 1
    assert value(samples, "gpustack_fast_upstream_errors_total", kind="died") >= 1
    assert value(samples, "gpustack_fast_instance_outstanding") == 0
    assert value(samples, "gpustack_fast_instance_requests_total", instance="i-0") >= 5


def test_metrics_count_retries(fake_engines: Engines, router: Routers) -> None:
    dying, sound = fake_engines(2)
    plane = router([dying, sound])
    dying.defaults(fault={"how": "close", "at": "before_head"})

    def is_retried() -> bool:
        assert plane.chat(chat()).status == 200
        return bool(dying.inference())

    sooner_or_later(is_retried, "the dying engine to be chosen")
    assert value(read(plane), "gpustack_fast_retries_total") == 1


def test_a_failure_that_no_attempt_follows_is_no_retry(
    fake_engines: Engines, router: Routers
) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    engine.kill()
    assert plane.chat(chat()).status == 503
    assert value(read(plane), "gpustack_fast_retries_total") == 0


def test_metrics_show_what_is_in_flight(fake_engines: Engines, router: Routers) -> None:
    engine = fake_engines(1)[0]
    plane = router([engine])
    with plane.client() as client:
        plane.send_chat(client, chat(fake={"fault": {"how": "stall", "at": "before_head"}}))
        eventually(lambda: engine.state()["in_progress"] == 1, "the engine to be busy")
        samples = read(plane)
        assert value(samples, "gpustack_fast_instance_outstanding", instance="i-0") == 1
        assert value(samples, "gpustack_fast_requests_in_flight") >= 1
        assert value(samples, "gpustack_fast_client_connections") >= 1
    eventually(
        lambda: value(read(plane), "gpustack_fast_instance_outstanding") == 0,
        "the count to go down",
    )


def test_odd_route_names_do_not_break_the_text(fake_engines: Engines, router: Routers) -> None:
    from seam_samples import route_entry, target_entry

    name = 'quote" back\\slash line\nbreak é'
    plane = router(
        fake_engines(1),
        routes=[route_entry(name=name, created=1, targets=[target_entry(model="m")])],
        served_name="m",
    )
    assert plane.chat(chat(name)).json()["model"] == name
    plane.records()
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert value(read(plane), "gpustack_fast_requests_total", route=escaped) == 1


def test_a_record_says_what_became_of_a_request(fake_engines: Engines, router: Routers) -> None:
    plane = router(fake_engines(1))
    body = json.dumps(chat("default", stream=True)).encode()
    response = plane.chat(body)
    record = plane.records()[0]
    assert (record.route, record.instance, record.path) == (
        "default",
        "i-0",
        "/v1/chat/completions",
    )
    assert (record.status, record.attempts, record.stream, record.end) == (200, 1, True, "done")
    assert record.key == "0123456789abcdef"
    assert record.request_id == response.header("x-request-id")
    assert record.bytes_in == len(body)
    assert record.bytes_out == len(response.body)
    assert 0 < record.first_frame_ms <= record.duration_ms
    plane.chat(chat("nope"))
    refused = plane.records()[0]
    assert (refused.route, refused.instance, refused.status, refused.end) == (
        "",
        "",
        404,
        "refused",
    )


def test_readiness_follows_the_table_and_liveness_does_not(
    fake_engines: Engines, router: Routers
) -> None:
    plane = router(fake_engines(1))
    assert plane.request("GET", "/readyz", key=None).status == 200
    plane.states = ["starting"]
    plane.publish()
    waiting = plane.request("GET", "/readyz", key=None)
    assert waiting.status == 503
    assert waiting.body
    assert plane.request("GET", "/healthz", key=None).status == 200
    assert plane.request("HEAD", "/healthz", key=None).status == 200


# --- the whole product ---


def test_the_whole_product_shows_its_engines_states(
    fake_engines: Engines, serve: Callable[..., ServedRouter]
) -> None:
    server = serve(external(fake_engines(2)))
    assert server.chat(chat("default")).status == 200
    samples = read(server)
    assert value(samples, "gpustack_fast_requests_total", route="default", code="200") == 1
    assert value(samples, "gpustack_fast_instance_state", model="m", state="running") == 2
    (model,) = server.models()
    assert model["name"] == "m"
    assert server.running() == 2


def test_the_whole_product_says_its_version_and_rejects_unknown_paths_in_management_shape(
    fake_engines: Engines, serve: Callable[..., ServedRouter]
) -> None:
    server = serve(external(fake_engines(1)))
    assert server.request("GET", "/version").json()["version"]
    for path in ("/nope", "/v2/nope", "/version/"):
        missing = server.request("GET", path)
        assert missing.status == 404
        assert missing.json().keys() >= {"code", "reason", "message"}
    unknown = server.request("POST", "/v1/nope", {})
    assert unknown.status == 404
    assert unknown.json()["error"]["message"]


def test_responses_go_on_while_python_stands_still(fake_engines: Engines, tmp_path: Path) -> None:
    holder = [sys.executable, str(Path(__file__).parent / "gil_holder.py"), str(tmp_path)]
    os.mkfifo(tmp_path / "release")
    with serving(external(fake_engines(1)), program=holder) as server:
        (tmp_path / "hold").touch()
        eventually((tmp_path / "held").exists, "the GIL to be held")
        with Client(server.address) as client:
            for number in range(200):
                for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
                    assert client.request("GET", path, key=server.key).status == 200
                body = chat("default", f"n-{number}", stream=number % 2 == 0)
                response = client.request("POST", "/v1/chat/completions", body, key=server.key)
                assert f"n-{number}".encode() in response.body
        assert read_gauge(server.metrics(), "gpustack_fast_requests_total") >= 200
        assert not (tmp_path / "released").exists(), "else nothing is shown"
        (tmp_path / "release").open("wb").close()
        eventually((tmp_path / "released").exists, "the GIL to be released")
        assert server.request("GET", "/version").status == 200
