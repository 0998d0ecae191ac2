"""What a running server knows of this machine's GPUs: whose they are, and what they reported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from gpustack_fast.commands.output import complain
from gpustack_fast.control.client import ControlClient, NoServer
from gpustack_fast.errors import GpustackFastError
from gpustack_fast.gpus import Gpu, GpuProcess, GpuReport
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["with_server"]

_WITHIN = 5.0
"""Seconds that a server has to tell; GPUs are shown without it, too."""


def with_server(report: GpuReport, data_dir: Path) -> GpuReport:
    """The report with what the server on a data directory knows, if there is one.

    That is the names of the instances that have or hold something of each GPU, and why it starts
    nothing on one any more, which the driver need not show.
    """
    try:
        with ControlClient(DataDirectory(data_dir).control_socket, _WITHIN) as server:
            status = server.status()
    except NoServer:
        return report
    except GpustackFastError as error:
        complain(f"warning: What the server does with the GPUs is not shown. {error}")
        return report
    given: dict[str, list[str]] = {}
    leaders: dict[int, str] = {}
    for one in (one for model in status.models for one in model.instances):
        for uuid in one.devices:
            given.setdefault(uuid, []).append(one.name)
        if one.pid is not None:
            leaders[one.pid] = one.name
    avoided = status.avoided_gpus
    gpus = [
        replace(
            gpu,
            slices=[
                replace(one, instances=given.get(one.uuid, []), problem=avoided.get(one.uuid, ""))
                for one in gpu.slices
            ],
            instances=_holders(gpu, given, leaders),
            problem=gpu.problem or avoided.get(gpu.uuid, ""),
        )
        for gpu in report.gpus
    ]
    return replace(report, gpus=gpus)


def _holders(gpu: Gpu, given: Mapping[str, list[str]], leaders: Mapping[int, str]) -> list[str]:
    """What an instance was given is known; else the session of a process tells whose it is.
    Processes that the driver numbers otherwise, as beyond a container, belong to nobody.
    """
    names = [*given.get(gpu.uuid, [])]
    names += [name for one in gpu.slices for name in given.get(one.uuid, [])]
    names += [name for one in gpu.processes or [] if (name := _owner(one, leaders))]
    return list(dict.fromkeys(names))


def _owner(process: GpuProcess, leaders: Mapping[int, str]) -> str | None:
    """The instance in whose session a process is: each engine leads one of its own."""
    try:
        return leaders.get(os.getsid(process.pid))
    except OSError:
        return None  # it has ended, or is another's
