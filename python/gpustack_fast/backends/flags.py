"""Flags of engines, as they were recorded from their own programs.

    recorded/ENGINE-VERSION.txt     written by engines/ENGINE/record, read at run time

A line is `VALUES FLAG OTHER …`: what the flag takes (`0` nothing, `1` one value, `?` one that may
be left out, `*` any number), then its names, the first of which is the one that is used here. What
else was recorded stands at the top, as `KIND WORD …`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

__all__ = ["Flag", "FlagTable", "Found", "recorded", "recorded_versions"]

FOLDER = Path(__file__).parent / "recorded"
_NUMBER = re.compile(r"-\d*\.?\d+")
_LEVEL = re.compile(r"-O(?:=(.*)|(.+))", re.DOTALL)
"""vLLM's `-O3`, which may also be `-O=3` or two words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of an engine's command line."""

    name: str
    """Its main name: `--tensor-parallel-size`."""
    values: Literal["0", "1", "?", "*"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A flag among parameters, with the values that were written for it."""

    index: int
    """Its place in the list."""
    written: str
    """As it stands there, without a value that is joined by `=`."""
    name: str
    """Its main name, or for one that is not known what is written."""
    flag: Flag | None
    """None: it is not known."""
    values: tuple[str, ...]

    @property
    def value(self) -> str:
        """The last value; of a switch `true`, or `false` for its negation."""
        if self.values:
            return self.values[-1]
        written = self.written.replace("_", "-")
        turned = {written[2:8], self.name[2:8]} == {"enable", "disabl"}
        return "false" if turned or written.startswith("--no-") else "true"


class FlagTable:
    """The flags that one version of an engine knows, or several."""

    def __init__(
        self,
        versions: Sequence[str],
        flags: Mapping[str, Flag],
        words: Mapping[str, frozenset[str]],
        *,
        dashes: str = "-",
    ) -> None:
        """`flags` by every name; `words`: what else was recorded; `dashes`: the sign between the
        words of a flag, for which people also write the other.
        """
        self.versions = tuple(versions)
        self.words = words
        self._flags = flags
        self._dashes = dashes
        self._abbreviated = False

    @classmethod
    def read(cls, text: str) -> FlagTable:
        """A recorded file."""
        lines = [line.split() for line in text.splitlines() if line]
        flags: dict[str, Flag] = {}
        words: dict[str, frozenset[str]] = {}
        for first, *names in lines[1:]:
            if first in ("0", "1", "?", "*"):
                values = cast(Literal["0", "1", "?", "*"], first)
                flags |= dict.fromkeys(names, Flag(name=names[0], values=values))
            else:
                words[first] = frozenset(names)
        return cls([lines[0][1]], flags, words)

    def joined(self, older: FlagTable) -> FlagTable:
        """What this version or an older one knows."""
        kinds = self.words.keys() | older.words.keys()
        words = {
            kind: self.words.get(kind, frozenset()) | older.words.get(kind, frozenset())
            for kind in kinds
        }
        versions = (*older.versions, *self.versions)
        return FlagTable(versions, {**older._flags, **self._flags}, words, dashes=self._dashes)

    def abbreviated(self) -> FlagTable:
        """The same for a version that was not recorded, whose flags nobody checks: there the
        beginning of a single flag stands for it, as argparse has it.
        """
        table = FlagTable(self.versions, self._flags, self.words, dashes=self._dashes)
        table._abbreviated = True
        return table

    def names(self) -> set[str]:
        """All names of all flags."""
        return set(self._flags)

    def find(self, parameters: Sequence[str]) -> Iterator[Found]:
        """Each flag with its values; words that belong to none are left out."""
        for found in self._walk(parameters):
            if isinstance(found, Found):
                yield found

    def given(self, parameters: Sequence[str]) -> dict[str, str]:
        """The last value of each flag by its main name."""
        return {found.name: found.value for found in self.find(parameters)}

    def spelt(self, parameters: Sequence[str]) -> list[str]:
        """The same, with each flag that is known in the spelling that its engine takes."""
        words = list(parameters)
        for found in self.find(parameters):
            if found.flag is not None and found.written.startswith("--"):
                rest = words[found.index][len(found.written) :]
                words[found.index] = self._spelt(found.written) + rest
        return words

    def problems(
        self, parameters: Sequence[str], engine: str, closed: Collection[str] = ()
    ) -> Iterator[tuple[int, str]]:
        """Each parameter that the engine would refuse, by its index, and sentences about it.

        `closed`: main names of flags that nobody may set, which are not suggested.
        """
        for found in self._walk(parameters):
            if not isinstance(found, Found):
                yield found, self._stray(parameters[found])
            elif found.flag is None:
                yield found.index, self._unknown(found.written, engine, closed)
            elif found.flag.values == "1" and not found.values:
                yield (
                    found.index,
                    f"The flag {found.written} needs a value. Write it behind `=`, or as the next "
                    "entry of the list.",
                )
            elif found.flag.values == "0" and found.values:
                yield (
                    found.index,
                    f"The flag {found.written} takes no value. Remove `={found.value}`.",
                )

    def _walk(self, parameters: Sequence[str]) -> Iterator[Found | int]:
        """Flags, and the indices of words that belong to none."""
        index = 0
        while index < len(parameters):
            parameter = parameters[index]
            if not _is_flag(parameter):
                yield index
                index += 1
                continue
            written, equals, joined = parameter.partition("=")
            flag = self._flag(written)
            end = index + 1
            values: tuple[str, ...] = (joined,) if equals else ()
            if level := _LEVEL.fullmatch(parameter):
                written, values = "-O", (level[1] or level[2] or "",)
                flag = self._flag(written)
            elif not equals:
                end += self._taken(flag, written, parameters[end:])
                values = tuple(parameters[index + 1 : end])
            name = written if flag is None else flag.name
            yield Found(index=index, written=written, name=name, flag=flag, values=values)
            index = end

    def _flag(self, written: str) -> Flag | None:
        """`--json-flag.key` is a value of `--json-flag`."""
        bare, dot, _ = written.partition(".")
        if not bare.startswith("--"):
            return self._flags.get("--optimization-level" if bare == "-O" else bare)
        spelt = self._spelt(bare)
        flag = self._flags.get(spelt) or self._begun(spelt)
        return None if dot and flag is not None and flag.values == "0" else flag

    def _begun(self, spelt: str) -> Flag | None:
        if not self._abbreviated or len(spelt) < len("--x"):
            return None
        meant = {flag.name: flag for name, flag in self._flags.items() if name.startswith(spelt)}
        return next(iter(meant.values())) if len(meant) == 1 else None

    def _spelt(self, written: str) -> str:
        """`--a_b` and `--a-b`, with the sign of the engine's own."""
        return f"--{written[2:].replace('_', self._dashes).replace('-', self._dashes)}"

    def _taken(self, flag: Flag | None, written: str, following: Sequence[str]) -> int:
        """The number of the following parameters that are this flag's values."""
        kind = "?" if flag is None else flag.values
        if "." in written and flag is not None:
            kind = "1"
        words = 0
        while words < len(following) and _is_value(following[words]):
            words += 1
        return {"0": 0, "*": words}.get(kind, min(words, 1))

    def _unknown(self, written: str, engine: str, closed: Collection[str]) -> str:
        # What stands behind a blank is a value, and may be a key: it is not repeated.
        first, *rest = written.split(None, 1) or [written]
        if rest and self._flag(first):
            return (
                f"A flag and its value are one text behind {first}. Write them as two entries of "
                f"the list, or as `{first}=VALUE`."
            )
        spelt = first.replace("_", self._dashes) if first.startswith("--") else first
        names = [name for name, flag in self._flags.items() if flag.name not in closed]
        near = nearest(spelt.partition(".")[0], names)
        advice = f"Did you mean {near}?" if near else "Remove it, or correct it."
        return f"The flag {first} is not known to {engine} {' or '.join(self.versions)}. {advice}"

    def _stray(self, word: str) -> str:
        return f"`{word}` belongs to no flag. Remove it, or write the flag before it."


