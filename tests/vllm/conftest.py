"""One real vLLM of each kind behind the whole product, shared by all tests, and SDKs as clients.

The public names differ from those that the engines know: `tiny` is the model's own name, and
`team/alias:v1` a route.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from harness import ServedRouter
from vllm_engine import (
    HOME,
    RESPONSE_WITHIN,
    START,
    VllmEngine,
    behind_router,
    openai_client,
    running,
)
from vllm_python import VllmPython

FOLDER = Path(__file__).parent


ADAPTER = """
[[routes]]
name = "tiny:tuned"
targets = [{ model = "tiny", overridden_model_name = "tuned" }]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder. The limit holds the start of an engine too."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(START + RESPONSE_WITHIN))


@pytest.fixture(scope="session")
def vllm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmPython]:
    """One interpreter for all scripts that ask vLLM without an engine."""
    python = VllmPython(tmp_path_factory.mktemp("scripts"))
    yield python
    python.close()


@pytest.fixture(scope="session")
def chat_engine() -> Iterator[VllmEngine]:
    """Chats, completes, looks at images, calls tools, and has an adapter that it calls `tuned`."""
    adapter = f"tuned={HOME / 'models' / 'adapter'}"
    flags = [
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        "--enable-lora",
        "--max-lora-rank",
        "8",
    ]
    with running("chat", *flags, "--lora-modules", adapter) as engine:
        yield engine


@pytest.fixture(scope="session")
def router(chat_engine: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `chat_engine`."""
    with behind_router(chat_engine.address, chat_engine.model, "llm", ADAPTER) as server:
        yield server


@pytest.fixture(scope="session")
def embedder() -> Iterator[VllmEngine]:
    """Makes embeddings, of the text model's last hidden state."""
    with running("text", "--runner", "pooling", "--convert", "embed") as engine:
        yield engine


@pytest.fixture(scope="session")
def embedding_router(embedder: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `embedder`."""
    with behind_router(embedder.address, embedder.model, "embedding") as server:
        yield server


@pytest.fixture(scope="session")
def reranker() -> Iterator[VllmEngine]:
    """Scores pairs of texts."""
    with running("reranker", "--runner", "pooling") as engine:
        yield engine


@pytest.fixture(scope="session")
def reranking_router(reranker: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `reranker`."""
    with behind_router(reranker.address, reranker.model, "reranker") as server:
        yield server


@pytest.fixture(scope="session")
def listener() -> Iterator[VllmEngine]:
    """Transcribes speech."""
    with running("speech") as engine:
        yield engine


@pytest.fixture(scope="session")
def listening_router(listener: VllmEngine) -> Iterator[ServedRouter]:
    """The product in front of `listener`."""
    with behind_router(listener.address, listener.model, "speech_to_text") as server:
        yield server


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
