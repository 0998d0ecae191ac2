"""Flags and environment variables over `[server]`: flag > variable > file > default.

Nothing is listed here. Each field of ServerConfig (and of the tables in it) is a setting; its name
makes the flag and the variable, its type and bounds check all three ways in, its description is the
flag's help:

    file       [server.timeouts]
               first_frame = 1800
    flag       --timeouts-first-frame 1800
    variable   GPUSTACK_FAST_TIMEOUTS_FIRST_FRAME=1800

A list is written with commas: `--cors-origins https://a.example,https://b.example`. An empty
variable counts as not set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from gpustack_fast.config.reading.draft import Draft
from gpustack_fast.config.reading.file import expanded, read_draft
from gpustack_fast.config.reading.toml_lines import Places
from gpustack_fast.config.rules import NO_HOME, check_server
from gpustack_fast.config.schema import Config
from gpustack_fast.config.sentences import explain
from gpustack_fast.config.server import NO_DATA_DIR, ServerConfig
from gpustack_fast.errors import ConfigError, MistakesFound

__all__ = [
    "OTHER_VARIABLES",
    "PREFIX",
    "SETTINGS",
    "Loaded",
    "Setting",
    "data_dir_alone",
    "load",
    "load_config",
    "variable_of",
    "with_value",
]

PREFIX = "GPUSTACK_FAST_"


OTHER_VARIABLES = tuple(PREFIX + name for name in ("CONFIG", "BOOTSTRAP_KEY", "BOOTSTRAP_KEY_FILE"))
"""Those of flags that are no settings, see `commands.arguments`."""


def variable_of(flag: str) -> str:
    """The environment variable of a flag: `--data-dir` → `GPUSTACK_FAST_DATA_DIR`."""
    return PREFIX + flag.removeprefix("--").replace("-", "_").upper()


class Setting(Struct, frozen=True, kw_only=True):
    """One setting of the server, in all the ways it can be written."""

    path: tuple[str, ...]
    """Its place below `[server]`: `("timeouts", "first_frame")`."""
    type: Any
    """With its bounds, as msgspec reads it."""
    help: str
    default: object
    """None where the default is not a constant."""
    own_variable: str | None = None
    """Its variable, where that does not have its flag's name."""
    reload: bool = False
    """Whether a reload can change it; else it holds from the start on."""

    @property
    def flag(self) -> str:
        """`--timeouts-first-frame`"""
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def variable(self) -> str:
        """`GPUSTACK_FAST_TIMEOUTS_FIRST_FRAME`"""
        return self.own_variable or variable_of(self.flag)

    @property
    def placeholder(self) -> str:
        """The word for the value in the help."""
        if _is_list(self.type):
            return "A,B"
        if choices := _choices(self.type):
            return "|".join(choices)
        kinds = {float: "SECONDS", int: "NUMBER", Path: "PATH", str: "TEXT", bool: "TRUE|FALSE"}
        return next((word for kind, word in kinds.items() if kind in _kinds(self.type)), "NUMBER")

    def parse(self, text: str, subject: str) -> object:
        """Reads the value from text. Raises ConfigError, whose sentence begins with the subject."""
        if Path in _kinds(self.type):
            if not text:
                raise ConfigError(f"{subject} is empty. Write a path, or leave it out.")
            try:
                return expanded(Path(text), subject).absolute()
            except OSError as error:
                raise ConfigError(
                    f"{subject} is a path from the current directory, which is not there any more. "
                    "Change to another one, or write the whole path."
                ) from error
        words = (
            [word.strip() for word in text.split(",") if word.strip()]
            if _is_list(self.type)
            else text
        )
        try:
            return msgspec.convert(words, self.type, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(
                explain(str(error), subject, text, _choices(self.type)) + _hint(text)
            ) from error


class Loaded(Struct, frozen=True, kw_only=True):
    """A configuration that was read, right or not."""

    config: Config
    """What of it is right; with mistakes, not for use."""
    places: Places
    """Where its settings stand."""
    mistakes: MistakesFound


def load_config(
    file: Path | None,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """The whole configuration, as `load` reads it. Raises ConfigError for its mistakes."""
    loaded = load(file, flags, environment)
    loaded.mistakes.raise_any()
    return loaded.config


def load(
    file: Path | None,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Loaded:
    """The whole configuration: the file (else the embedded default), under variables, under flags.

    `flags` maps `--name` to the text that was typed.
    """
    found = MistakesFound()
    draft = _read(file, found)
    server, places = draft.config.server, draft.places
    for setting in SETTINGS:
        if (written := _written(setting, flags or {}, environment)) is not None:
            draft.left_out.append(("server", *setting.path))
            places.leave(("server", *setting.path))
            with found.here():
                server = with_value(server, setting.path, setting.parse(*written))
                draft.left_out.pop()
    for rule in check_server(server):
        if not draft.follows(rule):
            found.errors.append(ConfigError(rule.message, *places.where(rule.path)))
    config = msgspec.structs.replace(draft.config, server=server)
    return Loaded(config=config, places=places, mistakes=found)


def data_dir_alone(
    file: Path | None, flags: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> Path:
    """The data directory, from the file only where no flag or variable has it.

    Mistakes elsewhere in the file must not stop a revoke. Raises ConfigError.
    """
    setting = next(setting for setting in SETTINGS if setting.path == ("data_dir",))
    if (written := _written(setting, flags, environment)) is not None:
        return Path(str(setting.parse(*written)))
    found = Config.default().server.data_dir
    if file is not None:
        draft = read_draft(file)
        if {("server",), ("server", "data_dir")} & set(draft.left_out):
            wrong = MistakesFound()
            wrong.errors += draft.errors()
            wrong.raise_any()
        found = draft.config.server.data_dir
    if found == NO_DATA_DIR:
        raise ConfigError(NO_HOME)
    return found


def _read(file: Path | None, found: MistakesFound) -> Draft:
    """What the file says, and notes its mistakes; without a file the embedded default."""
    draft = Draft({})
    draft.config = Config.default()
    if file is not None:
        # Until it is read, anything may stand in it.
        draft.left_out += [("server",), ("server", "cors")]
        with found.here():
            draft = read_draft(file)
            found.errors += draft.errors()
    return draft


def _written(
    setting: Setting, flags: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[str, str] | None:
    """The text of a setting and where it stands, or None where it is left to the file."""
    if (text := flags.get(setting.flag)) is not None:
        return text, f"`{setting.flag}`"
    if text := environment.get(setting.variable):
        return text, f"The environment variable `{setting.variable}`"
    return None


def _hint(text: str) -> str:
    if text.startswith("tcp://"):
        return (
            " Kubernetes sets such variables for a service of this name; `enableServiceLinks: "
            "false` turns it off."
        )
    return ""


def with_value(struct: Any, path: tuple[str, ...], value: object) -> Any:
    """A copy of a Struct with one field, however deep, changed."""
    if len(path) > 1:
        value = with_value(getattr(struct, path[0]), path[1:], value)
    return msgspec.structs.replace(struct, **{path[0]: value})


def _settings(table: type[Struct], above: tuple[str, ...] = ()) -> list[Setting]:
    found: list[Setting] = []
    hints = get_type_hints(table, include_extras=True)
    for field in msgspec.structs.fields(table):
        path = (*above, field.name)
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            found += _settings(field.type, path)
            continue
        default = None if field.default is msgspec.NODEFAULT else field.default
        found.append(
            Setting(
                path=path,
                type=hints[field.name],
                help=_description(hints[field.name]),
                default=default,
                own_variable=_extra(hints[field.name], "variable"),
                reload=bool(_extra(hints[field.name], "reload")),
            )
        )
    return found


def _metas(kind: Any) -> list[Meta]:
    return [extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Meta)]


def _description(kind: Any) -> str:
    return next(meta.description for meta in _metas(kind) if meta.description)


def _extra(kind: Any, name: str) -> Any:
    return next((meta.extra.get(name) for meta in _metas(kind) if meta.extra), None)


def _choices(kind: Any) -> tuple[str, ...]:
    """The words of a `Literal`; of other types none."""
    plain = getattr(kind, "__origin__", kind)
    return get_args(plain) if get_origin(plain) is Literal else ()


def _is_list(kind: Any) -> bool:
    return getattr(getattr(kind, "__origin__", None), "__origin__", None) is list


def _kinds(kind: Any) -> tuple[Any, ...]:
    """The plain types in an annotation: `Annotated[int | None, …]` → `(int, NoneType)`."""
    inner = getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
    members = getattr(inner, "__args__", ())
    return tuple(plain for member in members for plain in _kinds(member)) if members else (inner,)


SETTINGS: tuple[Setting, ...] = tuple(_settings(ServerConfig))
"""Every setting of the server, in the order of the file."""
