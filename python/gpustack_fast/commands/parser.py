"""The command line: arguments → Config → the command.

Commands are imported when they run: `keys` and `check` need no event loop, and the data plane only
for a certificate to be checked, and are quick.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from gpustack_fast import plain_files
from gpustack_fast.commands.output import complain, say
from gpustack_fast.config import Config, ServeOptions
from gpustack_fast.config.files import check_files
from gpustack_fast.config.sentences import closest
from gpustack_fast.config.settings import (
    SETTINGS,
    Setting,
    data_dir_alone,
    load,
    load_config,
    variable_of,
)
from gpustack_fast.config.source import Reading, Source
from gpustack_fast.config.warnings import unknown_variables
from gpustack_fast.errors import ConfigError, GpustackFastError, MistakesFound, UsageError

__all__ = ["main"]

_DESCRIPTION = (
    "Serves language models behind GPUStack's inference APIs, and runs the engines behind them."
)
_PRECEDENCE = (
    "A flag wins over its environment variable (in brackets), the variable over the configuration "
    "file, the file over the default. Without a configuration file, `serve` runs a small embedded "
    "model, SmolLM2-135M-Instruct."
)
_IN_SETTINGS = (
    "Times are in seconds, sizes in bytes. A time of 0 in --timeouts-... is no limit, unless the "
    "setting says otherwise."
)
_SHOWN_IN_PS = "it shows in `ps`, so use it in tests only"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 for a failure, or 2 for a mistake in what was typed."""
    try:
        return _run(arguments)
    except GpustackFastError as error:
        for one in error.each():
            complain(f"error: {one}")
        return error.exit_status


def _run(arguments: Sequence[str] | None) -> int:
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    status: int = options.run(options)
    return status


def _serve(options: argparse.Namespace) -> int:
    from gpustack_fast.signals import Signals

    received = Signals()
    with received.held():
        file = _config_file(options)
        source = Source(functools.partial(load, file, _flags(options)))
        found = MistakesFound()
        start, key = Reading(config=Config(), engine_keys={}), None
        with found.here():
            start = source.read()
        with found.here():
            key = _bootstrap_key(options)
        found.raise_any()
        source.take(start.config)

        from gpustack_fast.app import serve

        warnings = unknown_variables(os.environ, start.config)
        rest = ServeOptions(bootstrap_key=key, warnings=warnings)
        return serve(source, start, rest, received)


def _check(options: argparse.Namespace) -> int:
    from gpustack_fast.commands.check import check, load_tls
    from gpustack_fast.storage.data_directory import check_usable

    file = _config_file(options)
    loaded = load(file, _flags(options))
    config, found, warning = loaded.config, loaded.mistakes, None
    if not options.no_files:
        with found.here():
            _bootstrap_key(options)
        with found.here():
            warning = check_files(config, loaded.places, load_tls)
        with found.here():
            check_usable(config.server.data_dir)
    found.raise_any()
    return check(file, config, warning, look_at_files=not options.no_files)


