"""A TOML file → Config. Every error names the file, the line, and what to write instead."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs

from gpustack_fast import plain_files
from gpustack_fast.config.reading.draft import Draft
from gpustack_fast.config.reading.toml_lines import Places, line_of_depth
from gpustack_fast.config.rules import check
from gpustack_fast.config.schema import Config, KeyPath
from gpustack_fast.config.sentences import is_utf8, not_utf8
from gpustack_fast.errors import ConfigError, MistakesFound

__all__ = ["expanded", "read_config_file", "read_draft"]

T = TypeVar("T", bound=Struct)

_TOO_DEEP = 16
"""Brackets that are open at once where somebody has written too many."""
_MANY_DIGITS = re.compile(r"[0-9a-f_]{1000}", re.ASCII | re.IGNORECASE)
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_config_file(file: Path) -> Config:
    """Reads and checks a configuration file alone. Raises ConfigError: Mistakes for several."""
    draft = read_draft(file)
    found = MistakesFound()
    found.errors += draft.errors()
    found.raise_any()
    return draft.config


def read_draft(file: Path) -> Draft:
    """Reads a configuration file, right or not, with the rules of models and routes.

    Raises ConfigError when it cannot be read, or is not TOML: then nothing of it is known.
    """
    text = _read(file)
    draft = Draft(_parse(file, text), Places(file, text))
    broken = [rule for rule in check(draft.config) if not draft.follows(rule)]
    draft.mistakes += [(rule.path, rule.message) for rule in broken]
    _anchor(draft, file.absolute().parent)
    return draft


def _read(file: Path) -> str:
    try:
        text = plain_files.read_text(file).replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(
            f"The configuration file cannot be read: {error.strerror}. Check --config, or the "
            "variable `GPUSTACK_FAST_CONFIG`.",
            file,
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "This line is not UTF-8 text. Save the file as UTF-8.", file, line
        ) from error
    if text.startswith("\ufeff"):
        raise ConfigError(
            "The file begins with a byte order mark (BOM), which no TOML file has. Save it as "
            "UTF-8 without one.",
            file,
            1,
        )
    return text


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(
            "The file has arrays or tables too deep in each other. Nothing here needs more than "
            "four; look for a bracket too many.",
            file,
            line_of_depth(text, _TOO_DEEP),
        ) from error
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        what = _PLACE.sub("", str(error))
        line = int(place[1]) if place and place[1] else text.rstrip("\n").count("\n") + 1
        column = f" at column {place[2]}" if place and place[2] else " at the end of the file"
        raise ConfigError(
            f"This is not TOML: {what[:1].lower()}{what[1:]}{column}. Correct it (the rules: "
            "https://toml.io).",
            file,
            line,
        ) from error
    except ValueError as error:
        # Python's own limit (`sys.set_int_max_str_digits`), which the parser passes on.
        found = _MANY_DIGITS.search(text)
        raise ConfigError(
            "A number in the file has thousands of digits. Look for a quote that is missing.",
            file,
            None if found is None else text.count("\n", 0, found.start()) + 1,
        ) from error


def expanded(path: Path, subject: str) -> Path:
    """With `~` replaced by the home directory. Raises ConfigError when the system knows none.

    A relative HOME is none: what it means would depend on the folder in which a command is run.
    """
    unknown = f"{subject} begins with `~`, but no such home directory is known. Write it out."
    try:
        found = path.expanduser()
    except RuntimeError as error:
        raise ConfigError(unknown) from error
    if found != path and not found.is_absolute():
        raise ConfigError(unknown)
    return found


def _anchor(draft: Draft, folder: Path) -> None:
    """Makes the file's relative paths absolute, from the folder that the file lies in."""

    def with_paths(table: T, above: KeyPath, names: Iterable[str], kind: type) -> T:
        """The Struct with those of these fields absolute that are there."""
        absolute: dict[str, Any] = {}
        for name in names:
            if (value := getattr(table, name)) is None:
                continue
            if kind is str and "\0" in value:
                absolute[name] = None  # a rule has told it
                continue
            try:
                path = folder / expanded(Path(value), f"`{name}`")
            except ConfigError as error:
                draft.note((*above, name), error.message)
                if name != "data_dir":
                    absolute[name] = None  # nobody shall look for it
                continue
            absolute[name] = kind(path)
            if kind is str and not is_utf8(path):
                draft.note((*above, name), not_utf8(f"`{name}`"))
                absolute[name] = None
        return structs.replace(table, **absolute)

    config = draft.config
    server = with_paths(
        config.server,
        ("server",),
        ("data_dir", "models_dir", "tls_certificate", "tls_key"),
        Path,
    )
    models = [
        with_paths(model, ("models", index), ("local_path", "api_key_file"), str)
        for index, model in enumerate(config.models)
    ]
    for index, model in enumerate(models):
        adapters = [
            with_paths(adapter, ("models", index, "lora_list", number), ("local_path",), str)
            for number, adapter in enumerate(model.lora_list)
        ]
        models[index] = structs.replace(model, lora_list=adapters)
    draft.config = structs.replace(config, server=server, models=models)
