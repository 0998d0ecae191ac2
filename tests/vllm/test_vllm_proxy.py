"""The list of models, and any path of a real vLLM through the generic proxy."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from harness import ServedRouter
from raw_http import Response
from vllm_engine import VllmEngine, ask, masked


def proxied(
    router: ServedRouter, path: str, body: Any = None, model: str | None = "tiny"
) -> Response:
    """A path of the engine; `model` goes in the header."""
    headers = [] if model is None else [("X-GPUStack-Model", model)]
    return ask(
        router, "GET" if body is None else "POST", f"/model/proxy{path}", body, headers=headers
    )


def test_the_models_are_listed_by_their_public_names(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"tiny", "tiny:tuned", "team/alias:v1"}
    assert client.models.retrieve("team/alias:v1").id == "team/alias:v1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("chat-served")


def test_the_name_in_the_header_leads_to_any_path(
    router: ServedRouter, chat_engine: VllmEngine
) -> None:
    body = {"model": chat_engine.model, "prompt": "Hi"}
    response = proxied(router, "/tokenize", body)
    assert response.status == 200
    assert response.json()["tokens"] == [39, 72]
    assert response.body == chat_engine.request("POST", "/tokenize", body).body
    assert proxied(router, "/version").json() == {"version": "0.32.0"}


def test_the_name_in_the_body_leads_there_too(router: ServedRouter) -> None:
    response = proxied(router, "/detokenize", {"model": "tiny", "tokens": [39, 72]}, model=None)
    assert response.json() == {"prompt": "Hi"}


def test_an_error_of_the_engine_passes_the_proxy(router: ServedRouter) -> None:
    response = proxied(router, "/tokenize", {"prompt": 5})
    assert response.status == 400


CLOSED = {
    "/load",
    "/metrics",
    "/kv_event_sources",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/v1/responses",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
}
"""Paths of this vLLM that no client may use through the proxy."""

OPEN = {
    "/health",
    "/ping",
    "/version",
    "/tokenize",
    "/detokenize",
    "/invocations",
    "/generative_scoring",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/systemone",
}
"""Paths that clients may use: they show nothing of other clients and change nothing."""


def test_every_path_of_the_engine_has_been_looked_at(chat_engine: VllmEngine) -> None:
    assert set(chat_engine.request("GET", "/openapi.json").json()["paths"]) == CLOSED | OPEN


@pytest.mark.parametrize(
    "path",
    [
        *(path.replace("{response_id}", "resp_1") for path in sorted(CLOSED)),
        "/collective_rpc",
        "/reset_prefix_cache",
        "/v1/load_lora_adapter",
        "/%6detrics",
        "//metrics",
        "/v1/%72esponses/resp_1",
    ],
)
def test_what_is_closed_never_reaches_the_engine(
    router: ServedRouter, chat_engine: VllmEngine, path: str
) -> None:
    for body in (None, {"model": chat_engine.model, "input": "Hello"}):
        response = proxied(router, path, body)
        assert response.status == 404
        assert "The generic proxy does not lead" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", sorted(OPEN))
def test_what_is_open_reaches_the_engine(router: ServedRouter, path: str) -> None:
    assert proxied(router, path).status in (200, 405)


def test_a_route_without_the_proxy_says_how_to_enable_it(router: ServedRouter) -> None:
    response = proxied(router, "/version", model="team/alias:v1")
    assert response.status == 404
    assert "generic_proxy" in response.json()["error"]["message"]


def test_the_number_of_a_route_leads_there(router: ServedRouter) -> None:
    numbers = {
        route["name"]: route["id"]
        for route in router.request("GET", "/v2/model-routes").json()["items"]
    }
    response = proxied(router, f"/{numbers['tiny']}/version", model=None)
    assert response.json() == {"version": "0.32.0"}


def test_a_path_arrives_as_it_was_written(router: ServedRouter, chat_engine: VllmEngine) -> None:
    for path in ("/v1%2Fmodels?a=%20+b", "/v1//models", "/%76ersion", "/no/such/path"):
        through, direct = proxied(router, path), chat_engine.request("GET", path)
        assert (through.status, masked(through.body)) == (direct.status, masked(direct.body))


@pytest.mark.parametrize(
    "path", ["/v1/../metrics", "/v1/%2e%2e/metrics", "/version%2F..%2Fmetrics"]
)
def test_dots_climb_nowhere(router: ServedRouter, path: str) -> None:
    assert proxied(router, path).status == 400


def test_nobody_reaches_an_engine_without_a_key(router: ServedRouter) -> None:
    headers = [("X-GPUStack-Model", "tiny")]
    assert ask(router, "GET", "/model/proxy/version", key=None, headers=headers).status == 401
