"""The commands `serve`, `check`, `plan` and `version`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from gpustack_fast.commands.arguments.shared import (
    SHOWN_IN_PS,
    Commands,
    add_config,
    add_place,
    add_settings,
    command,
    config_file,
    flags,
    read_key,
    retyped,
)
from gpustack_fast.commands.output import complain, say
from gpustack_fast.config import Config, ServeOptions
from gpustack_fast.config.files import check_files
from gpustack_fast.config.settings import load, load_config, variable_of
from gpustack_fast.config.source import Reading, Source
from gpustack_fast.config.warnings import unknown_variables
from gpustack_fast.errors import MistakesFound, UsageError

__all__ = ["VersionFlag", "add_check", "add_plan", "add_serve", "add_version"]


def add_serve(commands: Commands) -> None:
    """`gpustack-fast serve`."""
    serve = command(commands, "serve", "run the server and its engines", _serve)
    add_config(serve)
    add_settings(serve)
    _add_bootstrap(serve)


def add_check(commands: Commands) -> None:
    """`gpustack-fast check`."""
    check = command(
        commands,
        "check",
        "say whether a configuration is right, without starting anything",
        _check,
    )
    add_config(check)
    check.add_argument("file", metavar="FILE", nargs="?", help="the configuration, as --config")
    check.add_argument(
        "--no-files",
        action="store_true",
        help="look at nothing but the configuration: no certificate, key or model file, and not "
        "the keys of the data directory (as on another machine)",
    )
    add_settings(check)
    _add_bootstrap(check)


def add_plan(commands: Commands) -> None:
    """`gpustack-fast plan`."""
    plan = command(
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
    add_place(plan, "data_dir", "models_dir")


def add_version(commands: Commands) -> None:
    """`gpustack-fast version`."""
    command(commands, "version", "print the version", _version)


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
        help=f"the key itself; {SHOWN_IN_PS} [{variable_of('--bootstrap-key')}]",
    )


def _serve(options: argparse.Namespace) -> int:
    from gpustack_fast.handover.successor import inherit
    from gpustack_fast.signals import Signals

    received = Signals()
    inherited = inherit(os.environ)
    environment = dict(os.environ)
    with received.held(), contextlib.nullcontext() if inherited is None else inherited.errors():
        file = config_file(options)
        given = flags(options)
        source = Source(lambda found: load(found, given), file)
        found = MistakesFound()
        start, key = Reading(config=Config(), engine_keys={}), None
        with found.here():
            if inherited is None:
                start = source.read()
            else:
                start = source.read_for_successor(had_models=inherited.offer.has_models)
        with found.here():
            key = _bootstrap_key(options)
        found.raise_any()
        source.take(start.config)

        from gpustack_fast.app import serve

        warnings = unknown_variables(os.environ, start.config)
        rest = ServeOptions(
            bootstrap_key=key,
            warnings=warnings,
            arguments=sys.argv[1:],
            environment=environment,
        )
        return serve(source, start, rest, received, inherited)


def _check(options: argparse.Namespace) -> int:
    from gpustack_fast.commands.check import check, load_tls
    from gpustack_fast.storage.data_directory import check_usable

    file = _named_file(options)
    loaded = load(file, flags(options))
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
    from gpustack_fast.commands.gpus_of_server import with_server
    from gpustack_fast.commands.model_facts import LocalFacts
    from gpustack_fast.gpus import Reader

    file = _named_file(options)
    config = load_config(file, flags(options))
    for warning in unknown_variables(os.environ, config):
        complain(f"warning: {warning}")
    if options.gpus is not None:
        report = plan.report_in(options.gpus)
    else:
        reader = Reader()
        report = with_server(reader.read_blocking(), config.server.data_dir)
        reader.close_blocking()
    if options.empty:
        report = plan.emptied(report)
    typed = retyped(options, options.file or options.config)
    facts_of = LocalFacts(config.server.models_folder(), typed)
    return plan.plan(config.models, report, facts_of, as_json=options.json)


def _named_file(options: argparse.Namespace) -> Path | None:
    """The configuration, of a command that takes FILE, too."""
    if options.file is not None and options.config is not None:
        raise UsageError("The configuration is named twice. Leave out `--config`, or FILE.")
    return config_file(options) if options.file is None else Path(options.file)


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
        text = read_key(Path(file))
    if text is not None:
        check_key_text(text)
    return text


def _version(_: argparse.Namespace) -> int:
    from gpustack_fast.seam.dataplane import __version__

    say(__version__)
    return 0


class VersionFlag(argparse.Action):
    """`--version`, which is `version`: argparse's own wants the text before it is asked for."""

    def __call__(self, _: object, options: argparse.Namespace, *__: object) -> NoReturn:
        sys.exit(_version(options))
