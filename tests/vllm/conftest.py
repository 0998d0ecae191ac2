"""One real vLLM of each kind behind the whole product, shared by all tests, and the SDKs that ask it.

The public names differ from those that the engines know: `tiny` is the model's own name, and `team/alias:v1` a route.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from harness import ServedRouter, serving
from vllm_engine import ANSWER, KEY, START, VllmEngine, openai_client, running

FOLDER = Path(__file__).parent

CONFIG = """
[[models]]
name = "tiny"
backend = "external"
engine = "vllm"
urls = ["{address}"]
api_key_env = "TINY_ENGINE_KEY"
served_name = "{served_name}"
categories = ["{category}"]
generic_proxy = true

[[routes]]
name = "team/alias:v1"
targets = [{{ model = "tiny" }}]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder. The limit holds the start of an engine too."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(START + ANSWER))


def behind_router(engine: VllmEngine, category: str) -> Iterator[ServedRouter]:
    config = CONFIG.format(address=engine.address, served_name=engine.model, category=category)
    with serving(config, environment={"TINY_ENGINE_KEY": KEY}) as server:
        yield server


@pytest.fixture(scope="session")
def chat_engine() -> Iterator[VllmEngine]:
    """Chats, completes, looks at images, calls tools."""
    with running("chat", "--enable-auto-tool-choice", "--tool-call-parser", "hermes") as engine:
        yield engine


@pytest.fixture(scope="session")
def router(chat_engine: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `chat_engine`."""
    yield from behind_router(chat_engine, "llm")


@pytest.fixture(scope="session")
def embedder() -> Iterator[VllmEngine]:
    """Makes embeddings, of the text model's last hidden state."""
    with running("text", "--runner", "pooling", "--convert", "embed") as engine:
        yield engine


@pytest.fixture(scope="session")
def embedding_router(embedder: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `embedder`."""
    yield from behind_router(embedder, "embedding")


@pytest.fixture(scope="session")
def reranker() -> Iterator[VllmEngine]:
    """Scores pairs of texts."""
    with running("reranker", "--runner", "pooling") as engine:
        yield engine


@pytest.fixture(scope="session")
def reranking_router(reranker: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `reranker`."""
    yield from behind_router(reranker, "reranker")


@pytest.fixture(scope="session")
def listener() -> Iterator[VllmEngine]:
    """Transcribes speech."""
    with running("speech") as engine:
        yield engine


@pytest.fixture(scope="session")
def listening_router(listener: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `listener`."""
    yield from behind_router(listener, "speech_to_text")


@pytest.fixture(scope="session")
def client(router: ServedRouter) -> Iterator[openai.OpenAI]:
    with openai_client(router) as client:
        yield client


@pytest.fixture(scope="session")
def anthropic_client(router: ServedRouter) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=router.address, api_key=router.key, max_retries=0, timeout=ANSWER) as client:
        yield client
