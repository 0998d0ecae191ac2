"""The command line: arguments → Config → the command. What can be typed is in `arguments`."""

from __future__ import annotations

from collections.abc import Sequence

from gpustack_fast.commands.arguments import engines, handover, instances, keys, models, server
from gpustack_fast.commands.arguments.shared import PRECEDENCE, Parser
from gpustack_fast.commands.output import complain
from gpustack_fast.errors import GpustackFastError

__all__ = ["main"]

_DESCRIPTION = (
    "Serves language models behind GPUStack's inference APIs, and runs the engines behind them."
)


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


def _parser() -> Parser:
    parser = Parser(
        prog="gpustack-fast", description=_DESCRIPTION, epilog=PRECEDENCE, allow_abbrev=False
    )
    parser.add_argument(
        "--version", action=server.VersionFlag, nargs=0, help="print the version and end"
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="command"
    )
    # In the order of `--help`.
    server.add_serve(commands)
    server.add_check(commands)
    server.add_plan(commands)
    instances.add_apply(commands)
    keys.add_keys(commands)
    models.add_models(commands)
    instances.add_instances(commands)
    handover.add_handover(commands)
    instances.add_logs(commands)
    instances.add_gpus(commands)
    engines.add_engines(commands)
    server.add_version(commands)
    return parser
