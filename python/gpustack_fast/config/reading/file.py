"""A TOML file → Config. Every error names the file, the line, and what to write instead."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, structs

from gpustack_fast.config.reading.mistakes import translate
from gpustack_fast.config.reading.toml_lines import find_line, line_numbers
from gpustack_fast.config.rules import RuleBroken, check
from gpustack_fast.config.schema import Config, KeyPath
from gpustack_fast.errors import ConfigError

__all__ = ["expanded", "line_of", "read_config_file", "where"]

T = TypeVar("T", bound=Struct)

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_config_file(file: Path) -> Config:
    """Reads and checks a configuration file. Raises ConfigError."""
    text = _read(file)
    document = _parse(file, text)
    try:
        config = msgspec.convert(document, Config, dec_hook=_decode_path)
        check(config)
    except msgspec.ValidationError as error:
        path, message = translate(str(error), document)
    except RuleBroken as error:
        path, message = error.path, error.message
    else:
        return _anchored(config, file.absolute().parent)
    raise ConfigError(message, file, find_line(line_numbers(text), path))


def line_of(file: Path, path: KeyPath) -> int | None:
    """The line of a value, or of the key around it, in a file that was read already."""
    return find_line(line_numbers(_read(file)), path)


def where(file: Path | None, path: KeyPath) -> tuple[Path | None, int | None]:
    """The file and the line of a setting; neither when it was written in a flag or a variable."""
    key = path[:-1] if isinstance(path[-1], int) else path
    lines = {} if file is None else line_numbers(_read(file))
    return (file, lines[key]) if key in lines else (None, None)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode().replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(
            f"The configuration file cannot be read: {error.strerror}. Check --config.", file
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "This line is not UTF-8 text. Save the file as UTF-8.", file, line
        ) from error


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
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


def _decode_path(kind: type, value: object) -> object:
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


def expanded(path: Path, subject: str) -> Path:
    """With `~` replaced by the home directory. Raises ConfigError when the system knows none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{subject} begins with `~`, but no such home directory is known. Write it out."
        ) from error


def _anchored(config: Config, folder: Path) -> Config:
    """Makes the file's relative paths absolute, from the folder that the file lies in."""

    def absolute(path: Path | str, name: str) -> Path:
        return folder / expanded(Path(path), f"`{name}`")

    def with_paths(table: T, names: Iterable[str], kind: type) -> T:
        """The Struct with those of these fields absolute that are there."""
        written = {name: value for name in names if (value := getattr(table, name)) is not None}
        return structs.replace(
            table, **{name: kind(absolute(value, name)) for name, value in written.items()}
        )

    server = with_paths(config.server, ("data_dir", "tls_certificate", "tls_key"), Path)
    models = [with_paths(model, ("local_path", "api_key_file"), str) for model in config.models]
    return structs.replace(config, server=server, models=models)
