"""Routes that end with `*`: whatever name an agent asks for, somebody serves it who may."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness import KEY, FakeEngine, ServedRouter, serving
from raw_http import eventually

CONFIG = """
[[models]]
name = "small"
backend = "external"
engine = "vllm"
urls = ["{small}"]
served_name = "org/Small"

[[models]]
name = "large"
backend = "external"
engine = "vllm"
urls = ["{large}"]
served_name = "org/Large"

[[routes]]
name = "claude-*"
targets = [{{ model = "small" }}]
generic_proxy = true

[[routes]]
name = "claude-opus-*"
targets = [{{ model = "large" }}]

[[routes]]
name = "*"
targets = [{{ model = "large" }}]

[[routes]]
name = "claude-exact"
targets = [{{ model = "large" }}]
"""


@pytest.fixture(scope="module")
def engines() -> Iterator[list[FakeEngine]]:
    started = [FakeEngine(name, "--port", "0") for name in ("small", "large")]
    yield started
    for engine in started:
        engine.kill()


@pytest.fixture(scope="module")
def server(engines: list[FakeEngine]) -> Iterator[ServedRouter]:
    small, large = engines
    with serving(CONFIG.format(small=small.address, large=large.address)) as one:
        eventually(lambda: one.running() == 2, "both engines to be reached")
        yield one


@pytest.fixture(autouse=True)
def forget(engines: list[FakeEngine]) -> None:
    for engine in engines:
        engine.reset()


@pytest.fixture(scope="module")
def key_for(server: ServedRouter) -> Callable[[str], str]:
    """Makes a key that may use these routes alone."""

    def make(models: str) -> str:
        name = f"key-{models.replace('*', 'star')}"
        made = server.keys("create", name, "--allowed-models", models)
        assert made.returncode == 0, made.stderr
        assert "no route is called so" not in made.stderr
        return made.stdout.split()[-1]

    return make


def messages(model: str, **more: object) -> dict[str, object]:
    return {
        "model": model,
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
        **more,
    }


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("claude-haiku-4-5-20251001", "org/Small"),
        ("claude-opus-4-1", "org/Large"),
        ("claude-exact", "org/Large"),
        ("gpt-5", "org/Large"),
        ("small", "org/Small"),
    ],
)
def test_the_exact_name_then_the_longest_beginning_serves_and_the_name_comes_back(
    server: ServedRouter, engines: list[FakeEngine], model: str, served: str
) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"):
        body = {**messages(model), "input": "hi", "prompt": "hi"}
        answer = server.request("POST", path, body)
        assert answer.status == 200, answer.body
        assert answer.json()["model"] == model
        assert "org/" not in answer.body.decode()
    received = [entry for engine in engines for entry in engine.inference()]
    assert {entry["model"] for entry in received} == {served}


def test_a_stream_and_an_error_say_the_name_that_was_asked_for(
    server: ServedRouter, engines: list[FakeEngine]
) -> None:
    stream = server.chat(messages("claude-x", stream=True)).body.decode()
    assert '"model": "claude-x"' in stream or '"model":"claude-x"' in stream
    assert "org/Small" not in stream and "claude-*" not in stream
    error = "The model `org/Small` cannot do this."
    failed = server.chat(messages("claude-x", fake={"status": 400, "error": error}))
    assert failed.status == 400
    assert "claude-x" in failed.body.decode() and "org/Small" not in failed.body.decode()


def test_no_list_has_them_but_each_name_can_be_looked_up(server: ServedRouter) -> None:
    listed = [model["id"] for model in server.request("GET", "/v1/models").json()["data"]]
    assert listed == ["small", "large", "claude-exact"]
    assert server.request("GET", "/v1/models/claude-haiku").json()["id"] == "claude-haiku"


def test_metrics_have_the_pattern_and_not_what_clients_made_up(server: ServedRouter) -> None:
    assert server.chat(messages("claude-made-up-by-a-client")).status == 200
    page = server.metrics()
    assert 'route="claude-*"' in page
    assert "made-up-by-a-client" not in page


def test_a_key_reaches_by_patterns_what_it_may_use_and_nothing_more(
    server: ServedRouter, key_for: Callable[[str], str]
) -> None:
    claude, small, star = key_for("claude-*"), key_for("small"), key_for("*")
    for key, model, status in [
        (claude, "claude-haiku", 200),
        (claude, "claude-opus-4", 403),
        (claude, "claude-exact", 403),
        (claude, "gpt-5", 403),
        (claude, "small", 403),
        (small, "small", 200),
        (small, "claude-haiku", 403),
        (small, "m1", 403),
        (star, "m1", 200),
        (star, "small", 403),
        (star, "claude-haiku", 403),
        (KEY, "m1", 200),
    ]:
        answer = server.chat(messages(model), key=key)
        assert answer.status == status, (key, model, answer.body)
        shown = server.request("GET", f"/v1/models/{model}", key=key)
        assert shown.status == (200 if status == 200 else 404), model
    assert server.chat(messages("m1"), key=None).status == 401


def test_the_generic_proxy_takes_such_a_name(
    server: ServedRouter, engines: list[FakeEngine]
) -> None:
    headers = [("x-gpustack-model", "claude-anything")]
    answer = server.request("POST", "/model/proxy/tokenize", {"prompt": "hi"}, headers=headers)
    assert answer.status == 200, answer.body
    assert engines[0].received("/tokenize")
    shut = [("x-gpustack-model", "gpt-5")]
    answer = server.request("POST", "/model/proxy/tokenize", {"prompt": "hi"}, headers=shut)
    assert answer.status == 404, "that route has no generic proxy"


def test_a_stored_response_is_found_under_the_name_that_made_it(server: ServedRouter) -> None:
    made = server.request("POST", "/v1/responses", {"model": "gpt-5", "input": "hi"}).json()
    found = server.request("GET", f"/v1/responses/{made['id']}")
    assert (found.status, found.json()["model"]) == (200, "gpt-5")
