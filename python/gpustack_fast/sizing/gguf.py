"""The head of a GGUF file: its metadata, and what tensors there are. No byte behind it is read.

All numbers are little-endian. `GGUF`, version (u32), number of tensors and of metadata (u64 each);
of each metadatum its key, type (u32) and value; of each tensor its name, number of dimensions
(u32), dimensions (u64 each), type (u32) and place (u64) among the bytes that follow, aligned. A
text is its length (u64) and UTF-8.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import dataclasses
import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from gpustack_fast import plain_files
from gpustack_fast.errors import printable
from gpustack_fast.sizing.errors import FactsError

__all__ = ["LARGEST_HEAD", "Head", "Listed", "read_head"]

LARGEST_HEAD = 128 * 1024 * 1024
"""Bytes. A vocabulary of 260,000 tokens with its merges is some 15 MB."""
_MOST_ITEMS = 1 << 22
"""Texts and lists that are walked through one by one, in the whole file."""
_MOST_METADATA = 1 << 16
_MOST_TENSORS = 1 << 17
_LONGEST_NAME = 1 << 16
_LONGEST_KEPT_TEXT = 1 << 12
_LONGEST_KEPT_LIST = 1 << 13
_MOST_KEPT = 1 << 17
"""Numbers in all lists that are kept: a file may have many that nobody asks for."""
_LARGEST_FILE = 1 << 50
_ALIGNMENT = 32

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _LIST = 8, 9

BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
}
"""Values and bytes of one block of a type of tensor (ggml's `ggml_type`)."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """A list that is too long to be kept, or holds what nobody asks for."""

    length: int


@dataclasses.dataclass(frozen=True)
class Head:
    """What a file says of itself."""

    metadata: Mapping[str, object]
    """int, float, bool, str, a list of the first three, or `Listed`."""
    parameters: int
    begin: int
    """Where the bytes of the tensors begin."""
    end: int
    """Where they end at the earliest, as far as their types are known."""
    size: int
    """Of the file as it is here."""


def read_head(path: Path) -> Head:
    """Raises FactsError for what is no such file, whatever its bytes are."""
    where = printable(str(path))
    try:
        with plain_files.open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            return _Reader(file, size, where).head()
    except OSError as error:
        raise FactsError(f"{where} cannot be read: {error.strerror}. Fetch it again.") from error


class _Reader:
    """Reads forward, never beyond the limits."""

    def __init__(self, file: BinaryIO, size: int, where: str) -> None:
        self.file = file
        self.size = size
        self.where = where
        self.place = 0
        self.items = 0
        self.kept = 0

    def head(self) -> Head:
        tensors, metadata = self._begin()
        found: dict[str, object] = {}
        for _ in range(metadata):
            key = self._name()
            value = self._value(self._number("<I"), 0)
            if value is not None:
                found[key] = value
        parameters, end = 0, 0
        for _ in range(tensors):
            count, last = self._tensor()
            parameters += count
            end = max(end, last)
        alignment = found.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20:
            raise self._damaged("its alignment is no number that can be")
        begin = -(-self.place // alignment) * alignment if tensors else self.place
        if parameters > _LARGEST_FILE or begin + end > _LARGEST_FILE:
            raise self._damaged("its tensors are larger than any file")
        return Head(found, parameters, begin, begin + end, self.size)

    def _begin(self) -> tuple[int, int]:
        if self._bytes(4) != b"GGUF":
            raise self._damaged("its first bytes are not those of a GGUF file")
        version = self._number("<I")
        if version in (1, 1 << 24, 2 << 24, 3 << 24):
            raise FactsError(
                f"{self.where} is of the first version of GGUF or big-endian, which engines here "
                "do not read. Fetch a newer conversion of the model."
            )
        if version not in (2, 3):
            raise FactsError(
                f"{self.where} is GGUF of version {version}; versions 2 and 3 are known here. A "
                "newer gpustack-fast may read it."
            )
        tensors, metadata = self._number("<Q"), self._number("<Q")
        if tensors > _MOST_TENSORS or metadata > _MOST_METADATA:
            raise self._damaged("it counts more tensors or metadata than any model has")
        return tensors, metadata

    def _tensor(self) -> tuple[int, int]:
        """The number of its values, and where it ends behind the beginning of all."""
        self._name()
        dimensions = self._number("<I")
        if dimensions > 8:
            raise self._damaged("a tensor has more dimensions than any has")
        count = 1
        for _ in range(dimensions):
            count *= self._number("<Q")
            if count > _LARGEST_FILE:
                raise self._damaged("a tensor is larger than any file")
        values, bytes_each = BLOCKS.get(self._number("<I"), (1, 0))
        place = self._number("<Q")
        return count, place + -(-count // values) * bytes_each

    def _value(self, kind: int, depth: int) -> object:
        """None: a text that is too long to be of use."""
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _TEXT:
            length = self._number("<Q")
            if length <= _LONGEST_KEPT_TEXT:
                return self._bytes(length).decode(errors="replace")
            self._skip(length)
            return None
        if kind == _LIST and depth < 4:
            return self._list(depth)
        raise self._damaged("a metadatum has a type that is not known")

    def _list(self, depth: int) -> object:
        kind, length = self._number("<I"), self._number("<Q")
        if kind in _SCALARS:
            each = struct.calcsize(_SCALARS[kind])
            if length > min(_LONGEST_KEPT_LIST, _MOST_KEPT - self.kept):
                self._skip(length * each)
                return Listed(length)
            self.kept += length
            content = self._bytes(length * each)
            return [one for (one,) in struct.iter_unpack(_SCALARS[kind], content)]
        for _ in range(length):
            self.items += 1
            if self.items > _MOST_ITEMS:
                raise self._damaged("its lists are longer than those of any model")
            if kind == _TEXT:
                self._skip(self._number("<Q"))
            else:
                self._value(kind, depth + 1)
        return Listed(length)

    def _name(self) -> str:
        length = self._number("<Q")
        if length > _LONGEST_NAME:
            raise self._damaged("a name is longer than any")
        return self._bytes(length).decode(errors="replace")

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._bytes(struct.calcsize(form)))[0]
        return number

    def _bytes(self, count: int) -> bytes:
        self._count(count)
        content = self.file.read(count)
        if len(content) < count:
            raise self._damaged("it ends within its head")
        return content

    def _skip(self, count: int) -> None:
        self._count(count)
        self.file.seek(count, io.SEEK_CUR)

    def _count(self, count: int) -> None:
        """Takes note of bytes before they are read."""
        self.place += count
        if self.place > self.size:
            raise self._damaged("it ends within its head")
        if self.place > LARGEST_HEAD:
            raise self._damaged("its head is larger than that of any model")

    def _damaged(self, why: str) -> FactsError:
        return FactsError(f"{self.where} is damaged or was fetched in part: {why}. Fetch it again.")
