"""What a running server is asked: by commands on its control socket, and by the management API."""

from __future__ import annotations

import os
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path

from gpustack_fast.api.documents import ModelView
from gpustack_fast.api.routes import Sources
from gpustack_fast.api.views import model_views, route_views
from gpustack_fast.control.documents import ApplyReport, DrainReport, HandedOver, ServerStatus
from gpustack_fast.control.views import (
    Generations,
    apply_report,
    drain_report,
    model_statuses,
    shown_events,
)
from gpustack_fast.engines.assembly import Engines
from gpustack_fast.engines.replica import Replica
from gpustack_fast.keys.live import Keys
from gpustack_fast.keys.reach import unknown_models
from gpustack_fast.keys.store import KeyInfo
from gpustack_fast.reload import Reloader
from gpustack_fast.seam.dataplane import DataPlane, __version__
from gpustack_fast.seam.pace import Pace

__all__ = ["Operation"]


class Operation:
    """Responds for a server, and does what an operator asks of its instances.

    What it shows as running gets requests: before it tells of anything, the data plane has the
    table of now. `since`: Unix seconds of the server's start. `addresses`: its URLs. `stopping`:
    whether its stop has begun, or another process serves instead. `hand_over`: see
    `handover.predecessor`.
    """

    def __init__(
        self,
        plane: DataPlane,
        pace: Pace,
        engines: Engines,
        reloader: Reloader,
        keys: Keys,
        *,
        since: float,
        addresses: Callable[[], list[str]],
        stopping: Callable[[], bool],
        hand_over: Callable[[str | None, float], Awaitable[HandedOver]],
    ) -> None:
        self.keys = keys
        self._plane = plane
        self._pace = pace
        self._engines = engines
        self._supervisor = engines.supervisor
        self._reloader = reloader
        self._addresses = addresses
        self._stopping = stopping
        self._hand_over = hand_over
        self._since = since

    def sources(self) -> Sources:
        """Where the management API has its answers from."""
        return Sources(
            version=__version__,
            models=self._models,
            routes=lambda: route_views(
                self._reloader.deployment.config,
                self._reloader.deployment.routes,
                self._supervisor.replicas,
            ),
            find_key=self.keys.authenticate,
        )

    def _models(self) -> list[ModelView]:
        self._pace.catch_up()
        return model_views(self._reloader.deployment.config, self._supervisor.replicas)

    def key_warnings(self, key: KeyInfo) -> list[str]:
        """What a new key was made for, and is not there."""
        routes = self._reloader.deployment.config.all_routes()
        return unknown_models(key, (route.name for route in routes))

    def status(self) -> ServerStatus:
        """The server, its models and its instances."""
        self._pace.catch_up()
        stats = self._plane.stats()
        config = self._reloader.deployment.config
        certificate = config.server.tls_certificate
        return ServerStatus(
            version=__version__,
            pid=os.getpid(),
            since=self._since,
            phase="stopping" if self._stopping() else "serving",
            not_ready=stats.not_ready,
            addresses=self._addresses(),
            certificate=None if certificate is None else str(certificate),
            certificate_begins=stats.certificate_begins,
            certificate_expires=stats.certificate_expires,
            connections=stats.connections,
            in_flight=stats.in_flight,
            models=model_statuses(
                config,
                self._supervisor.replicas,
                {one.id: one for one in stats.instances},
                self._generations(),
                self._supervisor.resting,
                self._supervisor.progress.outlooks(),
            ),
            file=None if self._reloader.file is None else str(self._reloader.file),
            events=shown_events(
                self._supervisor.history.events(), config, self._supervisor.replicas
            ),
            avoided_gpus=dict(self._engines.avoided_gpus),
        )

    async def apply(self, file: str, *, dry_run: bool) -> ApplyReport:
        """Takes up a configuration, or says what that would do.

        Raises GpustackFastError, or OSError for this machine: nothing has changed then.
        """
        if dry_run:
            return apply_report(file, await self._reloader.preview(Path(file)), applied=False)
        outcome = await self._reloader.apply(Path(file))
        return apply_report(file, outcome, applied=True, warnings=self._other_file())

    def _other_file(self) -> list[str]:
        """What is to be said where another file holds than that of the start."""
        file = self._reloader.file
        before = self._reloader.first_file
        if file is None or (before is not None and file.absolute() == before.absolute()):
            return []
        named = "without a file" if before is None else f"with {before}"
        return [
            f"The server was started {named}, and reads {file} from now on. When it is started "
            "anew by hand, or by a service manager, name that: "
            f"`--config {shlex.quote(str(file))}`."
        ]

    def _generations(self) -> dict[str, Generations]:
        """The generations of every model of ours."""
        history = self._supervisor.history
        return {
            name: Generations(wanted, history.observed(name))
            for name, wanted in self._reloader.deployment.generations.items()
        }

    def drain(self, which: str) -> DrainReport:
        """Takes instances out of the choice."""
        found = self._supervisor.orders.drain(which)
        self._pace.now()
        return self._drain_report(found)

    def resume(self, which: str) -> DrainReport:
        """Takes a drain back."""
        found = self._supervisor.orders.resume(which)
        self._pace.now()
        return self._drain_report(found)

    async def hand_over(self, python: str | None, timeout: float) -> HandedOver:
        """Has another process take over. Raises ControlError."""
        return await self._hand_over(python, timeout)

    def _drain_report(self, found: list[Replica]) -> DrainReport:
        counters = {one.id: one for one in self._plane.stats().instances}
        return drain_report(found, self._supervisor.replicas, counters)
