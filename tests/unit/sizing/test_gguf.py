"""The heads of GGUF files, honest and hostile, and what they say of a model."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sizing.generated import LLAMA, attempt, gguf_bytes

from gpustack_fast.sizing import FactsError, ModelFacts, read_facts
from gpustack_fast.sizing.gguf import Listed, read_head

TENSORS = {"token_embd.weight": (3, 128), "output_norm.weight": (128,)}
VALUES = 3 * 128 + 128


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that each example writes anew."""
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


def facts(file: Path, **metadata: Any) -> ModelFacts:
    """`llama__block_count` stands for `llama.block_count`."""
    more = {name.replace("__", "."): value for name, value in metadata.items()}
    file.write_bytes(gguf_bytes({**LLAMA, **more}, TENSORS) + bytes(2 * VALUES))
    return read_facts(file)


def other(file: Path, architecture: str, **fields: Any) -> ModelFacts:
    """The same model of another architecture, with fields of that."""
    metadata: dict[str, Any] = {
        name.replace("llama.", f"{architecture}.", 1): value for name, value in LLAMA.items()
    }
    metadata["general.architecture"] = architecture
    metadata |= {f"{architecture}.{name.replace('__', '.')}": fields[name] for name in fields}
    file.write_bytes(gguf_bytes(metadata, TENSORS) + bytes(2 * VALUES))
    return read_facts(file)


def test_the_metadata_become_facts(file: Path) -> None:
    found = facts(file)
    assert (found.architecture, found.format, found.quantization) == ("llama", "gguf", "Q4_K_M")
    assert (found.layers, found.heads, found.kv_heads, found.hidden) == (4, 8, 2, 128)
    assert (found.vocabulary, found.context, found.generates) == (3, 4096, True)
    assert (found.weight_bytes, found.parameters) == (2 * VALUES, VALUES)
    assert found.kv_bytes_per_token == 4 * 2 * 2 * 16 * 2
    assert found.full_layers == 4 and not found.window_layers and not found.state_bytes


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(file: Path, version: int) -> None:
    file.write_bytes(gguf_bytes(LLAMA, TENSORS, version) + bytes(2 * VALUES))
    assert read_facts(file).layers == 4


@pytest.mark.parametrize(("architecture", "full"), [("gemma2", 2), ("gpt-oss", 2), ("gemma3", 0)])
def test_layers_keep_a_window_as_llama_cpp_has_it(file: Path, architecture: str, full: int) -> None:
    found = other(file, architecture, attention__sliding_window=512)
    assert (found.full_layers, found.window_layers, found.window) == (full, 4 - full, 512)
    assert found.kv_bytes_per_token == full * 2 * 2 * 16 * 2
    assert found.kv_window_bytes_per_token == (4 - full) * 2 * 2 * 16 * 2


def test_a_window_that_llama_cpp_does_not_use_is_none(file: Path) -> None:
    assert facts(file, llama__attention__sliding_window=512).window_layers == 0


def test_a_pattern_in_the_file_is_believed(file: Path) -> None:
    pattern = [True, False, False, True]
    found = other(
        file, "new", attention__sliding_window=8, attention__sliding_window_pattern=pattern
    )
    assert (found.full_layers, found.window_layers) == (2, 2)


def test_layers_with_a_window_may_have_other_heads(file: Path) -> None:
    found = other(
        file,
        "new",
        attention__sliding_window=8,
        attention__sliding_window_pattern=[True, True, True, False],
        attention__key_length=32,
        attention__value_length=24,
        attention__key_length_swa=16,
        attention__value_length_swa=8,
    )
    assert found.kv_bytes_per_token == 1 * 2 * (32 + 24) * 2
    assert found.kv_window_bytes_per_token == 3 * 2 * (16 + 8) * 2


def test_layers_that_share_anothers_keys_and_values_keep_none(file: Path) -> None:
    found = other(file, "gemma3n", attention__shared_kv_layers=3)
    assert found.full_layers == 1 and found.kv_bytes_per_token == 2 * 2 * 16 * 2
    assert found.state_bytes == 0, "nor are they recurrent"


