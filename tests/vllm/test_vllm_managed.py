"""vLLM as an engine of ours, used through the server that has started it.

What becomes of its ends is in test_vllm_death.py.
"""

from __future__ import annotations

from vllm_engine import VllmEngine, openai_client
from vllm_server import VllmServer


def test_the_sdk_is_served_through_the_router(server: VllmServer, chat_engine: VllmEngine) -> None:
    assert server.answers("chat")
    assert {"leader", "VLLM::EngineCor", "VLLM::Worker"} <= chat_engine.processes().keys()


def test_an_adapter_of_its_lora_list_is_served(server: VllmServer, chat_engine: VllmEngine) -> None:
    with openai_client(server.router) as client:
        names = [chat_engine.model, f"{chat_engine.model}:tuned"]
        base, tuned = [
            client.completions.create(model=name, prompt="Hi", max_tokens=16, temperature=0)
            for name in names
        ]
    assert [base.model, tuned.model] == names
    assert base.choices[0].text != tuned.choices[0].text


def test_an_embedding_model_is_served(server: VllmServer, embedder: VllmEngine) -> None:
    assert server.answers("text")


def test_a_reranker_is_served(server: VllmServer, reranker: VllmEngine) -> None:
    assert server.answers("reranker")


def test_a_model_of_speech_is_served(server: VllmServer, listener: VllmEngine) -> None:
    assert server.answers("speech")
