"""Pages of other origins: CORS from the configuration to an engine's response."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from harness import KEY, DataPlaneRouter, FakeEngine, external, serving
from raw_http import chat

Engines = Callable[..., list[FakeEngine]]
Routers = Callable[..., DataPlaneRouter]

PAGE = "https://chat.example"
ASKED = {
    "Access-Control-Request-Method": "POST",
    # What the openai and anthropic SDKs set in browsers.
    "Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-stainless-os,"
    "anthropic-version,"
    "anthropic-dangerous-direct-browser-access,openai-organization,x-of-another",
}


@pytest.fixture
def engine(fake_engines: Engines) -> FakeEngine:
    return fake_engines(1)[0]


def allowed(response: httpx.Response) -> str | None:
    origin: str | None = response.headers.get("access-control-allow-origin")
    return origin


def test_pages_are_let_in_as_the_configuration_says(fake_engines: Engines) -> None:
    rules = (
        f'[server.cors]\norigins = ["{PAGE}"]\nexpose = ["x-mine"]\ncredentials = true\n'
        "max_age = 77\n"
    )
    with (
        serving(external(fake_engines(1), more=rules)) as product,
        httpx.Client(base_url=product.address) as browser,
    ):
        preflight = browser.options("/v1/chat/completions", headers={"Origin": PAGE, **ASKED})
        assert (preflight.status_code, preflight.content) == (204, b"")
        assert allowed(preflight) == PAGE
        assert preflight.headers["access-control-allow-credentials"] == "true"
        assert preflight.headers["access-control-allow-methods"] == "POST, OPTIONS"
        assert preflight.headers["access-control-max-age"] == "77"
        names = preflight.headers["access-control-allow-headers"].split(", ")
        assert names == ASKED["Access-Control-Request-Headers"].split(",")[:-1]

        for key, status in ((KEY, 200), ("wrong", 401)):
            headers = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
            response = browser.post("/v1/chat/completions", json=chat(), headers=headers)
            assert (response.status_code, allowed(response)) == (status, PAGE)
            assert "x-mine" in response.headers["access-control-expose-headers"]
            assert "origin" in response.headers["vary"]

        foreign = browser.options(
            "/v1/chat/completions", headers={"Origin": "https://evil.example", **ASKED}
        )
        assert (foreign.status_code, allowed(foreign)) == (204, None)


def test_without_rules_no_page_is_let_in_whatever_the_engine_says(
    engine: FakeEngine, router: Routers
) -> None:
    engine.defaults(headers=[["Access-Control-Allow-Origin", "*"], ["Content-Language", "1"]])
    with httpx.Client(base_url=router([engine]).address, headers={"Origin": PAGE}) as browser:
        preflight = browser.options("/v1/chat/completions", headers=ASKED)
        assert (preflight.status_code, preflight.headers["allow"]) == (204, "POST, OPTIONS")
        assert allowed(preflight) is None
        response = browser.post(
            "/v1/chat/completions", json=chat(), headers={"Authorization": f"Bearer {KEY}"}
        )
        assert (response.status_code, response.headers["content-language"], allowed(response)) == (
            200,
            "1",
            None,
        )


def test_every_origin_may_be_let_in(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], cors={"origins": ["*"]})
    headers = {"Origin": PAGE, "Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=plane.address, headers=headers) as browser:
        with browser.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
            assert allowed(stream) == "*"
            assert stream.read().endswith(b"data: [DONE]\n\n")
        assert allowed(browser.get("/v1/models")) == "*"
        assert allowed(browser.get("/healthz")) == "*"
