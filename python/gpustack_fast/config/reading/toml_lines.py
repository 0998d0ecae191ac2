"""The line of each key in a TOML text: `tomllib` reads values and forgets their lines.

`line_numbers` maps the path of every table and key to its line, counted from 1:

    [[models]]            # ("models",) if it is the first one, and ("models", 0)
    name = "smollm2"      # ("models", 0, "name")
    env.HOME = "/tmp"     # ("models", 0, "env") and ("models", 0, "env", "HOME")

What stands inside a value (an inline table, an array over many lines) has the line of the key that
encloses it: `find_line` takes the longest known part of a path.

The text must be one that `tomllib` has accepted: this scanner only skips values and does not check
them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from gpustack_fast.config.schema import KeyPath

__all__ = ["Places", "find_line", "line_numbers", "line_of_depth"]

_STRING = r'"""(?:\\.|[^\\])*?"""(?!")|' r"'''.*?'''(?!')|" r'"(?:\\.|[^"\\\n])*"|' r"'[^'\n]*'"
_KEY = re.compile(rf"[ \t]*(?:({_STRING})|([A-Za-z0-9_-]+))[ \t]*", re.DOTALL)
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_PIECE_OF_VALUE = re.compile(rf"(?:{_STRING})|#[^\n]*|[\[\]{{}}\n]|[^\"'#\[\]{{}}\n]+", re.DOTALL)


class Places:
    """Where each setting of a file stands; of no file, nowhere."""

    def __init__(self, file: Path | None = None, text: str = "") -> None:
        self.file = file
        self._lines = line_numbers(text)
        self._is_empty = not self._lines

    @property
    def nothing_written(self) -> bool:
        """Whether a file is there, and neither a table nor a key in it."""
        return self.file is not None and self._is_empty

    def find_line(self, path: KeyPath) -> int | None:
        """The line of a setting, or of what is around it; None when none of that was written."""
        return find_line(self._lines, path)

    def where(self, path: KeyPath) -> tuple[Path | None, int | None]:
        """The file and the line of a setting; neither when a flag or a variable has it."""
        key = path[:-1] if isinstance(path[-1], int) else path
        return (self.file, self._lines[key]) if key in self._lines else (None, None)

    def leave(self, path: KeyPath) -> None:
        """From now on the setting is not that of the file: something lies over it."""
        self._lines = {key: line for key, line in self._lines.items() if key[: len(path)] != path}


def find_line(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """The line of a path, or of the nearest key around it; None when none of them was written."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def line_numbers(text: str) -> dict[KeyPath, int]:
    """The line of every table and key in a valid TOML text."""
    return _Scanner(text.replace("\r\n", "\n")).scan()


def line_of_depth(text: str, depth: int) -> int | None:
    """The first line on which so many brackets are open; None: on none. The text may be wrong."""
    opened = 0
    for piece in _PIECE_OF_VALUE.finditer(text):
        if piece[0] in ("[", "{"):
            opened += 1
        elif piece[0] in ("]", "}"):
            opened -= 1
        if opened >= depth:
            return text.count("\n", 0, piece.start()) + 1
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.array_lengths: dict[KeyPath, int] = {}
        self.table: KeyPath = ()

    def scan(self) -> dict[KeyPath, int]:
        while self._skip(_BLANK) < len(self.text):
            line = self.text.count("\n", 0, self.at) + 1
            if self.text.startswith("[[", self.at):
                self.at += 2
                self._open_array(self._dotted_key("]]"), line)
            elif self.text.startswith("[", self.at):
                self.at += 1
                self.table = self._note((), self._dotted_key("]"), line)
            else:
                self._note(self.table, self._dotted_key("="), line)
                self._skip_value()
        return self.lines

    def _skip(self, pattern: re.Pattern[str]) -> int:
        """Moves behind what the pattern matches here, if it does, and returns the place."""
        if match := pattern.match(self.text, self.at):
            self.at = match.end()
        return self.at

    def _dotted_key(self, closing: str) -> list[str]:
        """Reads `a."b".c` and what closes it."""
        parts: list[str] = []
        while match := _KEY.match(self.text, self.at):
            quoted, bare = match.groups()
            parts.append(bare or tomllib.loads(f"key = {quoted}")["key"])
            self.at = match.end()
            if not self.text.startswith(".", self.at):
                break
            self.at += 1
        self.at += len(closing)
        return parts

    def _open_array(self, keys: list[str], line: int) -> None:
        """Begins the next element of an array of tables."""
        parent = self._note((), keys[:-1], line)
        array = (*parent, keys[-1])
        index = self.array_lengths.get(array, 0)
        self.array_lengths[array] = index + 1
        self.table = (*array, index)
        self.lines.setdefault(array, line)
        self.lines[self.table] = line

    def _note(self, table: KeyPath, keys: list[str], line: int) -> KeyPath:
        """Writes down the line of each key that is new, and returns the whole path.

        A key that names an array of tables means its latest element.
        """
        path = table
        for key in keys:
            path = (*path, key)
            self.lines.setdefault(path, line)
            if path in self.array_lengths:
                path = (*path, self.array_lengths[path] - 1)
        return path

    def _skip_value(self) -> None:
        """Goes behind a value and the end of its line."""
        depth = 0
        while match := _PIECE_OF_VALUE.match(self.text, self.at):
            self.at = match.end()
            piece = match.group()
            if piece in ("[", "{"):
                depth += 1
            elif piece in ("]", "}"):
                depth -= 1
            elif piece == "\n" and depth == 0:
                return
