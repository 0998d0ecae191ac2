"""Many clients at once on one real vLLM: everybody gets the response to their own question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import openai
import pytest

from harness import ServedRouter
from raw_http import eventually
from vllm_engine import RESPONSE_WITHIN, VllmEngine

CROWD = 48


def together(
    router: ServedRouter, use: Callable[[openai.AsyncOpenAI, int], Awaitable[None]]
) -> None:
    """Runs `use` for everybody of the crowd at once."""

    async def run() -> None:
        address = f"{router.address}/v1"
        async with openai.AsyncOpenAI(
            base_url=address, api_key=router.key, max_retries=0, timeout=RESPONSE_WITHIN
        ) as client:
            await asyncio.gather(*(use(client, number) for number in range(CROWD)))

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_gets_the_text_of_another(router: ServedRouter, stream: bool) -> None:
    async def use(client: openai.AsyncOpenAI, number: int) -> None:
        prompt = f"<{number}>" * (1 + number)
        name = "tiny" if number % 2 else "team/alias:v1"
        text = ""
        if stream:
            async for chunk in await client.completions.create(
                model=name, prompt=prompt, max_tokens=16, echo=True, stream=True
            ):
                assert chunk.model == name
                text += chunk.choices[0].text
        else:
            response = await client.completions.create(
                model=name, prompt=prompt, max_tokens=16, echo=True
            )
            assert response.model == name
            text = response.choices[0].text
        assert text.startswith(prompt)

    together(router, use)


def test_those_who_leave_free_the_engine_and_the_others_stay(
    router: ServedRouter, chat_engine: VllmEngine
) -> None:
    async def use(client: openai.AsyncOpenAI, number: int) -> None:
        long = number % 2 == 0
        stream = await client.completions.create(
            model="tiny",
            prompt="Hi",
            max_tokens=16_000 if long else 64,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        if long:
            await anext(stream)
            await stream.close()
            return
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 64

    before = chat_engine.metric("generation_tokens_total")
    together(router, use)
    eventually(
        lambda: chat_engine.metric("num_requests_running") == 0,
        "the engine to be free",
        RESPONSE_WITHIN,
    )
    assert chat_engine.metric("generation_tokens_total") - before < 16_000 * CROWD / 2