def _plan(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import plan
    from gpustack_fast.commands.model_facts import LocalFacts
    from gpustack_fast.gpus import Reader

    if options.file is not None and options.config is not None:
        raise UsageError("The configuration is named twice. Leave out `--config`, or FILE.")
    file = _config_file(options) if options.file is None else Path(options.file)
    config = load_config(file, _flags(options))
    for warning in unknown_variables(os.environ, config):
        complain(f"warning: {warning}")
    if options.gpus is not None:
        report = plan.report_in(options.gpus)
    else:
        reader = Reader()
        report = reader.read_blocking()
        reader.close_blocking()
    if options.empty:
        report = plan.emptied(report)
    facts_of = LocalFacts(config.server.models_folder())
    return plan.plan(config.models, report, facts_of, as_json=options.json)


def _create_key(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import keys
    from gpustack_fast.keys.store import Grant

    models = (
        None
        if options.allowed_models is None
        else [name.strip() for name in options.allowed_models.split(",")]
    )
    expires_in = None if options.expires_in is None else keys.seconds(options.expires_in)
    # Somebody who names models has inference in mind, and would not look for the right to manage.
    scopes = options.scopes or (["*"] if models is None else ["inference"])
    grant = Grant(allowed_models=models, scopes=scopes, expires_in=expires_in)
    text = options.key if options.key_file is None else _read_key(Path(options.key_file))
    return keys.create(_data_dir(options), options.name, grant, text, _routes(options))


def _routes(options: argparse.Namespace) -> list[str] | None:
    """The names of the routes of the configuration that was named, if it is right."""
    file = _config_file(options)
    if file is None:
        return None
    try:
        return [route.name for route in load_config(file).all_routes()]
    except ConfigError:
        return None  # a broken file stops no key; `check` tells what is wrong


def _list_keys(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import keys

    return keys.show(_data_dir(options), as_json=options.json)


def _revoke_key(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import keys

    return keys.revoke(_data_dir(options), options.which)


def _list_models(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import models

    return models.show(_whole_config(options), as_json=options.json)


def _pull_model(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import models

    return models.pull(_whole_config(options), options.which, as_json=options.json)


def _remove_model(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import models

    return models.remove(_whole_config(options), options.which, as_json=options.json)


def _whole_config(options: argparse.Namespace) -> Config:
    for warning in unknown_variables(os.environ, None):
        complain(f"warning: {warning}")
    return load_config(_config_file(options), _flags(options))


def _status(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import instances

    return instances.status(_data_dir(options), as_json=options.json)


def _drain(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import instances, keys

    given = options.timeout
    return instances.drain(
        _data_dir(options),
        options.which,
        waits=not options.no_wait,
        timeout=None if given is None else float(keys.seconds(given)),
        as_json=options.json,
    )


def _resume(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import instances

    return instances.resume(_data_dir(options), options.which, as_json=options.json)


def _logs(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import logs

    return logs.logs(
        _data_dir(options),
        options.name,
        previous=options.previous,
        tail=options.tail,
        follow=options.follow,
    )


def _gpus(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import gpus

    return gpus.show(_data_dir(options), as_json=options.json, watches=options.watch)


def _install_engine(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import engines

    python = None if options.python is None else Path(options.python)
    return engines.install(_data_dir(options), options.which, options.variant, python)


def _list_engines(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import engines

    return engines.show(_data_dir(options), as_json=options.json)


def _remove_engine(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import engines

    return engines.remove(_data_dir(options), options.which, options.variant)


def _version(_: argparse.Namespace) -> int:
    from gpustack_fast.seam.dataplane import __version__

    say(__version__)
    return 0


class _VersionFlag(argparse.Action):
    """`--version`, which is `version`: argparse's own wants the text before it is asked for."""

    def __call__(self, _: object, options: argparse.Namespace, *__: object) -> NoReturn:
        sys.exit(_version(options))


def _config_file(options: argparse.Namespace) -> Path | None:
    name = options.config or os.environ.get(variable_of("--config"))
    return Path(name) if name else None


def _data_dir(options: argparse.Namespace) -> Path:
    for warning in unknown_variables(os.environ, None):
        complain(f"warning: {warning}")
    return data_dir_alone(_config_file(options), _flags(options))


def _flags(options: argparse.Namespace) -> dict[str, str]:
    """The settings that were typed, by their flags."""
    given = {setting.flag: getattr(options, setting.flag, None) for setting in SETTINGS}
    return {flag: text for flag, text in given.items() if text is not None}


def _bootstrap_key(options: argparse.Namespace) -> str | None:
    """The key of a first start, from the first place that has one.

    Raises UsageError when it cannot be a key.
    """
    from gpustack_fast.keys.store import check_key_text

    # Taken out of the environment, for engines inherit that, and the key is none of their business.
    from_environment = os.environ.pop(variable_of("--bootstrap-key"), None) or None
    text: str | None = options.bootstrap_key
    file: str | None = options.bootstrap_key_file
    if text is None and file is None:
        text = from_environment
        file = os.environ.get(variable_of("--bootstrap-key-file")) or None
    if text is None and file is not None:
        text = _read_key(Path(file))
    if text is not None:
        check_key_text(text)
    return text


def _read_key(file: Path) -> str:
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


class _Parser(argparse.ArgumentParser):
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
_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _parser() -> _Parser:
    parser = _Parser(
        prog="gpustack-fast", description=_DESCRIPTION, epilog=_PRECEDENCE, allow_abbrev=False
    )
    parser.add_argument("--version", action=_VersionFlag, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="command"
    )

    serve = _command(commands, "serve", "run the server and its engines", _serve)
    _add_config(serve)
    _add_settings(serve)
    _add_bootstrap(serve)

    check = _command(
        commands,
        "check",
        "say whether a configuration is right, without starting anything",
        _check,
    )
    _add_config(check)
    check.add_argument(
        "--no-files",
        action="store_true",
        help="look at nothing but the configuration: no certificate, key or model file, and not "
        "the keys of the data directory (as on another machine)",
    )
    _add_settings(check)
    _add_bootstrap(check)

    _add_plan(commands)

    keys = commands.add_parser(
        "keys", help="make, list and revoke API keys", allow_abbrev=False, description=_KEYS
    )
    _add_key_commands(keys)

    models = commands.add_parser(
        "models",
        help="list, fetch and remove the models on this machine",
        allow_abbrev=False,
        description=_MODELS,
    )
    _add_model_commands(models)

    _add_instance_commands(commands)
    _add_logs(commands)

    gpus = _command(
        commands,
        "gpus",
        "show the NVIDIA GPUs of this machine, and which instance holds what; exit status 0 also "
        "where there are none",
        _gpus,
    )
    gpus.add_argument("--json", action="store_true", help="print one JSON document")
    gpus.add_argument("--watch", action="store_true", help="show them every 2 s, until Ctrl-C")
    _add_place(gpus)

    engines = commands.add_parser(
        "engines",
        help="install, list and remove environments of engines",
        allow_abbrev=False,
        description=_ENGINES,
    )
    _add_engine_commands(engines)

    _command(commands, "version", "print the version", _version)
    return parser


_KEYS = (
    "Makes, lists and revokes API keys. A running server is told at once: when the command "
    "returns, the very next "
    "request sees the change. Without a server the data directory is changed."
)

_MODELS = (
    "Lists, fetches and removes the models of hubs that are on this machine. A server fetches what "
    "it lacks by itself when it starts; `pull` does so before, and brings a model up to date."
)


_ENGINES = (
    "Installs, lists and removes environments of engines: isolated and pinned, in the data "
    "directory, several versions side by side. A server builds what its models need by itself; "
    "with this it is there before."
)


def _command(
    commands: _Commands, name: str, does: str, run: Callable[[argparse.Namespace], int]
) -> _Parser:
    description = does[:1].upper() + does[1:] + "."
    parser = commands.add_parser(
        name, help=does, description=description, epilog=_PRECEDENCE, allow_abbrev=False
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"the configuration, a TOML file [{variable_of('--config')}]",
    )


def _add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting] = SETTINGS) -> None:
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


def _add_bootstrap(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "key of the first start",
        "Any text of 16 characters or more. A data directory that ever had a key (of an earlier "
        "start, or of `keys create`) takes none, and the start says so; without it, the first "
        "start makes a key and shows it once.",
    )
    ways = group.add_mutually_exclusive_group()
    ways.add_argument(
        "--bootstrap-key-file",
        metavar="FILE",
        help=f"a file that holds the key alone [{variable_of('--bootstrap-key-file')}]",
    )
    ways.add_argument(
        "--bootstrap-key",
        metavar="KEY",
        help=f"the key itself; {_SHOWN_IN_PS} [{variable_of('--bootstrap-key')}]",
    )


def _add_plan(commands: _Commands) -> None:
    plan = _command(
        commands,
        "plan",
        "say which models would run on which GPUs, and why one would not, without starting or "
        "downloading anything; exit status 0: each has its place, 1: not all",
        _plan,
    )
    plan.add_argument("file", metavar="FILE", nargs="?", help="the configuration, as --config")
    plan.add_argument(
        "--gpus",
        metavar="JSON",
        help="the GPUs of another machine: the output of `gpustack-fast gpus --json` there, a file "
        "with it, or - for standard input",
    )
    plan.add_argument(
        "--empty", action="store_true", help="as if nothing ran on the GPUs at the moment"
    )
    plan.add_argument("--json", action="store_true", help="print one JSON document")
    _add_place(plan)


def _add_key_commands(keys: _Parser) -> None:
    commands = keys.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="key_command"
    )

    create = _command(
        commands, "create", "make a key and print it, alone, on standard output", _create_key
    )
    create.add_argument("name", metavar="NAME", help="what to call the key in lists")
    create.add_argument(
        "--allowed-models", metavar="A,B", help="the routes that it may use; by default all"
    )
    create.add_argument(
        "--scope",
        action="append",
        choices=["*", "inference", "management"],
        metavar="SCOPE",
        dest="scopes",
        help="what it may be used for: inference or management; repeat it for both; by default all "
        "(`*`), with --allowed-models inference alone",
    )
    create.add_argument(
        "--expires-in",
        metavar="TIME",
        help="after which it is rejected, a number and its unit: 90s, 15m, 12h, 30d or 4w; by "
        "default never",
    )
    text = create.add_mutually_exclusive_group()
    text.add_argument(
        "--key-file", metavar="FILE", help="take the key from this file instead of generating one"
    )
    text.add_argument(
        "--key", metavar="KEY", help=f"take this text of 16 characters or more; {_SHOWN_IN_PS}"
    )

    listing = _command(commands, "list", "list the keys by name and access key", _list_keys)
    listing.add_argument("--json", action="store_true", help="as a JSON list, for programs")

    revoke = _command(commands, "revoke", "reject a key from the next request on", _revoke_key)
    revoke.add_argument(
        "which", metavar="NAME_OR_ACCESS_KEY", help="as `keys list` shows it, or the whole key"
    )

    for command in commands.choices.values():
        _add_place(command)


def _add_model_commands(models: _Parser) -> None:
    commands = models.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="model_command"
    )
    _command(
        commands,
        "list",
        "list what is there, and which models of the configuration use it",
        _list_models,
    )
    pull = _command(
        commands,
        "pull",
        "fetch a model, or bring it up to date: engines that start from then on load it",
        _pull_model,
    )
    pull.add_argument(
        "which",
        metavar="MODEL|huggingface:ORG/NAME[@REVISION][:FILE]",
        help="a model of the configuration with its adapters, or a repository; FILE may be a "
        "pattern such as `*Q4_K_M.gguf`",
    )
    remove = _command(
        commands, "remove", "remove a repository that no running server uses", _remove_model
    )
    remove.add_argument(
        "which", metavar="REPOSITORY|MODEL", help="as `models list` shows it, or by a model's name"
    )
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print one JSON document")
        _add_place(command, "data_dir", "models_dir")


def _add_instance_commands(commands: _Commands) -> None:
    status = _command(
        commands,
        "status",
        "say how the running server, its models and its instances are; exit status 0: ready, 1: "
        "not ready, or no server",
        _status,
    )
    drain = _command(
        commands,
        "drain",
        "give an instance no new requests, and wait until those on it have ended",
        _drain,
    )
    resume = _command(commands, "resume", "take a drain back", _resume)
    for command in (drain, resume):
        command.add_argument(
            "which",
            metavar="INSTANCE|URL",
            help="an instance as `status` shows it, or an address: all instances there",
        )
    ways = drain.add_mutually_exclusive_group()
    ways.add_argument("--no-wait", action="store_true", help="return at once, with exit status 0")
    ways.add_argument(
        "--timeout",
        metavar="TIME",
        help="wait so long at most, a number and its unit: 90s, 15m or 2h; when requests still run "
        "then, the exit status is 1, and the instance stays drained",
    )
    for command in (status, drain, resume):
        command.add_argument("--json", action="store_true", help="print one JSON document")
        _add_place(command)


def _add_logs(commands: _Commands) -> None:
    logs = _command(commands, "logs", "print what an engine has written", _logs)
    logs.add_argument(
        "name", metavar="NAME", help="an instance as `status` shows it, or a model: its newest one"
    )
    logs.add_argument(
        "-f", "--follow", action="store_true", help="go on until the engine has ended, or Ctrl-C"
    )
    logs.add_argument(
        "--previous",
        action="store_true",
        help="the log of the newest instance that has ended, such as one that has crashed",
    )
    logs.add_argument(
        "--tail", metavar="N", type=_count, help="begin with the last N lines; by default all"
    )
    _add_place(logs)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def _add_engine_commands(engines: _Parser) -> None:
    commands = engines.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="engine_command"
    )
    install = _command(
        commands,
        "install",
        "build an engine's environment and print its interpreter, alone, on standard output",
        _install_engine,
    )
    install.add_argument(
        "which",
        metavar="NAME[==VERSION]",
        help="the engine, and its version; by default the one whose lock comes with this program",
    )
    install.add_argument(
        "--python",
        metavar="PATH",
        help="take note of an environment that is there already, by its interpreter or its folder; "
        "it is used as it is",
    )
    listing = _command(
        commands, "list", "list the environments, and those that can be installed", _list_engines
    )
    listing.add_argument("--json", action="store_true", help="as a JSON list, for programs")
    remove = _command(
        commands, "remove", "remove an environment from which nothing runs", _remove_engine
    )
    remove.add_argument("which", metavar="NAME==VERSION", help="as `engines list` shows it")
    for command in (install, remove):
        command.add_argument(
            "--variant",
            metavar="VARIANT",
            help="cpu or cuda: what it computes with; "
            + (
                "by default cuda, where an NVIDIA driver is loaded"
                if command is install
                else "by default every one of the version"
            ),
        )
    for command in commands.choices.values():
        _add_place(command)


def _add_place(command: _Parser, *names: str) -> None:
    """The settings of these names; by default the one that names the data directory."""
    _add_config(command)
    places = [(name,) for name in names or ("data_dir",)]
    _add_settings(command, [setting for setting in SETTINGS if setting.path in places])
