"""Flags of engines as they were recorded, and what people write for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from gpustack_fast.backends.flags import FlagTable, Found, recorded, recorded_versions
from gpustack_fast.backends.vllm_flags import OURS
from gpustack_fast.backends.vllm_memory import PARALLEL, UTILIZATION
from gpustack_fast.backends.vllm_parsers import FAMILIES, family_of

ROOT = Path(__file__).parents[3]
VERSIONS = ["0.32.0", "0.33.0"]
TABLE = FlagTable.read(
    """engine 1.0
tool-call-parser hermes
0 --enable-x --no-enable-x
0 --disable-y --enable-y
1 --size -s
? --maybe
* --names
1 --json-config
1 --optimization-level
"""
)


def vllm(version: str) -> FlagTable:
    found = recorded("vllm", version)
    assert found is not None
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_read_at_run_time_is_what_was_recorded_for_people(version: str) -> None:
    rows = (ROOT / "engines" / "vllm" / f"flags-{version}.txt").read_text().splitlines()
    assert rows[0] == f"vllm {version}+cpu"
    shown = {name for row in rows[2:] for name in re.findall(r"--[a-z0-9-]+", row.split(" = ")[0])}
    names = vllm(version).names()
    assert shown - names == {"--help"}
    hidden = {name for name in names - shown if name.startswith("--")}
    assert all(name.startswith("--no-") for name in hidden), "no flag is missing for people"


def test_every_recorded_version_is_found_the_oldest_first() -> None:
    assert recorded_versions("vllm") == VERSIONS
    assert recorded("vllm", "0.32.0+cpu") is not None, "a variant has the same flags"
    assert recorded("vllm", "0.1.0") is None
    assert recorded("vllm", "../../vllm-0.32.0") is None
    assert recorded("vllm", "*") is None
    either = recorded("vllm", None)
    assert either is not None and either.versions == tuple(VERSIONS)
    assert either.names() >= vllm("0.32.0").names() | vllm("0.33.0").names()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_flags_that_mean_something_here_are_there_in_every_version(version: str) -> None:
    names = vllm(version).names()
    assert {*PARALLEL.values(), UTILIZATION, *OURS} - names == set()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_parser_of_a_family_is_one_that_vllm_has(version: str) -> None:
    words = vllm(version).words
    for family in FAMILIES:
        assert not family.tool or family.tool in words["tool-call-parser"], family
        assert not family.reasoning or family.reasoning in words["reasoning-parser"], family


@pytest.mark.parametrize(
    ("architecture", "name", "tool", "reasoning"),
    [
        ("Qwen3ForCausalLM", "Qwen/Qwen3-8B", "hermes", "qwen3"),
        ("Qwen3MoeForCausalLM", "Qwen/Qwen3-30B-A3B-Instruct-2507", "hermes", ""),
        ("Qwen3MoeForCausalLM", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_xml", ""),
        ("Qwen2ForCausalLM", "Qwen/Qwen2.5-7B-Instruct", "hermes", ""),
        ("Qwen2ForCausalLM", "Qwen/QwQ-32B", "hermes", "deepseek_r1"),
        ("Qwen3ForCausalLM", "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "", "deepseek_r1"),
        ("LlamaForCausalLM", "meta-llama/Llama-3.1-8B-Instruct", "llama3_json", ""),
        ("LlamaForCausalLM", "NousResearch/Hermes-3-Llama-3.1-8B", "hermes", ""),
        ("LlamaForCausalLM", "Llama_3_2-1B", "llama3_json", ""),
        ("GptOssForCausalLM", "openai/gpt-oss-20b", "openai", "openai_gptoss"),
        ("Glm4MoeForCausalLM", "zai-org/GLM-4.6", "glm45", "glm45"),
        ("MistralForCausalLM", "mistralai/Mistral-7B-Instruct-v0.3", "mistral", ""),
    ],
)
def test_a_family_is_known_by_architecture_and_name(
    architecture: str, name: str, tool: str, reasoning: str
) -> None:
    family = family_of(architecture, [name])
    assert family is not None
    assert (family.tool, family.reasoning) == (tool, reasoning)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("Qwen3ForCausalLM", "my-model"),
        ("LlamaForCausalLM", "Qwen3-8B"),
        ("Qwen3ForCausalLM", "Qwen/Qwen3Guard-Gen-8B"),
        ("", "Qwen/Qwen3-8B"),
    ],
)
def test_neither_a_name_nor_an_architecture_is_enough(architecture: str, name: str) -> None:
    assert family_of(architecture, [name]) is None


@pytest.mark.parametrize(
    ("parameters", "given"),
    [
        (["--size", "3"], {"--size": "3"}),
        (["--size=3", "-s", "4"], {"--size": "4"}),
        (["--enable_x"], {"--enable-x": "true"}),
        (["--no-enable-x"], {"--enable-x": "false"}),
        (["--enable-y"], {"--disable-y": "false"}),
        (["--disable-y"], {"--disable-y": "true"}),
        (["--size", "-1"], {"--size": "-1"}),
        (["--names", "a", "b", "--size", "1"], {"--names": "b", "--size": "1"}),
        (["--json-config.a.b", "1", "--json-config.c=2"], {"--json-config": "2"}),
        (["-O3"], {"--optimization-level": "3"}),
        (["-O=2", "-O", "1"], {"--optimization-level": "1"}),
        (["-Ofast"], {"--optimization-level": "fast"}),
        (["--size", "- a sentence", "-s=- b c"], {"--size": "- b c"}),
        (["--names", "- a", "--enable-x"], {"--names": "- a", "--enable-x": "true"}),
        (["--maybe", "--size=1"], {"--maybe": "true", "--size": "1"}),
        (["--other", "5", "--size=1"], {"--other": "5", "--size": "1"}),
    ],
)
def test_flags_are_understood_in_every_spelling(
    parameters: list[str], given: dict[str, str]
) -> None:
    assert TABLE.given(parameters) == given


@pytest.mark.parametrize(
    ("parameters", "index", "message"),
    [
        (["--sise=3"], 0, "The flag --sise is not known to E 1.0. Did you mean --size?"),
        (["--size=1", "--nothing-like-it"], 1, "Remove it, or correct it."),
        (["--size"], 0, "The flag --size needs a value."),
        (["--size", "--enable-x"], 0, "The flag --size needs a value."),
        (["--enable-x=1"], 0, "The flag --enable-x takes no value. Remove `=1`."),
        (["--enable-x", "1"], 1, "`1` belongs to no flag."),
        (["--size 3"], 0, "Write them as two entries of the list, or as `--size=VALUE`."),
        (["--sise\t3"], 0, "The flag --sise is not known to E 1.0. Did you mean --size?"),
        (["--enable-x.y", "1"], 0, "The flag --enable-x.y is not known"),
        (["-z"], 0, "The flag -z is not known"),
        ([""], 0, "belongs to no flag"),
    ],
)
def test_what_an_engine_would_refuse_is_told_with_its_place(
    parameters: list[str], index: int, message: str
) -> None:
    ((found, problem),) = list(TABLE.problems(parameters, "E"))
    assert found == index and message in problem


@pytest.mark.parametrize("flag", ["--size", "--no-such-flag", "-s"])
def test_a_value_that_may_be_a_key_is_not_repeated(flag: str) -> None:
    for words in ([f"{flag} sk-secret"], [flag, "sk-secret"], [f"{flag}=sk-secret"]):
        assert "secret" not in " ".join(problem for _, problem in TABLE.problems(words, "E"))


def test_what_an_engine_takes_is_let_through() -> None:
    words = ["--names", "a", "b", "-s", "1", "--maybe", "--maybe", "x", "--json-config.a=1"]
    assert list(TABLE.problems(words, "E")) == []


WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(sorted(TABLE.names())).flatmap(
        lambda name: st.sampled_from([name, f"{name}=", f"{name}=1", f"{name}.a", f"{name} 1"])
    ),
    st.sampled_from(["-", "--", "-O", "-O3", "-O=2", "-O-", "--=", "--.", "-1", "--no-", "--\0"]),
    st.sampled_from(["- a b", "-- a=b", "-a =b"]),
)


@examples(st.lists(WORDS, max_size=8))
def test_whatever_people_write_is_read_and_each_complaint_has_its_place(words: list[str]) -> None:
    problems = list(TABLE.problems(words, "E"))
    places = [index for index, _ in problems]
    assert places == sorted(set(places)) and all(0 <= index < len(words) for index in places)
    found = list(TABLE.find(words))
    assert all(words[one.index].startswith(one.written) for one in found)
    # Nothing is read twice, and nothing that is neither told nor taken is left.
    taken = {place for one in found for place in range(one.index, one.index + _width(one, words))}
    assert taken | set(places) == set(range(len(words)))


def _width(found: Found, words: list[str]) -> int:
    word = words[found.index]
    joined = "=" in word or (word.startswith("-O") and word != "-O")
    return 1 if joined else 1 + len(found.values)
