"""Frameworks as clients: LangChain's two chat classes and its embeddings, and litellm."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from harness import DataPlaneRouter, FakeEngine

Routers = Callable[..., DataPlaneRouter]

CALLS = [
    {"name": "weather", "arguments": '{"city": "Paris"}', "id": "call_1"},
    {"name": "weather", "arguments": '{"city": "Rome"}', "id": "call_2"},
]


@tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sun in {city}"


def ordered(**orders: Any) -> dict[str, str]:
    return {"X-Fake": json.dumps(orders)}


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture(params=[["openai"], ["openai", "anthropic"]], ids=["translated", "native"])
def plane(request: pytest.FixtureRequest, engine: FakeEngine, router: Routers) -> DataPlaneRouter:
    return router(
        [engine],
        served_name="org/Served-1B",
        model={"dialects": request.param, "stream_usage": True},
    )


# --- LangChain ---


def chat_openai(plane: DataPlaneRouter, **fields: Any) -> Any:
    address: dict[str, Any] = {"base_url": f"{plane.address}/v1", "api_key": plane.key}
    return ChatOpenAI(model="m", max_retries=0, stream_usage=True, **address, **fields)


def chat_anthropic(plane: DataPlaneRouter, **fields: Any) -> Any:
    address: dict[str, Any] = {"base_url": plane.address, "api_key": plane.key}
    return ChatAnthropic(
        model="m", max_tokens=50, temperature=0.5, max_retries=0, **address, **fields
    )  # type: ignore[call-arg]


@pytest.fixture(params=["openai", "responses", "anthropic"])
def make_model(request: pytest.FixtureRequest, plane: DataPlaneRouter) -> Callable[..., Any]:
    """`make_model(**orders)`: a chat model of LangChain's."""

    def make(**orders: Any) -> Any:
        if request.param == "anthropic":
            return chat_anthropic(plane, default_headers=ordered(**orders))
        responses = request.param == "responses"
        return chat_openai(plane, use_responses_api=responses, default_headers=ordered(**orders))

    return make


def test_langchain_invokes_and_streams(make_model: Callable[..., Any]) -> None:
    model = make_model(words=["Hel", "lo"])
    assert model.invoke("?").text == "Hello"
    whole: Any = None
    for chunk in model.stream("?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.text == "Hello"
    assert whole.usage_metadata["output_tokens"] == 2


def test_langchain_streams_asynchronously(make_model: Callable[..., Any]) -> None:
    async def use() -> str:
        return "".join([chunk.text async for chunk in make_model(words=["Hel", "lo"]).astream("?")])

    assert asyncio.run(use()) == "Hello"


def test_langchain_gets_parallel_tool_calls_and_sends_their_results(
    make_model: Callable[..., Any], engine: FakeEngine
) -> None:
    model = make_model(calls=CALLS).bind_tools([weather])
    whole: Any = None
    for chunk in model.stream("?"):
        whole = chunk if whole is None else whole + chunk
    expected = [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})]
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == expected
    asked = model.invoke("?")
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == expected
    results = [
        ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
        for call in asked.tool_calls
    ]
    assert (
        make_model(words=["So."])
        .bind_tools([weather])
        .invoke([HumanMessage("?"), asked, *results])
        .text
        == "So."
    )
    assert "sun in Rome" in engine.last()["text"]


