"""The weights of a folder from the heads of its safetensors files, or from their index.

A file begins with the length of its head (8 bytes, little-endian), then comes the head: JSON, of
each tensor its type, shape and place among the bytes that follow. The head alone is read.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gpustack_fast import plain_files
from gpustack_fast.errors import printable
from gpustack_fast.sizing.errors import FactsError

__all__ = ["LARGEST_HEAD", "Head", "read_head"]

LARGEST_HEAD = 32 * 1024 * 1024
"""Bytes. The library's limit is 100 MB, of which no published file has a tenth."""
_LARGEST_FILE = 1 << 50

BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "F4_E2M1": 4,
}
"""Of one value of a type."""
_COUNTED = ("F16", "BF16", "F32", "F64")
"""Types whose values are weights as they are; the others may be packed."""


@dataclasses.dataclass(frozen=True)
class Head:
    """What a file has."""

    bytes: int
    """Of its tensors."""
    parameters: int
    values: Mapping[str, int]
    """How many there are of each type."""
    size: int
    """Of the whole file."""
    here: int
    """Of that, what is here."""
    begin: int
    """Where the tensors begin."""


class _Tensor(msgspec.Struct):
    """A tensor in a head, or what the format calls `__metadata__`, which has none of these."""

    dtype: str = ""
    shape: list[int] = []
    data_offsets: list[int] = []


_CONTENT = msgspec.json.Decoder(dict[str, _Tensor])
"""Whatever else a stranger has put there is passed over, and takes no memory."""


def read_head(path: Path) -> Head:
    """Raises FactsError for what is no such file, whatever its bytes are."""
    where = printable(str(path))
    try:
        with plain_files.open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= LARGEST_HEAD:
                raise _damaged(where, "its first bytes are not those of a safetensors file")
            head = file.read(length)
    except OSError as error:
        raise FactsError(f"{where} cannot be read: {error.strerror}. Fetch it again.") from error
    if len(head) < length:
        raise _damaged(where, "it ends within its head")
    try:
        content = _CONTENT.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(where, "its head does not tell the tensors in it") from error
    return _sum(content, size, 8 + length, where)


def _sum(content: Mapping[str, _Tensor], size: int, begin: int, where: str) -> Head:
    """Adds the tensors up. They must lie one behind the other, without a gap, as the format has
    it.
    """
    places: list[tuple[int, int]] = []
    values: Counter[str] = Counter()
    for name, tensor in content.items():
        if name == "__metadata__":
            continue
        count, first, last = _values(tensor, where)
        places.append((first, last))
        values[tensor.dtype] += count
    places.sort()
    end = 0
    for first, last in places:
        if first != end:
            raise _damaged(where, "its tensors overlap, or leave a gap")
        end = last
    if begin + end > _LARGEST_FILE:
        raise _damaged(where, "its tensors are larger than any file")
    parameters = sum(values[dtype] for dtype in _COUNTED)
    return Head(end, parameters, dict(values), max(size, begin + end), size, begin)


def _values(tensor: _Tensor, where: str) -> tuple[int, int, int]:
    """The number of values, and the first and last byte, of one tensor."""
    dtype, shape, place = tensor.dtype, tensor.shape, tensor.data_offsets
    if not dtype or len(place) != 2:
        raise _damaged(where, "a tensor has no type, or no place in the file")
    if dtype not in BITS:
        raise FactsError(
            f"{where} has a tensor of a type that is not known here. A newer gpustack-fast may "
            "know it; until then say in the model's settings how much memory it takes."
        )
    count = 1
    for length in [*shape, *place]:
        if not 0 <= length <= _LARGEST_FILE:
            raise _damaged(where, "a shape or a place is no number that can be")
    for length in shape:
        count *= length
        if count > _LARGEST_FILE:
            raise _damaged(where, "a tensor is larger than any file")
    first, last = place
    if last - first != -(-count * BITS[dtype] // 8):
        raise _damaged(where, "a tensor's shape and its bytes contradict each other")
    return count, first, last


def _damaged(where: str, why: str) -> FactsError:
    return FactsError(f"{where} is damaged or was fetched in part: {why}. Fetch it again.")
