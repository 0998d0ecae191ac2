"""No body gets past the check of the key by naming two models (an engine takes the last one)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seam_samples
from gpustack_fast.seam.documents import ModelEntry, Table
from harness import DataPlaneRouter, FakeEngine
from raw_http import BrokenFraming, build, eventually

ALLOWED = "allowed"
FORBIDDEN = "forbidden"
NAMES = (ALLOWED, FORBIDDEN)
KEY = "gpustack_bbbbbbbbbbbbbbbb_00000000000000000000000000000000"


class TwoModels(DataPlaneRouter):
    """One engine that serves both models."""

    def table(self) -> Table:
        def model(name: str) -> ModelEntry:
            instance = seam_samples.instance_entry(f"i-{name}", self.addresses[0])
            return seam_samples.model_entry(name, [instance])

        return seam_samples.table(
            [model(name) for name in NAMES],
            [seam_samples.route_entry(name, [seam_samples.target_entry(name)]) for name in NAMES],
        )


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[DataPlaneRouter, FakeEngine]]:
    """The engine, and a router with a key that may use one of the two models."""
    engine = FakeEngine("both", "--port", "0")
    plane = TwoModels([engine])
    plane.add_key("b" * 16, KEY, allowed_models=[ALLOWED])
    yield plane, engine
    plane.stop()
    engine.kill()


def escaped(word: str, seed: int) -> str:
    """The word as a JSON string with some characters escaped."""
    chance = random.Random(seed)
    return (
        '"'
        + "".join(f"\\u{ord(letter):04x}" if chance.random() < 0.3 else letter for letter in word)
        + '"'
    )


names = st.sampled_from(NAMES)
keys = st.one_of(st.just('"model"'), st.integers(0, 1000).map(lambda seed: escaped("model", seed)))
values = st.builds(escaped, names, st.integers(0, 1000))
model_member = st.builds(lambda key, value: f"{key}: {value}", keys, values)
decoy = st.sampled_from(
    [
        '"Model": "forbidden"',
        '"x": {"model": "forbidden"}',
        '"y": [{"model": "forbidden"}, "model"]',
        '"z": "\\",\\"model\\":\\"forbidden"',
        '"model ": "forbidden"',
        '"w": "model"',
        '"": 0',
    ]
)
filler = st.builds(
    lambda size, letter: '"f": "' + letter * size + '"',
    st.sampled_from([0, 1, 100, 4_000, 16_384, 65_536, 300_000, 1_000_000]),
    st.sampled_from(["x", "\\\\", '\\"', "é", "{", "\\u0022"]),
).filter(lambda text: len(text) <= 1_100_000)
members = st.lists(st.one_of(model_member, decoy, filler), min_size=1, max_size=5)
tails = st.sampled_from(["", "", "", " ", "\n", "}", ' {"model": "forbidden"}', "x", ","])


@pytest.mark.timeout(600)
@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(members=members, models=st.lists(model_member, max_size=2), tail=tails, cuts=st.data())
def test_no_complete_request_reaches_an_engine_with_another_model_than_the_key_allows(
    house: tuple[DataPlaneRouter, FakeEngine],
    members: list[str],
    models: list[str],
    tail: str,
    cuts: st.DataObject,
) -> None:
    plane, engine = house
    everything = members + models
    cuts.draw(st.randoms(use_true_random=False)).shuffle(everything)
    body = ("{" + ", ".join(everything) + "}" + tail).encode()
    chunk = cuts.draw(st.sampled_from([None, None, 1_000, 65_536]))
    request = build("POST", "/v1/chat/completions", body, key=KEY, chunk=chunk)
    edges = sorted(cuts.draw(st.lists(st.integers(0, len(request)), max_size=4)))
    status = upload(
        plane, [request[a:b] for a, b in zip([0, *edges], [*edges, len(request)], strict=True)]
    )
    eventually(plane.is_idle, "the request to be over")
    journal = engine.inference()
    engine.reset()
    for entry in journal:
        assert not (entry["complete"] and entry["model"] != ALLOWED), (
            f"got through: {body[:300]!r} ..."
        )
    assert status in expected_statuses(body)
    assert any(entry["complete"] for entry in journal) == (status == 200)


MEGABYTE = '"f": "' + "x" * 1_000_000 + '"'
TWICE = [f'"model": "{ALLOWED}"', '"mod\\u0065l": "forbidd\\u0065n"']


@pytest.mark.parametrize(
    "members", [[*one] for one in permutations([MEGABYTE, *TWICE])], ids=range(6)
)
@pytest.mark.parametrize("chunk", [None, 1_000, 65_536])
@pytest.mark.parametrize("piece", [4_096, 2_000_000])
def test_a_second_model_before_or_after_a_megabyte_never_completes_a_request(
    house: tuple[DataPlaneRouter, FakeEngine], members: list[str], chunk: int | None, piece: int
) -> None:
    plane, engine = house
    body = ("{" + ",".join(members) + "}").encode()
    request = build("POST", "/v1/chat/completions", body, key=KEY, chunk=chunk)
    status = upload(plane, [request[at : at + piece] for at in range(0, len(request), piece)])
    eventually(plane.is_idle, "the request to be over")
    journal = engine.inference()
    engine.reset()
    assert status in (400, 403)
    assert not [entry for entry in journal if entry["complete"]]


def upload(plane: DataPlaneRouter, pieces: list[bytes]) -> int:
    """Sends the pieces in writes of their own; the router may respond and close before the last."""
    with plane.client() as client:
        try:
            for piece in pieces:
                client.send(piece)
        except ConnectionError:
            pass  # The response is there all the same.
        try:
            return client.read_response().status
        except BrokenFraming:
            return 0


def expected_statuses(body: bytes) -> set[int]:
    """The verdict of a JSON parser that keeps every member. Of two mistakes it may name either."""
    try:
        document = json.loads(body, object_pairs_hook=lambda pairs: pairs)
    except ValueError:
        return {400, 403} if FORBIDDEN in body.decode() or "\\u" in body.decode() else {400}
    found = [value for name, value in document if name == "model"]
    # Some engines take it for `model`, and the key may not use all that this one serves.
    has_other_case = any(name == "Model" for name, _ in document)
    if found == [ALLOWED]:
        return {403} if has_other_case else {200}
    if found == [FORBIDDEN]:
        return {403}
    return {400, 403} if FORBIDDEN in found or has_other_case else {400}