def test_langchain_gets_structured_output(plane: DataPlaneRouter) -> None:
    schema = {
        "title": "Place",
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    model = chat_openai(plane, default_headers=ordered(words=['{"city": "Paris"}']))
    assert model.with_structured_output(schema).invoke("?") == {"city": "Paris"}


def test_langchain_sends_token_ids_for_embeddings_and_gets_vectors(
    plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    embeddings = OpenAIEmbeddings(
        model="m",
        base_url=f"{plane.address}/v1",
        api_key=plane.key,  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    assert len(embeddings.embed_documents(["a", "bb"])) == 2
    assert engine.last()["model"] == "org/Served-1B"


# --- litellm ---


@pytest.fixture(scope="session")
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


def address(plane: DataPlaneRouter, path: str = "/v1") -> dict[str, Any]:
    return {"api_base": plane.address + path, "api_key": plane.key, "max_retries": 0}


@quiet
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm_completes_and_streams(
    litellm: ModuleType, plane: DataPlaneRouter, provider: str
) -> None:
    asked: dict[str, Any] = {
        "model": f"{provider}/m",
        "messages": [{"role": "user", "content": "?"}],
        **address(plane),
    }
    orders = ordered(words=["Hel", "lo"])
    whole = litellm.completion(**asked, extra_headers=orders)
    assert whole.choices[0].message.content == "Hello"
    chunks = litellm.completion(
        **asked, stream=True, stream_options={"include_usage": True}, extra_headers=orders
    )
    text, usage = "", None
    for chunk in chunks:
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        usage = getattr(chunk, "usage", None) or usage
    assert text == "Hello"
    assert usage is not None
    assert usage.completion_tokens == 2


@quiet
def test_litellm_streams_parallel_tool_calls(litellm: ModuleType, plane: DataPlaneRouter) -> None:
    asked: dict[str, Any] = {
        "model": "openai/m",
        "messages": [{"role": "user", "content": "?"}],
        **address(plane),
    }
    chunks = list(
        litellm.completion(
            **asked, stream=True, extra_headers=ordered(calls=CALLS, interleave=True)
        )
    )
    built = litellm.stream_chunk_builder(chunks)
    found = [
        (call.function.name, call.function.arguments)
        for call in built.choices[0].message.tool_calls
    ]
    assert found == [(call["name"], call["arguments"]) for call in CALLS]


@quiet
def test_litellm_speaks_anthropic_with_its_own_key_header(
    litellm: ModuleType, plane: DataPlaneRouter, engine: FakeEngine
) -> None:
    asked: dict[str, Any] = {
        "model": "anthropic/m",
        "messages": [{"role": "user", "content": "?"}],
        "max_tokens": 9,
    }
    orders = ordered(words=["Hel", "lo"])
    whole = litellm.completion(**asked, **address(plane, ""), extra_headers=orders)
    assert whole.choices[0].message.content == "Hello"
    chunks = litellm.completion(**asked, **address(plane, ""), stream=True, extra_headers=orders)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert plane.key not in json.dumps(engine.journal())


@quiet
def test_litellm_embeds(litellm: ModuleType, plane: DataPlaneRouter) -> None:
    made = litellm.embedding(model="openai/m", input=["a", "bb"], **address(plane))
    assert len(made.data) == 2


@quiet
def test_litellm_reranks(litellm: ModuleType, plane: DataPlaneRouter) -> None:
    """By the name of Jina's: `hosted_vllm` asks for vLLM's `/rerank`, which GPUStack lacks."""
    place = {"api_base": f"{plane.address}/v1/rerank", "api_key": plane.key}
    ranked = litellm.rerank(
        model="jina_ai/m", query="q", documents=["a", "xx", "x"], top_n=2, **place
    )
    assert [result["index"] for result in ranked.results] == [1, 2]


@quiet
def test_litellm_uses_responses(litellm: ModuleType, plane: DataPlaneRouter) -> None:
    made = litellm.responses(model="openai/m", input="hello", **address(plane))
    assert made.output[0].content[0].text == "hello"


@quiet
def test_litellm_streams_asynchronously(litellm: ModuleType, plane: DataPlaneRouter) -> None:
    async def use() -> str:
        asked: dict[str, Any] = {
            "model": "openai/m",
            "messages": [{"role": "user", "content": "?"}],
            **address(plane),
        }
        chunks = await litellm.acompletion(
            **asked, stream=True, extra_headers=ordered(words=["Hel", "lo"])
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(use()) == "Hello"


@quiet
def test_litellm_gets_its_classes_of_errors(litellm: ModuleType, plane: DataPlaneRouter) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/nope", **asked, **address(plane))
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(model="openai/m", **asked, **{**address(plane), "api_key": "wrong"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="anthropic/nope", **asked, **address(plane, ""))