def test_mla_keeps_one_vector_for_all_heads(file: Path) -> None:
    found = other(
        file,
        "deepseek2",
        attention__kv_lora_rank=512,
        rope__dimension_count=64,
        attention__head_count_kv=1,
    )
    assert found.kv_bytes_per_token == 4 * 576 * 2
    assert not found.kv_splits_by_heads


def test_layers_without_heads_keep_a_state(file: Path) -> None:
    found = other(
        file,
        "jamba",
        attention__head_count_kv=[0, 2, 0, 0],
        ssm__inner_size=256,
        ssm__state_size=16,
        ssm__conv_kernel=4,
    )
    assert (found.full_layers, found.kv_heads) == (1, 2)
    assert found.kv_bytes_per_token == 2 * 2 * 16 * 2
    assert found.state_bytes == 3 * (3 * 256 + 256 * 16) * 4


@pytest.mark.parametrize(
    ("architecture", "fields", "generates"),
    [("bert", {}, False), ("qwen3", {"pooling_type": 3}, False), ("qwen3", {}, True)],
)
def test_who_writes_text(
    file: Path, architecture: str, fields: dict[str, Any], generates: bool
) -> None:
    assert other(file, architecture, **fields).generates is generates


def test_long_lists_are_counted_and_not_kept(file: Path) -> None:
    metadata = {**LLAMA, "tokenizer.ggml.scores": [0.5] * 20_000}
    file.write_bytes(gguf_bytes(metadata, {}))
    head = read_head(file)
    assert head.metadata["tokenizer.ggml.scores"] == Listed(20_000)
    assert head.metadata["tokenizer.ggml.tokens"] == Listed(3)


def test_no_more_numbers_are_kept_than_any_model_has(file: Path) -> None:
    byte_lists = 600  # of 8,192 each: 40 times as much memory as in the file
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, byte_lists)
    for number in range(byte_lists):
        key = f"k{number}".encode()
        content += struct.pack("<Q", len(key)) + key
        content += struct.pack("<IIQ", 9, 0, 8192) + bytes(8192)
    file.write_bytes(content)
    kept = read_head(file).metadata
    assert kept["k0"] == [0] * 8192 and kept["k599"] == Listed(8192)
    assert sum(len(one) for one in kept.values() if isinstance(one, list)) <= 1 << 17


def test_a_file_of_which_a_part_is_missing_is_an_error_with_the_next_step(file: Path) -> None:
    file.write_bytes(gguf_bytes(LLAMA, TENSORS) + bytes(2 * VALUES - 200))
    with pytest.raises(FactsError, match=r"was fetched in part: .* Fetch the model again\."):
        read_facts(file)


def test_its_head_is_enough_when_its_size_is_known(file: Path) -> None:
    head = gguf_bytes(LLAMA, TENSORS)
    file.write_bytes(head)
    found = read_facts(file, sizes={"model.gguf": len(head) + 2 * VALUES})
    assert found.weight_bytes == 2 * VALUES


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "damaged"),
        (b"GGML" + bytes(40), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "first version"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "damaged"),
        # a key, a text and a list that are longer than the file
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IQ", 8, 1 << 62),
         "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 1 << 62),
         "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 1 << 62)
         + bytes(4000), "damaged"),
        # a list of numbers that nobody keeps, of which nothing is there
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 10_000),
         "damaged"),
        # lists in lists in lists, and a type that there is not
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 9)
         + struct.pack("<IQ", 9, 1) * 1000, "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99), "damaged"),
        # an alignment of nothing
        (gguf_bytes({"general.alignment": 0}, TENSORS), "damaged"),
        # tensors of more dimensions and more values than any has
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<I", 1000), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t"
         + struct.pack("<IQQIQ", 2, 1 << 60, 1 << 60, 0, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t"
         + struct.pack("<IQIQ", 1, 1, 0, 1 << 63), "damaged"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_such_file_are_an_error_with_the_next_step(
    file: Path, content: bytes, match: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(FactsError, match=match):
        read_head(file)


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("_MOST_ITEMS", 2, "its lists are longer than those of any model"),
        ("LARGEST_HEAD", 100, "its head is larger than that of any model"),
        ("_LONGEST_NAME", 10, "a name is longer than any"),
    ],
)
def test_a_head_without_end_is_left_at_its_limit(
    file: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, why: str
) -> None:
    file.write_bytes(gguf_bytes(LLAMA, TENSORS))
    monkeypatch.setattr(f"gpustack_fast.sizing.gguf.{limit}", value)
    with pytest.raises(FactsError, match=why):
        read_head(file)


