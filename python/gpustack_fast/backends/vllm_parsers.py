"""Which of vLLM's parsers reads a family's tool calls and reasoning.

Each entry is from vLLM's own documents (`docs/features/tool_calling.md` and `reasoning_outputs.md`)
or, where it says so, from the registries in the wheel of 0.32.0. Families that need a chat template
which the wheel does not carry, or a package beside it, are left out, and so are those of which the
documents name no model.
"""

from __future__ import annotations

import dataclasses

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Models of one architecture whose names have a part in common."""

    architectures: tuple[str, ...]
    name: str
    """A part of the name, in small letters, with `-` for `_` and `.` alike."""
    without: str = ""
    """A part that its name must not have."""
    tool: str = ""
    """For --tool-call-parser; empty: none."""
    reasoning: str = ""
    """For --reasoning-parser; empty: none."""


_LLAMA = ("LlamaForCausalLM",)
_QWEN2 = ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM")
_QWEN3 = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
_DEEPSEEK = ("DeepseekV3ForCausalLM",)
_GLM4 = ("Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM")
_MISTRAL = ("MistralForCausalLM", "MixtralForCausalLM")

FAMILIES = (
    # First, for those that were distilled into others bear their names, too.
    Family(
        architectures=(*_DEEPSEEK, *_LLAMA, *_QWEN2, *_QWEN3),
        name="deepseek-r1",
        reasoning="deepseek_r1",
    ),
    Family(architectures=_QWEN3, name="qwen3-coder", tool="qwen3_xml"),
    # The wheel's registry names `hermes` for Qwen3's calls in JSON (`qwen3_json`). Its Instruct
    # models do not reason, and its Thinking models always do.
    Family(
        architectures=_QWEN3, name="qwen3-", without="instruct", tool="hermes", reasoning="qwen3"
    ),
    Family(architectures=_QWEN3, name="qwen3-", tool="hermes"),
    Family(architectures=_QWEN2, name="qwq-32b", tool="hermes", reasoning="deepseek_r1"),
    Family(architectures=_QWEN2, name="qwen2-5", tool="hermes"),
    Family(architectures=(*_LLAMA, *_MISTRAL), name="hermes-2-pro", tool="hermes"),
    Family(architectures=(*_LLAMA, *_MISTRAL), name="hermes-2-theta", tool="hermes"),
    Family(architectures=(*_LLAMA, *_MISTRAL), name="hermes-3", tool="hermes"),
    Family(architectures=_MISTRAL, name="mistral", tool="mistral"),
    Family(architectures=_LLAMA, name="llama-3-1", tool="llama3_json"),
    Family(architectures=_LLAMA, name="llama-3-2", tool="llama3_json"),
    Family(
        architectures=("Llama4ForConditionalGeneration", "Llama4ForCausalLM"),
        name="llama-4",
        tool="llama4_pythonic",
    ),
    Family(architectures=("GraniteForCausalLM",), name="granite-3-1", tool="granite"),
    Family(architectures=("GraniteForCausalLM",), name="granite-3-2", reasoning="granite"),
    Family(architectures=("GraniteMoeHybridForCausalLM",), name="granite-4", tool="granite4"),
    Family(architectures=("JambaForCausalLM",), name="jamba-1-5", tool="jamba"),
    Family(
        architectures=("GptOssForCausalLM",),
        name="gpt-oss",
        tool="openai",
        reasoning="openai_gptoss",  # the wheel's own default for this architecture
    ),
    Family(architectures=_DEEPSEEK, name="kimi-k2", without="thinking", tool="kimi_k2"),
    Family(architectures=_DEEPSEEK, name="gigachat3", tool="gigachat3"),
    Family(architectures=_DEEPSEEK, name="deepseek-v3-1", reasoning="deepseek_v3"),
    Family(
        architectures=("HunYuanMoEV1ForCausalLM",),
        name="hunyuan-a13b",
        tool="hunyuan_a13b",
        reasoning="hunyuan_a13b",
    ),
    Family(architectures=("LongcatFlashForCausalLM",), name="longcat-flash-chat", tool="longcat"),
    Family(architectures=_GLM4, name="glm-4-7", tool="glm47", reasoning="glm47"),  # the registries
    Family(architectures=_GLM4, name="glm-4-6", tool="glm45", reasoning="glm45"),
    Family(architectures=_GLM4, name="glm-4-5", tool="glm45", reasoning="glm45"),
    Family(architectures=("Olmo3ForCausalLM",), name="olmo-3", tool="olmo3"),
    Family(
        architectures=("MiniMaxM2ForCausalLM",),
        name="minimax-m2",
        tool="minimax_m2",  # the registry
        reasoning="minimax_m2_append_think",
    ),
    Family(
        architectures=("Ernie4_5_MoeForCausalLM",),
        name="ernie-4-5-21b-a3b-thinking",
        tool="ernie45",  # the registry
        reasoning="ernie45",
    ),
)
"""The first that fits is the one."""


def family_of(architecture: str, names: list[str]) -> Family | None:
    """The family of a model that files call `architecture`, and people any of `names`.

    Both have to fit: a name can be anything, and an architecture is shared by many families.
    """
    spelt = [name.lower().replace("_", "-").replace(".", "-") for name in names]
    for family in FAMILIES:
        if architecture in family.architectures and any(
            family.name in name and not (family.without and family.without in name)
            for name in spelt
        ):
            return family
    return None