def nearest(written: str, names: Iterable[str]) -> str | None:
    """The flag that may be meant: the shortest that begins so, else one that looks like it; None:
    nothing does. The dashes that all begin with make none alike.
    """
    bare = {name.lstrip("-"): name for name in sorted(names)}
    word = written.lstrip("-")
    begun = [name for name in bare if len(word) > 3 and name.startswith(word)]
    if begun:
        return bare[min(begun, key=len)]
    found = difflib.get_close_matches(word, bare, n=1, cutoff=0.7)
    return bare[found[0]] if found else None


def _is_flag(parameter: str) -> bool:
    return parameter.startswith("-") and len(parameter) > 1 and not _NUMBER.fullmatch(parameter)


def _is_value(parameter: str) -> bool:
    """Whether it may be what the flag before it takes: also a sentence that begins with a dash."""
    return not _is_flag(parameter) or " " in parameter.partition("=")[0]


@functools.cache
def recorded(engine: str, version: str | None) -> FlagTable | None:
    """The flags of a version; without one, those that any recorded version knows.

    `version` may carry a variant (`0.32.0+cpu`). None: nothing was recorded.
    """
    if version is not None:
        bare = version.partition("+")[0]
        if bare not in recorded_versions(engine):
            return None
        return FlagTable.read((FOLDER / f"{engine}-{bare}.txt").read_text(encoding="utf-8"))
    tables = [recorded(engine, one) for one in recorded_versions(engine)]
    return functools.reduce(
        lambda older, newer: older if newer is None or older is None else newer.joined(older),
        tables,
    )


def recorded_versions(engine: str) -> list[str]:
    """The versions whose flags were recorded, the oldest first."""
    found = [file.stem.removeprefix(f"{engine}-") for file in FOLDER.glob(f"{engine}-[0-9]*.txt")]
    return sorted(found, key=lambda one: [int(part) for part in re.findall(r"\d+", one)])
