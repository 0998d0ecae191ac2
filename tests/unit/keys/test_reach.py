"""Keys and routes that do not meet."""

from __future__ import annotations

import msgspec
import pytest

from gpustack_fast.config import RouteConfig, TargetConfig
from gpustack_fast.keys.reach import unknown_models, unmatched
from gpustack_fast.keys.store import KeyInfo

ALICE = KeyInfo(
    name="alice",
    access_key="0123456789abcdef",
    masked="********",
    allowed_models=None,
    scopes=["*"],
    created=1000,
    expires=None,
    custom=False,
)
AUTHED = RouteConfig(name="open", targets=[TargetConfig(model="m")])
PUBLIC = msgspec.structs.replace(AUTHED, name="free", access_policy="public")


def guarded(*keys: str) -> RouteConfig:
    return msgspec.structs.replace(
        AUTHED, name="careful", access_policy="allowed_keys", allowed_keys=list(keys)
    )


def test_keys_and_routes_that_meet_are_not_told() -> None:
    routes = [AUTHED, PUBLIC, guarded("alice"), guarded("0123456789abcdef")]
    assert unmatched(routes, [ALICE], 2000.0) == []


def test_a_name_in_a_route_that_no_key_has_is_told_once_with_the_one_that_was_meant() -> None:
    [told] = unmatched([guarded("alcie")], [ALICE], 2000.0)
    assert "`careful` lets in the key `alcie`, but there is none of this name." in told
    assert "Did you mean `alice`?" in told and "Correct `allowed_keys`" in told
    [told] = unmatched([guarded("alice", "xyzzy")], [ALICE], 2000.0)
    assert "`xyzzy`" in told and "No key may use" not in told


def test_a_model_of_a_key_that_no_route_has_is_told() -> None:
    narrow = msgspec.structs.replace(ALICE, allowed_models=["open", "opne", "\x1b[2J"])
    slip, strange = unmatched([AUTHED], [narrow], 2000.0)
    assert "`alice` may use `opne`, but no route is called so. Did you mean `open`?" in slip
    assert "`\\x1b[2J`" in strange and "make another key" in strange
    assert unknown_models(ALICE, ["open"]) == []


@pytest.mark.parametrize(
    "useless", [{"expires": 1500}, {"scopes": ["management"]}, {"allowed_models": ["free"]}]
)
def test_a_route_that_no_key_may_use_is_told(useless: dict[str, object]) -> None:
    key = msgspec.structs.replace(ALICE, **useless)
    for route in (AUTHED, guarded("alice")):
        [told] = unmatched([route, PUBLIC], [key], 2000.0)
        assert f"No key may use the route `{route.name}`" in told and "keys create" in told


def test_without_any_key_it_is_told_once() -> None:
    assert unmatched([PUBLIC], [], 2000.0) == []
    [told] = unmatched([AUTHED, guarded("alice")], [], 2000.0)
    assert told.startswith("There is no API key")
