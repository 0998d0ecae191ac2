"""The commands `apply`, `status`, `drain`, `resume`, `logs` and `gpus`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpustack_fast.commands.arguments.shared import Commands, add_place, command, data_dir

__all__ = ["add_apply", "add_gpus", "add_instances", "add_logs"]


def add_instances(commands: Commands) -> None:
    """`gpustack-fast status`, `drain` and `resume`."""
    status = command(
        commands,
        "status",
        "say how the running server, its models and its instances are; exit status 0: ready, 1: "
        "not ready, or no server",
        _status,
    )
    drain = command(
        commands,
        "drain",
        "give an instance no new requests, and wait until those on it have ended",
        _drain,
    )
    resume = command(commands, "resume", "take a drain back", _resume)
    for each in (drain, resume):
        each.add_argument(
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
    for each in (status, drain, resume):
        each.add_argument("--json", action="store_true", help="print one JSON document")
        add_place(each)


def add_apply(commands: Commands) -> None:
    """`gpustack-fast apply`."""
    apply = command(
        commands,
        "apply",
        "have the running server take up a configuration, say what that changes, and wait until "
        "its engines have followed; exit status 1: they have not",
        _apply,
    )
    apply.add_argument("file", metavar="FILE", help="the configuration, which the server reads")
    apply.add_argument(
        "--dry-run", action="store_true", help="say what it would change, and change nothing"
    )
    apply.add_argument("--no-wait", action="store_true", help="return when it is taken up")
    apply.add_argument(
        "--timeout",
        metavar="TIME",
        help="wait so long at most, a number and its unit: 90s, 15m or 2h; the engines go on to "
        "follow",
    )
    apply.add_argument("--json", action="store_true", help="print one JSON document")
    add_place(apply)


def add_logs(commands: Commands) -> None:
    """`gpustack-fast logs`."""
    logs = command(commands, "logs", "print what an engine has written", _logs)
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
    add_place(logs)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def add_gpus(commands: Commands) -> None:
    """`gpustack-fast gpus`."""
    gpus = command(
        commands,
        "gpus",
        "show the NVIDIA GPUs of this machine, and which instance holds what; exit status 0 also "
        "where there are none",
        _gpus,
    )
    gpus.add_argument("--json", action="store_true", help="print one JSON document")
    gpus.add_argument("--watch", action="store_true", help="show them every 2 s, until Ctrl-C")
    add_place(gpus)


def _status(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import instances

    return instances.status(data_dir(options), as_json=options.json)


def _drain(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import instances, keys

    given = options.timeout
    return instances.drain(
        data_dir(options),
        options.which,
        waits=not options.no_wait,
        timeout=None if given is None else float(keys.seconds(given)),
        as_json=options.json,
    )


def _apply(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import apply, keys

    given = options.timeout
    return apply.apply(
        data_dir(options),
        Path(options.file),
        dry_run=options.dry_run,
        waits=not options.no_wait,
        timeout=None if given is None else float(keys.seconds(given)),
        as_json=options.json,
    )


def _resume(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import instances

    return instances.resume(data_dir(options), options.which, as_json=options.json)


def _logs(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import logs

    return logs.logs(
        data_dir(options),
        options.name,
        previous=options.previous,
        tail=options.tail,
        follow=options.follow,
    )


def _gpus(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import gpus

    return gpus.show(data_dir(options), as_json=options.json, watches=options.watch)
