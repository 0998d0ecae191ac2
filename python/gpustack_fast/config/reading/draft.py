"""A TOML document → Config, as far as it fits, and everything in it that does not.

msgspec stops at the first mismatch. Here each part of a document that does not fit is read again,
part by part, so that one run finds all mistakes, and the rules can be asked of the rest.
"""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, structs

from gpustack_fast.config.reading.mistakes import missing_key, translate, unknown_key
from gpustack_fast.config.reading.toml_lines import Places
from gpustack_fast.config.rules import RuleBroken
from gpustack_fast.config.schema import (
    AdapterConfig,
    Config,
    KeyPath,
    ModelConfig,
    ReplicasConfig,
    RouteConfig,
    TargetConfig,
)
from gpustack_fast.config.sentences import closest
from gpustack_fast.errors import ConfigError

__all__ = ["Draft", "decode_path"]

T = TypeVar("T", bound=Struct)
_ABSENT: Any = object()
"""In place of a value that does not fit."""
_MADE_UP: dict[type[Struct], dict[str, Any]] = {
    ModelConfig: {"name": "(model without a name)", "backend": ""},
    RouteConfig: {"name": "(route without a name)", "targets": []},
    TargetConfig: {"model": "(no model)"},
    AdapterConfig: {"lora_name": "(adapter without a name)"},
    ReplicasConfig: {"min": 1, "max": 1},
}
"""What stands in place of values that a table needs, so that the rules can be asked of the rest."""


class Draft:
    """A configuration that may have mistakes.

    `config` has what fits. Where a list has an entry that does not, or a table in it lacks what it
    needs, something made up is there, so that the places of the others do not change.
    """

    def __init__(self, document: dict[str, Any], places: Places | None = None) -> None:
        self._document = document
        self.places = places or Places()
        self.mistakes: list[tuple[KeyPath, str]] = []
        self.left_out: list[KeyPath] = []
        """Values that are missing in `config` because of a mistake."""
        self._made_up: list[KeyPath] = []
        read = self._read(Config, document, ())
        self.config: Config = Config() if read is _ABSENT else read

    def note(self, path: KeyPath, message: str) -> None:
        """Adds a mistake."""
        self.left_out.append(path)
        self.mistakes.append((path, message))

    def errors(self) -> list[ConfigError]:
        """All mistakes, with file and line."""
        file, line = self.places.file, self.places.find_line
        return [ConfigError(message, file, line(path)) for path, message in self.mistakes]

    def follows(self, rule: RuleBroken) -> bool:
        """Whether a rule is broken only because of what a mistake has left out of `config`."""
        if any(rule.path[: len(place)] == place for place in self._made_up):
            return True
        lacks = rule.lacks
        if lacks is None:
            return False
        return (not lacks and self._unnamed) or any(_is_in(path, lacks) for path in self.left_out)

    @property
    def _unnamed(self) -> bool:
        """Whether a model is there whose name is not known."""
        nameless = _MADE_UP[ModelConfig]["name"]
        return any(model.name == nameless for model in self.config.models)

    def _read(self, kind: Any, value: Any, path: KeyPath) -> Any:
        try:
            return msgspec.convert(value, kind, dec_hook=decode_path)
        except msgspec.ValidationError as error:
            message = str(error)
        before = len(self.mistakes)
        plain, read = _plain(kind, value), _ABSENT
        if isinstance(plain, type) and issubclass(plain, Struct) and isinstance(value, dict):
            read = self._read_table(plain, value, path)
        elif get_origin(plain) is list and isinstance(value, list):
            read = self._read_list(get_args(plain)[0], value, path)
        if len(self.mistakes) == before:
            self.note(*translate(message, self._document, path))
            if get_origin(plain) is dict and isinstance(value, dict):
                return {name: str(inner) for name, inner in value.items()}
            return _ABSENT
        return read

    def _read_table(self, kind: type[T], table: dict[str, Any], path: KeyPath) -> T:
        hints = get_type_hints(kind, include_extras=True)
        unknown = [key for key in table if key not in hints]
        for key in unknown:
            self.note((*path, key), unknown_key(path, key))
        meant = "".join(closest(key, hints) for key in unknown)
        read: dict[str, Any] = {}
        for field in structs.fields(kind):
            if field.name in table:
                value = self._read(hints[field.name], table[field.name], (*path, field.name))
                if value is not _ABSENT:
                    read[field.name] = value
            elif field.required and f"`{field.name}`" not in meant:
                self.mistakes.append((path, missing_key(path, field.name)))
        return self._complete(kind, read, path)

    def _complete(self, kind: type[T], read: dict[str, Any], path: KeyPath) -> T:
        """The Struct of what was read; what it needs and does not have is made up."""
        lacking = [
            field.name
            for field in structs.fields(kind)
            if field.required and field.name not in read
        ]
        self._made_up += [(*path, name) for name in lacking]
        return kind(**read, **{name: _MADE_UP[kind][name] for name in lacking})

    def _read_list(self, kind: Any, values: list[Any], path: KeyPath) -> Any:
        plain, read = _plain(kind), []
        for index, value in enumerate(values):
            here = (*path, index)
            item = self._read(kind, value, here)
            if item is _ABSENT and plain in _MADE_UP:
                item = self._complete(plain, {}, here)
            elif item is _ABSENT and plain is str:
                # As it was most likely meant: a number without its quotes.
                self._made_up.append(here)
                item = str(value)
            read.append(item)
        return [item for item in read if item is not _ABSENT]


def _is_in(path: KeyPath, table: KeyPath) -> bool:
    """Whether a path leads to a value of the table itself, not to one of a table inside.

    Where `table` is a list of tables, it may lead to any value in them.
    """
    rest = path[len(table) :]
    if path[: len(table)] != table:
        return False
    if len(rest) <= 1 or isinstance(rest[0], int):
        return True
    return bool(table) and len(rest) == 2 and not isinstance(rest[1], str)


def _plain(kind: Any, value: Any = None) -> Any:
    """Without bounds, and without `| None`. Of a number or a table what the value looks like."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0], value)
    members = [one for one in get_args(kind) if one is not type(None)]
    if type(None) in get_args(kind) and len(members) == 1:
        return _plain(members[0], value)
    if get_origin(kind) in (Union, UnionType) and isinstance(value, dict):
        return next((one for one in members if one in _MADE_UP), kind)
    return kind


def decode_path(kind: type, value: object) -> object:
    """msgspec's hook for the one type it does not know by itself."""
    if kind is not Path:
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        # Worded as msgspec words its own, so that one translation serves both.
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    if not value:
        raise ValueError("Expected `str` of length >= 1")
    if "\0" in value:
        raise ValueError("it holds a zero byte")
    return Path(value)
