"""The commands `restart` and `upgrade`."""

from __future__ import annotations

import argparse

from gpustack_fast.commands.arguments.shared import Commands, add_place, command, data_dir
from gpustack_fast.errors import UsageError

__all__ = ["add_handover"]

_TIMEOUT = "120s"


def add_handover(commands: Commands) -> None:
    """`gpustack-fast restart` and `upgrade`."""
    restart = command(
        commands,
        "restart",
        "replace the running server by a new process, with its flags and variables as at its start "
        "and the configuration as it is now, without an end of any request; where the new one "
        "cannot serve, the old one goes on",
        _restart,
    )
    upgrade = command(
        commands,
        "upgrade",
        "as restart, to the version of this very command: after `pip install -U`, or from another "
        "environment",
        _upgrade,
    )
    for each in (restart, upgrade):
        each.add_argument(
            "--timeout",
            metavar="TIME",
            default=_TIMEOUT,
            help="how long the new process may take until it serves, a number and its unit: 90s or "
            f"15m (default: {_TIMEOUT}); then it is ended, and the exit status is 1",
        )
        each.add_argument("--json", action="store_true", help="print one JSON document")
        add_place(each)


def _restart(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import handover

    return handover.restart(data_dir(options), _timeout(options), as_json=options.json)


def _upgrade(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import handover

    return handover.upgrade(data_dir(options), _timeout(options), as_json=options.json)


def _timeout(options: argparse.Namespace) -> float:
    """In seconds. Raises UsageError."""
    from gpustack_fast.commands import keys

    found = float(keys.seconds(options.timeout))
    if not found:
        raise UsageError("--timeout is 0, in which no process starts. Write `120s`, for example.")
    return found
