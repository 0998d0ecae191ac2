"""What is reckoned of a model before it is started, beside what a real vLLM says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpustack_fast.sizing import Estimate, Load, ModelFacts, estimate, memory, read_facts
from vllm_engine import HOME, VllmEngine
from vllm_python import VllmPython

PROGRAM = Path(__file__).with_name("vllm_sizes.py")
MODELS = ["experts", "mla", "window", "text"]
TIED = {"text": True, "experts": False, "mla": False, "window": True}
"""Whether one embedding does for input and output."""
VOCABULARY = 64
"""vLLM fills an embedding up to a multiple of so many tokens."""
CONTEXT, BATCHED_TOKENS, BLOCK, ROOM = 2048, 256, 32, 1 << 30
"""As in vllm_sizes.py: tokens, and bytes for the cache."""


@pytest.fixture(scope="module")
def said(vllm_python: VllmPython) -> dict[str, dict[str, Any]]:
    """What vLLM says, by model. No engine is started."""
    output = vllm_python.run(PROGRAM, *(str(HOME / "models" / name) for name in MODELS))
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return dict(zip(MODELS, lines, strict=True))


def facts_of(name: str) -> ModelFacts:
    return read_facts(HOME / "models" / name)


def part(found: Estimate, name: str) -> int:
    [one] = [one for one in found.parts if one.name == name]
    return one.bytes


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_those_of_the_model_that_vllm_builds(
    said: dict[str, dict[str, Any]], name: str
) -> None:
    facts = facts_of(name)
    filled = -facts.vocabulary % VOCABULARY * facts.hidden * (1 if TIED[name] else 2)
    assert said[name]["parameters"] == facts.parameters + filled
    load = Load(context=CONTEXT, sequences=1)
    assert said[name]["weight_bytes"] == part(estimate(facts, load), "weights") + 2 * filled


@pytest.mark.parametrize("name", MODELS)
def test_the_cache_of_a_request_is_what_vllm_keeps_for_it(
    said: dict[str, dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "BLOCK", BLOCK)  # vLLM's for a CPU
    load = Load(context=CONTEXT, sequences=1, batched_tokens=BATCHED_TOKENS)
    assert part(estimate(facts_of(name), load), "kv_cache") == said[name]["request_bytes"]


@pytest.mark.parametrize("name", ["text", "experts", "mla"])
def test_a_gibibyte_holds_as_many_tokens_as_vllm_says(
    said: dict[str, dict[str, Any]], name: str
) -> None:
    blocks = ROOM // int(facts_of(name).kv_bytes_per_token * BLOCK)
    assert said[name]["capacity"] == blocks * BLOCK


def test_a_gibibyte_holds_as_many_tokens_as_a_running_engine_logged(
    chat_engine: VllmEngine,
) -> None:
    found = re.search(r"KV cache size: ([\d,]+) tokens", chat_engine.log.read_text())
    assert found is not None
    tokens = int(found[1].replace(",", ""))
    assert tokens == ROOM / facts_of("chat").kv_bytes_per_token == 2_097_152
