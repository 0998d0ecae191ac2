"""`gpustack-fast apply`: a configuration is taken up by the running server, and its engines follow.

Nothing here imports asyncio, granian, uvloop or the data plane, so that the command is quick.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from gpustack_fast.commands.interruption import told_of_interruption
from gpustack_fast.commands.output import complain, in_json, say
from gpustack_fast.commands.running_server import running_server
from gpustack_fast.control.client import ControlClient
from gpustack_fast.control.documents import ApplyReport, ModelPlan, ModelStatus
from gpustack_fast.errors import ControlError, UsageError, printable

__all__ = ["apply"]

_POLL = 0.2
"""Seconds between two looks at how far it is."""
_TAKEN_UP_WITHIN = 120.0
"""Seconds: files and addresses that are new may respond slowly."""
_GOES_ON = (
    "The configuration is taken up, and the engines go on to follow: `gpustack-fast status` shows "
    "how far they are."
)


def apply(
    data_dir: Path, file: Path, *, dry_run: bool, waits: bool, timeout: float | None, as_json: bool
) -> int:
    """Has the server take a file up, or, in a dry run, says what that would do.

    If it `waits`, it returns when all engines have followed. `timeout`: seconds; None: for as long
    as it takes. Raises ControlError where they have not followed then, Interrupted on Ctrl-C, and
    the server's error where the file is wrong: nothing has changed then.
    """
    _check_plain(file)
    with running_server(data_dir, _TAKEN_UP_WITHIN) as server:
        report = server.apply(str(file.absolute()), dry_run=dry_run)
        if not as_json:
            for line in _page(report):
                say(printable(line))
        for warning in _warnings(report):
            complain(f"warning: {printable(warning)}")
        if report.applied and waits:
            with told_of_interruption(_GOES_ON):
                _wait(server, report, timeout, quiet=as_json)
    if as_json:
        say(in_json(report))
    return 0


def _check_plain(file: Path) -> None:
    """Raises UsageError for what only this process can read, or nobody twice."""
    if file.exists() and (not file.is_file() or file.absolute().parts[1] in ("dev", "proc")):
        raise UsageError(
            f"{file} is no plain file, and the server reads it, not this command. Write the "
            "configuration into a file, and name that."
        )


def _page(report: ApplyReport) -> Iterator[str]:
    """The lines for a person."""
    would = "Changed" if report.applied else "It would change"
    yield f"{would}: {', '.join(report.changes) or 'nothing'}."
    for one in report.models:
        yield f"{one.name}: {' '.join(one.steps)}"
    if not report.applied and report.changes:
        yield f"`gpustack-fast apply {shlex.quote(report.file)}` carries it out."


def _warnings(report: ApplyReport) -> Iterator[str]:
    yield from (one.interrupts for one in report.models if one.interrupts)
    if report.restart:
        yield (
            "Changed in the configuration, but as at the start until a restart: "
            f"{', '.join(report.restart)}."
        )
    yield from report.warnings


def _wait(
    server: ControlClient, report: ApplyReport, timeout: float | None, *, quiet: bool
) -> None:
    """Waits until every model has followed, and shows each step. Raises ControlError."""
    until = float("inf") if timeout is None else time.monotonic() + timeout
    followed = {one.name: one for one in report.models if one.kind != "gone"}
    shown: dict[str, str] = {}
    told: dict[str, str] = {}
    while True:
        now = server.status()
        models = [one for one in now.models if one.name in followed]
        lines = [*_progress(models, shown), *_messages(models, told)]
        if not quiet:
            for line in lines:
                say(printable(line))
        _check_still_wanted(models, followed)
        left = [one.name for one in models if not _is_settled(one)]
        if not left:
            return
        if failed := [one.name for one in models if one.given_up]:
            raise ControlError(
                f"An engine of {', '.join(failed)} has failed, and is not started again "
                "(`restart_on_error` is false). Write the model otherwise, or take the edit back."
            )
        if time.monotonic() >= until:
            raise ControlError(
                f"After {timeout:g} s not all is done: {', '.join(left)}. {_GOES_ON}"
            )
        time.sleep(min(_POLL, max(0.0, until - time.monotonic())))


def _is_settled(model: ModelStatus) -> bool:
    """Whether all engines that are wanted run, and none other is there."""
    return model.generation == model.observed_generation and model.settled


def _check_still_wanted(models: list[ModelStatus], followed: dict[str, ModelPlan]) -> None:
    """Raises ControlError where something else is wanted meanwhile than what was applied."""
    there = {one.name: one for one in models}
    for name, plan in followed.items():
        now = there.get(name)
        if (
            now is None
            or now.replicas != plan.replicas
            or now.generation not in (plan.generation, None)
        ):
            raise ControlError(
                f"The model {name} was changed again meanwhile, by another `apply`, a SIGHUP or a "
                "restart: what this command has applied is not what holds now. `gpustack-fast "
                "status` shows what does."
            )


def _progress(models: list[ModelStatus], shown: dict[str, str]) -> Iterator[str]:
    """A line for each instance that has another state than was `shown`, and for those that left."""
    there = {one.name: one for model in models for one in model.instances}
    for name in [name for name in shown if name not in there]:
        has_failed = shown.pop(name) == "error"
        yield f"{name}, which has failed, is removed." if has_failed else f"{name} is retired."
    for name, one in there.items():
        if shown.get(name) == one.state:
            continue
        is_first = name not in shown
        shown[name] = one.state
        # Those that are older, and run, are no news.
        if not (is_first and one.outdated):
            message = f" {one.state_message}" if one.state == "error" else ""
            yield f"{name} (generation {one.generation}) is {one.state}.{message}"


def _messages(models: list[ModelStatus], told: dict[str, str]) -> Iterator[str]:
    """A line for each model of which something else is to be known than was `told`."""
    for model in models:
        if model.state_message and told.get(model.name) != model.state_message:
            yield f"{model.name}: {model.state_message}"
        told[model.name] = model.state_message
