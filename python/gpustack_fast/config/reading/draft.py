"""A TOML document → Config, as far as it fits, and everything in it that does not.

msgspec stops at the first mismatch. Here each part of a document that does not fit is read again,
part by part, so that one run finds all mistakes, and the rules can be asked of the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, structs

from gpustack_fast.config.reading.mistakes import missing_key, translate, unknown_key
from gpustack_fast.config.rules import RuleBroken
from gpustack_fast.config.schema import Config, KeyPath, ModelConfig, RouteConfig
from gpustack_fast.config.sentences import closest

__all__ = ["Draft", "decode_path"]

T = TypeVar("T", bound=Struct)
_ABSENT: Any = object()
"""In place of a value that does not fit."""


class Draft:
    """A configuration that may have mistakes.

    `config` has what fits; an entry of [[models]] or [[routes]] that cannot be made is there as a
    stand-in, so that the places of the others do not change.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self.mistakes: list[tuple[KeyPath, str]] = []
        self.left_out: list[KeyPath] = []
        """Values that are missing in `config` because of a mistake."""
        self._stand_ins: list[KeyPath] = []
        self._unnamed = False
        """Whether a model is there whose name is not known."""
        read = self._read(Config, document, ())
        self.config: Config = Config() if read is _ABSENT else read

    def note(self, path: KeyPath, message: str) -> None:
        """Adds a mistake."""
        self.left_out.append(path)
        self.mistakes.append((path, message))

    def follows(self, rule: RuleBroken) -> bool:
        """Whether a rule is broken only because of what a mistake has left out of `config`."""
        if any(rule.path[: len(place)] == place for place in self._stand_ins):
            return True
        lacks = rule.lacks
        if lacks is None:
            return False
        return (not lacks and self._unnamed) or any(_is_in(path, lacks) for path in self.left_out)

    def _read(self, kind: Any, value: Any, path: KeyPath) -> Any:
        try:
            return msgspec.convert(value, kind, dec_hook=decode_path)
        except msgspec.ValidationError as error:
            message = str(error)
        before = len(self.mistakes)
        plain, read = _plain(kind), _ABSENT
        if isinstance(plain, type) and issubclass(plain, Struct) and isinstance(value, dict):
            read = self._read_table(plain, value, path)
        elif get_origin(plain) is list and isinstance(value, list):
            read = self._read_list(get_args(plain)[0], value, path)
        if len(self.mistakes) == before:
            self.note(*translate(message, self._document, path))
            return _ABSENT
        return read

    def _read_table(self, kind: type[T], table: dict[str, Any], path: KeyPath) -> T:
        hints = get_type_hints(kind, include_extras=True)
        unknown = [key for key in table if key not in hints]
        for key in unknown:
            self.note((*path, key), unknown_key(path, key))
        meant = "".join(closest(key, hints) for key in unknown)
        read: dict[str, Any] = {}
        complete = True
        for field in structs.fields(kind):
            if field.name in table:
                value = self._read(hints[field.name], table[field.name], (*path, field.name))
                if value is not _ABSENT:
                    read[field.name] = value
            elif field.required and f"`{field.name}`" not in meant:
                self.note(path, missing_key(path, field.name))
            complete = complete and (field.name in read or not field.required)
        return kind(**read) if complete else _ABSENT

    def _read_list(self, kind: Any, values: list[Any], path: KeyPath) -> Any:
        read = []
        for index, value in enumerate(values):
            here = (*path, index)
            item = self._read(kind, value, here)
            if item is _ABSENT and _plain(kind) in (ModelConfig, RouteConfig):
                self._stand_ins.append(here)
                item = self._stand_in(kind, value)
            read.append(item)
        return _ABSENT if any(item is _ABSENT for item in read) else read

    def _stand_in(self, kind: Any, value: Any) -> ModelConfig | RouteConfig:
        name = value.get("name") if isinstance(value, dict) else None
        name = name if isinstance(name, str) else ""
        if kind is RouteConfig:
            return RouteConfig(name=name, targets=[])
        self._unnamed = self._unnamed or not name
        return ModelConfig(name=name, backend="external")


def _is_in(path: KeyPath, table: KeyPath) -> bool:
    """Whether a path leads to a value of the table itself, not to one of a table inside."""
    rest = path[len(table) :]
    if path[: len(table)] != table:
        return False
    return len(rest) <= 1 or (bool(table) and not isinstance(rest[1], str))


def _plain(kind: Any) -> Any:
    """Without bounds, and without `| None`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    members = [one for one in get_args(kind) if one is not type(None)]
    if type(None) in get_args(kind) and len(members) == 1:
        return _plain(members[0])
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
