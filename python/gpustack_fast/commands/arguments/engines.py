"""The commands `engines install`, `engines list` and `engines remove`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpustack_fast.commands.arguments.shared import Commands, add_place, command, data_dir

__all__ = ["add_engines"]

_ENGINES = (
    "Installs, lists and removes environments of engines: isolated and pinned, in the data "
    "directory, several versions side by side. A server builds what its models need by itself; "
    "with this it is there before."
)


def add_engines(commands: Commands) -> None:
    """`gpustack-fast engines …`."""
    engines = commands.add_parser(
        "engines",
        help="install, list and remove environments of engines",
        allow_abbrev=False,
        description=_ENGINES,
    )
    actions = engines.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="engine_command"
    )
    install = command(
        actions,
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
    listing = command(
        actions, "list", "list the environments, and those that can be installed", _list_engines
    )
    listing.add_argument("--json", action="store_true", help="as a JSON list, for programs")
    remove = command(
        actions, "remove", "remove an environment from which nothing runs", _remove_engine
    )
    remove.add_argument("which", metavar="NAME==VERSION", help="as `engines list` shows it")
    for each in (install, remove):
        each.add_argument(
            "--variant",
            metavar="VARIANT",
            help="cpu or cuda: what it computes with; "
            + (
                "by default cuda, where an NVIDIA driver is loaded"
                if each is install
                else "by default every one of the version"
            ),
        )
    for each in actions.choices.values():
        add_place(each)


def _install_engine(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import engines

    python = None if options.python is None else Path(options.python)
    return engines.install(data_dir(options), options.which, options.variant, python)


def _list_engines(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import engines

    return engines.show(data_dir(options), as_json=options.json)


def _remove_engine(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import engines

    return engines.remove(data_dir(options), options.which, options.variant)
