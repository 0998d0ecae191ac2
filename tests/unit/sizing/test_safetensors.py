"""The heads of safetensors files, honest and hostile."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sizing.generated import attempt, write_head

from gpustack_fast.sizing import FactsError
from gpustack_fast.sizing.safetensors import LARGEST_HEAD, read_head


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that each example writes anew."""
    return tmp_path_factory.mktemp("safetensors") / "model.safetensors"


def with_head(file: Path, head: Any, more: int = 0) -> Path:
    content = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(content)) + content + bytes(more))
    return file


SHAPES = st.dictionaries(
    st.text(min_size=1), st.lists(st.integers(0, 50), max_size=4).map(tuple), max_size=8
)


@given(shapes=SHAPES.filter(lambda shapes: "__metadata__" not in shapes))
def test_bytes_and_parameters_are_those_of_all_tensors(
    file: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    size = write_head(file, shapes)
    head = read_head(file)
    values = sum(math.prod(shape) for shape in shapes.values())
    assert (head.bytes, head.parameters, head.size) == (2 * values, values, size)


def test_a_scalar_has_one_value(file: Path) -> None:
    write_head(file, {"scale": ()})
    assert read_head(file).parameters == 1


def test_packed_values_are_counted_but_are_no_parameters(file: Path) -> None:
    write_head(file, {"qweight": (4, 8)}, "I32", 4)
    head = read_head(file)
    assert (head.bytes, head.parameters, head.values) == (128, 0, {"I32": 32})


def test_four_bits_are_half_a_byte(file: Path) -> None:
    head = {"x": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}
    assert read_head(with_head(file, head, 2)).bytes == 2


def test_a_file_of_which_the_head_alone_is_here_says_how_long_it_will_be(file: Path) -> None:
    size = write_head(file, {"x": (1000, 1000)})
    with file.open("r+b") as opened:
        opened.truncate(200)
    assert read_head(file).size == size


def test_what_a_stranger_puts_beside_the_tensors_takes_no_memory(file: Path) -> None:
    head = tensor(more=[[]] * 400_000)
    head["__metadata__"] = {"format": "pt", "junk": [{}] * 400_000}
    tracemalloc.start()
    found = read_head(with_head(file, head, 12))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.parameters == 6
    assert most < 4 * file.stat().st_size


def tensor(**changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12], **changes}}


@pytest.mark.parametrize(
    "head",
    [
        [],
        {"x": 5},
        {"x": {}},
        tensor(dtype=7),
        tensor(shape=[2, -3]),
        tensor(shape=[2, 3.0]),
        tensor(shape=[2, True]),
        tensor(shape=6),
        tensor(shape=[1 << 60, 1 << 60]),
        tensor(shape=[1 << 40, 1 << 40]),
        tensor(data_offsets=[0, 13]),
        tensor(data_offsets=[12, 0]),
        tensor(data_offsets=[4, 16]),
        tensor(data_offsets=[0]),
        tensor(data_offsets=[0, 1 << 80]),
        {**tensor(), "y": tensor()["x"]},  # two in the same place
        {**tensor(), "y": {"dtype": "U8", "shape": [4], "data_offsets": [10, 14]}},
    ],
)
def test_a_head_that_contradicts_itself_is_an_error_with_the_next_step(
    file: Path, head: Any
) -> None:
    with pytest.raises(FactsError, match=r"model\.safetensors is damaged .* Fetch it again\."):
        read_head(with_head(file, head, 12))


def test_a_type_that_is_not_known_is_an_error_with_the_next_step(file: Path) -> None:
    with pytest.raises(FactsError, match="a type that is not known here"):
        read_head(with_head(file, tensor(dtype="F3")))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        struct.pack("<Q", LARGEST_HEAD + 1) + b"{}",
        struct.pack("<Q", (1 << 64) - 1) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 9) + b'{"x": [[[',
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    ],
)
def test_bytes_that_are_no_such_file_are_an_error_with_the_next_step(
    file: Path, content: bytes
) -> None:
    file.write_bytes(content)
    with pytest.raises(FactsError, match=r"Fetch it again\."):
        read_head(file)


@given(content=st.binary(max_size=200), honest=st.booleans())
def test_any_bytes_give_a_head_or_an_error_of_ours(
    file: Path, content: bytes, honest: bool
) -> None:
    start = struct.pack("<Q", len(content)) if honest else b""
    file.write_bytes(start + content)
    head = attempt(lambda: read_head(file))
    assert head is None or head.bytes >= 0


@given(place=st.integers(0, 160), value=st.integers(0, 255))
def test_a_byte_that_is_changed_gives_a_head_or_an_error_of_ours(
    file: Path, place: int, value: int
) -> None:
    write_head(file, {"x": (2, 3), "y": (4,)})
    content = bytearray(file.read_bytes())
    content[place % len(content)] = value
    file.write_bytes(content)
    head = attempt(lambda: read_head(file))
    assert head is None or head.bytes <= 1 << 50


def test_a_file_that_may_not_be_read_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match=r"cannot be read: .* Fetch it again\."):
        read_head(tmp_path / "absent.safetensors")
