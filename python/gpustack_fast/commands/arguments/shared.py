"""What the command line's files have in common: the parser, flags, and where things are."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from gpustack_fast import plain_files
from gpustack_fast.commands.output import complain, say
from gpustack_fast.config import Config
from gpustack_fast.config.sentences import closest
from gpustack_fast.config.settings import (
    SETTINGS,
    Setting,
    data_dir_alone,
    load_config,
    variable_of,
)
from gpustack_fast.config.warnings import unknown_variables
from gpustack_fast.errors import UsageError

__all__ = [
    "PRECEDENCE",
    "SHOWN_IN_PS",
    "Commands",
    "Parser",
    "add_config",
    "add_place",
    "add_settings",
    "command",
    "config_file",
    "data_dir",
    "flags",
    "read_key",
    "retyped",
    "whole_config",
]

PRECEDENCE = (
    "A flag wins over its environment variable (in brackets), the variable over the configuration "
    "file, the file over the default. Without a configuration file, `serve` runs a small embedded "
    "model, SmolLM2-135M-Instruct."
)
SHOWN_IN_PS = "it shows in `ps`, so use it in tests only"
_IN_SETTINGS = (
    "Times are in seconds, sizes in bytes. A time of 0 in --timeouts-... is no limit, unless the "
    "setting says otherwise."
)


class Parser(argparse.ArgumentParser):
    """argparse, with messages that say what can be written and suggest a known word.

    It writes as every command does: argparse itself ignores an output that fails.
    """

    def print_help(self, file: object = None) -> None:
        say(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        known = [
            word
            for action in self._actions
            for word in (*action.option_strings, *(action.choices or ()))
        ]
        wrong = re.search(
            r"(?:unrecognized arguments: |invalid choice: ')(.+?)(?:[ '=]|$)", message
        )
        hint = closest(wrong[1], known) if wrong else ""
        text = message[:1].upper() + message[1:]
        complain(f"error: {text}.{hint} `{self.prog} --help` shows what can be written.")
        sys.exit(2)


# argparse has no public name for what `add_subparsers` returns.
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def command(
    commands: Commands, name: str, does: str, run: Callable[[argparse.Namespace], int]
) -> Parser:
    """Declares a command that `run` runs, and returns its exit status. `does` says what it does."""
    description = does[:1].upper() + does[1:] + "."
    parser = commands.add_parser(
        name, help=does, description=description, epilog=PRECEDENCE, allow_abbrev=False
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config`."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"the configuration, a TOML file [{variable_of('--config')}]",
    )


def add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting] = SETTINGS) -> None:
    """A flag for each setting."""
    group = parser.add_argument_group(
        "settings of the server", _IN_SETTINGS if settings is SETTINGS else None
    )
    for setting in settings:
        default = "" if setting.default is None else f" (default: {_plain(setting.default)})"
        text = f"{setting.help}{default} [{setting.variable}]".replace("%", "%%")
        group.add_argument(setting.flag, metavar=setting.placeholder, dest=setting.flag, help=text)


def _plain(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def add_place(parser: Parser, *names: str) -> None:
    """The settings of these names; by default the one that names the data directory."""
    add_config(parser)
    places = [(name,) for name in names or ("data_dir",)]
    add_settings(parser, [setting for setting in SETTINGS if setting.path in places])


def config_file(options: argparse.Namespace) -> Path | None:
    """The configuration that was named, by its flag or variable."""
    name = options.config or os.environ.get(variable_of("--config"))
    return Path(name) if name else None


def data_dir(options: argparse.Namespace) -> Path:
    """The data directory, also where the configuration is wrong elsewhere.

    Raises ConfigError.
    """
    for warning in unknown_variables(os.environ, None):
        complain(f"warning: {warning}")
    return data_dir_alone(config_file(options), flags(options))


def whole_config(options: argparse.Namespace) -> Config:
    """The configuration, which must be right as a whole. Raises ConfigError."""
    for warning in unknown_variables(os.environ, None):
        complain(f"warning: {warning}")
    return load_config(config_file(options), flags(options))


def flags(options: argparse.Namespace) -> dict[str, str]:
    """The settings that were typed, by their flags."""
    given = {setting.flag: getattr(options, setting.flag, None) for setting in SETTINGS}
    return {flag: text for flag, text in given.items() if text is not None}


def retyped(options: argparse.Namespace, file: str | None) -> str:
    """The flags with which another command finds the same configuration and folders, each with a
    space in front. `file`: the configuration, as it was typed.
    """
    places = {"--config": file}
    places |= {flag: flags(options).get(flag) for flag in ("--data-dir", "--models-dir")}
    return "".join(f" {flag}={shlex.quote(text)}" for flag, text in places.items() if text)


def read_key(file: Path) -> str:
    """The key that is alone in a file. Raises UsageError."""
    try:
        return plain_files.read_text(file).rstrip("\r\n")
    except OSError as error:
        raise UsageError(
            f"The key file {file} cannot be read: {error.strerror}. Check its path and rights."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The key file {file} is not text. Write the key alone on one line."
        ) from error