def test_a_tensor_of_many_dimensions_is_no_tensor(file: Path) -> None:
    file.write_bytes(gguf_bytes(LLAMA, {"t": (1,) * 8}))
    assert read_head(file).parameters == 1
    file.write_bytes(gguf_bytes(LLAMA, {"t": (1,) * 9}))
    with pytest.raises(FactsError, match="more dimensions than any"):
        read_head(file)


@pytest.mark.parametrize(
    ("kind", "size"), [(0, 1024), (1, 512), (2, 144), (8, 272), (12, 144), (14, 210), (99, 0)]
)
def test_a_tensor_ends_where_its_last_block_does(file: Path, kind: int, size: int) -> None:
    """256 values in F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, and of a type that is not known."""
    file.write_bytes(gguf_bytes(LLAMA, {"t": (2, 128)}, kind=kind))
    head = read_head(file)
    assert head.end - head.begin == size


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"general.architecture": 5},
        {"general.architecture": "llama"},
        {**LLAMA, "llama.block_count": 0},
        {**LLAMA, "llama.block_count": 1 << 40},
        {**LLAMA, "llama.attention.head_count_kv": 1 << 50},
    ],
)
def test_metadata_that_describe_no_model_are_an_error_with_the_next_step(
    file: Path, metadata: dict[str, Any]
) -> None:
    file.write_bytes(gguf_bytes(metadata, {}))
    with pytest.raises(FactsError, match=r"\.$"):
        read_facts(file)


WHOLE = gguf_bytes({**LLAMA, "llama.rope.scale": 1.5, "general.flag": True}, TENSORS)


@given(place=st.integers(0, len(WHOLE) - 1), value=st.binary(min_size=1, max_size=8))
def test_bytes_that_are_changed_give_facts_or_an_error_of_ours(
    file: Path, place: int, value: bytes
) -> None:
    content = bytearray(WHOLE + bytes(2 * VALUES))
    content[place : place + len(value)] = value
    file.write_bytes(content)
    found = attempt(lambda: read_facts(file))
    if found is not None:
        msgspec.json.encode(found)


@given(length=st.integers(0, len(WHOLE)), tail=st.binary(max_size=40))
def test_a_head_that_ends_early_gives_facts_or_an_error_of_ours(
    file: Path, length: int, tail: bytes
) -> None:
    file.write_bytes(WHOLE[:length] + tail)
    attempt(lambda: read_facts(file))


KEYS = [name.removeprefix("llama.") for name in LLAMA if name.startswith("llama.")] + [
    "attention.sliding_window", "attention.kv_lora_rank", "ssm.inner_size", "ssm.state_size",
    "ssm.conv_kernel", "ssm.group_count", "full_attention_interval", "attention.shared_kv_layers",
    "shortconv.l_cache", "wkv.head_size", "attention.key_length", "attention.value_length",
]  # fmt: skip
NUMBERS = st.integers(0, 64) | st.integers(0, (1 << 64) - 1)


@given(
    fields=st.dictionaries(
        st.sampled_from(KEYS),
        NUMBERS | st.lists(NUMBERS, min_size=1, max_size=4) | st.text() | st.floats()
        | st.booleans(),
    ),
    architecture=st.sampled_from(["llama", "gemma3", "mamba", "bert", "qwen3next", "deepseek2"]),
)  # fmt: skip
def test_any_metadata_give_facts_or_an_error_of_ours(
    file: Path, fields: dict[str, Any], architecture: str
) -> None:
    named = {name.replace(".", "__"): fields[name] for name in fields}
    found = attempt(lambda: other(file, architecture, **named))
    if found is not None:
        msgspec.json.encode(found)
