"""LangChain's two chat classes and its embeddings, and litellm, against a real vLLM."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from harness import ServedRouter
from vllm_engine import RESPONSE_WITHIN


@tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sun in {city}"


@pytest.fixture(params=["openai", "responses", "anthropic"])
def model(request: pytest.FixtureRequest, router: ServedRouter) -> Any:
    """One of LangChain's chat models."""
    fields: dict[str, Any] = {
        "model": "team/alias:v1",
        "max_tokens": 24,
        "temperature": 0,
        "max_retries": 0,
    }
    fields |= {"api_key": router.key, "timeout": RESPONSE_WITHIN}
    if request.param == "anthropic":
        return ChatAnthropic(base_url=router.address, **fields)
    responses = request.param == "responses"
    return ChatOpenAI(
        base_url=f"{router.address}/v1", use_responses_api=responses, stream_usage=True, **fields
    )


def test_langchain_invokes_and_streams_the_same(model: Any) -> None:
    asked = model.invoke("Hi")
    whole: Any = None
    for chunk in model.stream("Hi"):
        whole = chunk if whole is None else whole + chunk
    assert whole.text == asked.text != ""
    assert whole.usage_metadata["output_tokens"] == asked.usage_metadata["output_tokens"] == 24


def test_langchain_gets_a_tool_call(router: ServedRouter) -> None:
    model: Any = ChatOpenAI(
        model="tiny",
        base_url=f"{router.address}/v1",
        api_key=router.key,  # type: ignore[arg-type]
        max_retries=0,
        seed=7,
    )
    forced = model.bind_tools([weather], tool_choice="weather", strict=True)
    streamed: Any = None
    for chunk in forced.stream("Hi", max_tokens=4000):
        streamed = chunk if streamed is None else streamed + chunk
    for response in (forced.invoke("Hi", max_tokens=4000), streamed):
        [call] = response.tool_calls
        assert call["name"] == "weather"
        assert call["args"].keys() == {"city"}


def test_langchain_embeds(embedding_router: ServedRouter) -> None:
    embeddings = OpenAIEmbeddings(
        model="tiny",
        base_url=f"{embedding_router.address}/v1",
        api_key=embedding_router.key,  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    assert [len(one) for one in embeddings.embed_documents(["a", "bb"])] == [128, 128]


@pytest.fixture(scope="module")
def litellm() -> Iterator[ModuleType]:
    """litellm, imported late and with its own list of prices: it would fetch one."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm as module
    module.suppress_debug_info = True
    module.telemetry = False
    yield module
    patch.undo()


quiet = pytest.mark.filterwarnings("ignore")
"""litellm uses deprecated parts of other libraries."""


def of(router: ServedRouter, path: str = "/v1") -> dict[str, Any]:
    return {
        "api_base": router.address + path,
        "api_key": router.key,
        "max_retries": 0,
        "timeout": RESPONSE_WITHIN,
    }


@quiet
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_litellm_chats_and_streams(
    litellm: ModuleType, router: ServedRouter, provider: str
) -> None:
    path = "/v1" if provider == "openai" else ""
    asked = {
        "model": f"{provider}/tiny",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 24,
    }
    whole = litellm.completion(**asked, temperature=0, **of(router, path))
    chunks = list(litellm.completion(**asked, temperature=0, stream=True, **of(router, path)))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert whole.usage.completion_tokens == 24


@quiet
def test_litellm_embeds_and_reranks(
    litellm: ModuleType, embedding_router: ServedRouter, reranking_router: ServedRouter
) -> None:
    embedded = litellm.embedding(model="openai/tiny", input=["a", "bb"], **of(embedding_router))
    assert [len(one["embedding"]) for one in embedded.data] == [128, 128]
    ranked = litellm.rerank(
        model="jina_ai/tiny",
        query="a",
        documents=["a", "bb", "ccc"],
        top_n=2,
        api_base=f"{reranking_router.address}/v1/rerank",
        api_key=reranking_router.key,
    )
    assert len(ranked.results) == 2
    assert ranked.results[0]["relevance_score"] >= ranked.results[1]["relevance_score"]
