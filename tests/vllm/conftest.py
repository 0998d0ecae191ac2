"""One real vLLM of each kind behind the whole product, shared by all tests, and SDKs as clients.

A server starts them; what is said to them goes through other routers, to which they are somebody
else's. The public names differ from those that the engines know: `tiny` is the model's own name,
and `team/alias:v1` a route.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from harness import ServedRouter
from vllm_engine import RESPONSE_WITHIN, START, VllmEngine, behind_router, openai_client
from vllm_python import VllmPython
from vllm_server import VllmServer

FOLDER = Path(__file__).parent

ENGINES = {
    "chat_engine": "chat",
    "embedder": "text",
    "reranker": "reranker",
    "listener": "speech",
}
"""The models of the engines, by the fixtures that give them."""

ADAPTER = """
[[routes]]
name = "tiny:tuned"
targets = [{ model = "tiny", overridden_model_name = "tuned" }]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder. The limit holds the start of an engine too.

    Those that need no engine go first, while the engines start, and those that end engines last.
    """
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(START + RESPONSE_WITHIN))
    order = {"test_vllm_flags.py": -2, "test_vllm_sizing.py": -1, "test_vllm_death.py": 1}
    items.sort(key=lambda item: order.get(item.path.name, 0))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[VllmServer]:
    """It starts the engines that the tests of this run need, all at once."""
    needed = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    server = VllmServer(model for fixture, model in ENGINES.items() if fixture in needed)
    yield server
    server.close()


@pytest.fixture(scope="session", autouse=True)
def begun(request: pytest.FixtureRequest) -> None:
    """Has the engines start before the first test."""
    if any("server" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("server")


@pytest.fixture(scope="session")
def chat_engine(server: VllmServer) -> VllmEngine:
    return server.running("chat")


@pytest.fixture(scope="session")
def router(chat_engine: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `chat_engine`."""
    with behind_router(chat_engine, "llm", ADAPTER) as router:
        yield router


@pytest.fixture(scope="session")
def embedder(server: VllmServer) -> VllmEngine:
    return server.running("text")


@pytest.fixture(scope="session")
def embedding_router(embedder: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `embedder`."""
    with behind_router(embedder, "embedding") as router:
        yield router


@pytest.fixture(scope="session")
def reranker(server: VllmServer) -> VllmEngine:
    return server.running("reranker")


@pytest.fixture(scope="session")
def reranking_router(reranker: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `reranker`."""
    with behind_router(reranker, "reranker") as router:
        yield router


@pytest.fixture(scope="session")
def listener(server: VllmServer) -> VllmEngine:
    return server.running("speech")


@pytest.fixture(scope="session")
def listening_router(listener: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `listener`."""
    with behind_router(listener, "speech_to_text") as router:
        yield router


@pytest.fixture(scope="session")
def vllm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmPython]:
    """One interpreter for all scripts that ask vLLM without an engine."""
    python = VllmPython(tmp_path_factory.mktemp("scripts"))
    yield python
    python.close()


@pytest.fixture(scope="session")
def client(router: ServedRouter) -> Iterator[openai.OpenAI]:
    with openai_client(router) as client:
        yield client


@pytest.fixture(scope="session")
def anthropic_client(router: ServedRouter) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=router.address, api_key=router.key, max_retries=0, timeout=RESPONSE_WITHIN
    ) as client:
        yield client
