"""msgspec's message about a document that does not fit `Config` → its place, and sentences."""

from __future__ import annotations

import functools
import re
from typing import Any

from msgspec import inspect

from gpustack_fast.config.deployment_fields import REFUSED
from gpustack_fast.config.schema import Config, KeyPath
from gpustack_fast.config.sentences import closest, explain, listed

__all__ = ["missing_key", "translate", "unknown_key"]

_PLACED = re.compile(r"(?P<message>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_PATH_PART = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_HOMES: tuple[KeyPath, ...] = (
    (),
    ("server",),
    ("server", "timeouts"),
    ("server", "limits"),
    ("server", "cors"),
    ("models", 0),
    ("routes", 0),
    ("routes", 0, "targets", 0),
    ("models", 0, "gpu_selector"),
    ("models", 0, "replicas"),
    ("models", 0, "lora_list", 0),
)
"""Every table that the file may hold: a key that is wrong in one may belong to another."""


def translate(error: str, document: dict[str, Any], above: KeyPath) -> tuple[KeyPath, str]:
    """msgspec's `Expected … - at `$[1]` about a value at `above` → its place, and what to write."""
    placed = _PLACED.fullmatch(error)
    assert placed is not None, "the pattern matches every text"
    message = placed["message"]
    below = tuple(_key(name, index) for name, index in _PATH_PART.findall(placed["path"] or ""))
    path = (*above, *below)
    if path in (("models",), ("routes",)):
        return (
            path,
            f"`{path[0]}` must be a list of tables. Write [[{path[0]}]] in double brackets.",
        )
    if path and path[0] == "server" and message.startswith("Expected `object`"):
        return (
            path,
            f"`{path[-1]}` must be one table. Write {_table_name(path)} in single brackets.",
        )
    value, needed = _value_at(document, path), _is_needed(path)
    return path, explain(message, _subject(path), value, _choices(path), needed=needed)


def _key(name: str, index: str) -> str | int:
    """One step of a path. `[...]` stays: msgspec writes it for any key of a free table (`env`)."""
    if name:
        return name
    return int(index) if index.isdigit() else index


def missing_key(path: KeyPath, key: str) -> str:
    """The sentences for a table without a key that it needs."""
    return f"This {_table_name(path)} has no `{key}`. Add `{key} = ...`."


def unknown_key(path: KeyPath, key: str) -> str:
    """The sentences for a key that its table does not know."""
    if path[:1] == ("models",) and len(path) == 2 and key in REFUSED:
        return f"`{key}` of GPUStack's deployments is not here: {REFUSED[key]}."
    known = _known_keys(path)
    homes = [home for home in _HOMES if home != path and key in _known_keys(home)]
    if suggestion := closest(key, known):
        advice = suggestion
    elif homes:
        advice = f" It belongs into {_table_name(homes[0])}. Move it there."
    else:
        advice = f" Remove it, or write one that is known here: {listed(known)}."
    return f"There is no key `{key}` {_inside(path)}.{advice}"


def _inside(path: KeyPath) -> str:
    return f"in {_table_name(path)}" if path else "at the top of the file"


def _table_name(path: KeyPath) -> str:
    """`[server.timeouts]`, `[[models]]`, or `target` for the tables inside a route."""
    if "targets" in path:
        return "target"
    if not path:
        return "file's top level"
    names = ".".join(part for part in path if isinstance(part, str))
    return f"[[{names}]]" if isinstance(path[-1], int) else f"[{names}]"


def _subject(path: KeyPath) -> str:
    """The subject of a sentence about this value."""
    name = next(
        (part for part in reversed(path) if isinstance(part, str) and part != "..."), "file"
    )
    if path and isinstance(path[-1], int):
        return f"Entry {path[-1] + 1} of `{name}`"
    if path and path[-1] == "...":
        return f"Every value in `{name}`"
    return f"`{name}`"


def _value_at(document: Any, path: KeyPath) -> object:
    for part in path:
        if part == "...":
            return None
        document = document[part]
    return document


def _known_keys(path: KeyPath) -> tuple[str, ...]:
    kind = _type_at(path)
    return kind.cls.__struct_fields__ if isinstance(kind, inspect.StructType) else ()


def _choices(path: KeyPath) -> tuple[str, ...]:
    kind = _type_at(path)
    return (
        tuple(str(value) for value in kind.values) if isinstance(kind, inspect.LiteralType) else ()
    )


def _is_needed(path: KeyPath) -> bool:
    """Whether a table cannot do without this key."""
    table = _type_at(path[:-1]) if path else None
    return isinstance(table, inspect.StructType) and any(
        field.name == path[-1] and field.required for field in table.fields
    )


def _type_at(path: KeyPath) -> inspect.Type | None:
    """The type that Config has at a path; None inside a free table."""
    kind = _config_type()
    for part in path:
        if isinstance(kind, inspect.StructType):
            kind = _bare(next(field.type for field in kind.fields if field.name == part))
        elif isinstance(kind, inspect.ListType):
            kind = _bare(kind.item_type)
        else:
            return None
    return kind


@functools.cache
def _config_type() -> inspect.Type:
    return _bare(inspect.type_info(Config))


def _bare(kind: inspect.Type) -> inspect.Type:
    """Without descriptions, and without `| None`; of a number or a table, the table."""
    if isinstance(kind, inspect.Metadata):
        return _bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        members = [_bare(one) for one in kind.types if not isinstance(one, inspect.NoneType)]
        tables = [one for one in members if isinstance(one, inspect.StructType)]
        return [*tables, *members][0]
    return kind
