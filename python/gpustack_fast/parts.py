"""The rooms of one server, wired together. Nothing runs before `app` brings them to life."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable

from gpustack_fast import console
from gpustack_fast.config import Config, ServeOptions
from gpustack_fast.config.certificate import validity_warning
from gpustack_fast.config.source import Reading, Source
from gpustack_fast.config.warnings import warnings_of
from gpustack_fast.engines.adoption import Adoptable
from gpustack_fast.engines.assembly import Engines
from gpustack_fast.engines.history import History
from gpustack_fast.faults import Faults
from gpustack_fast.handover.successor import Inheritance
from gpustack_fast.keys.live import KeyChange, Keys
from gpustack_fast.keys.reach import unmatched
from gpustack_fast.keys.store import Store
from gpustack_fast.publisher import Publisher
from gpustack_fast.reload import Deployment, Reloader
from gpustack_fast.seam.dataplane import DataPlane
from gpustack_fast.seam.outstanding import Outstanding
from gpustack_fast.seam.settings import plane_config
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.engine_paths import EnginePaths
from gpustack_fast.storage.events import Events
from gpustack_fast.storage.model_states import ModelStates
from gpustack_fast.token_counts import TokenCounts

__all__ = ["Parts"]

KEEPS_NOTHING = (
    "keep_engines does nothing here: this server is process 1 (of a container), with which the "
    "kernel ends all engines. They are ended at its stop. Start it below an init, or without a "
    "container, where engines are to go on."
)


class Parts:
    """What a server is made of.

    `sockets`: those that listen. `inherited`: what another process gives to this one. `on_publish`
    is called behind each table that the data plane has taken.
    """

    def __init__(
        self,
        source: Source,
        start: Reading,
        options: ServeOptions,
        directory: DataDirectory,
        sockets: list[socket.socket],
        inherited: Inheritance | None,
        *,
        on_publish: Callable[[], None],
    ) -> None:
        config = start.config
        self.directory = directory
        self.sockets = sockets
        self.inherited = inherited
        self.scheme = "http" if config.server.tls_certificate is None else "https"
        self.faults = Faults()
        self._given_warnings = options.warnings
        states = ModelStates(directory)
        history = History(states, Events(directory.events_file), self.faults)
        deployment = Deployment.of(config, start.engine_keys, directory, states)
        # What is damaged ends the start before there is a data plane, which would tell of its end.
        self.store = Store(directory)
        self.engine_paths = EnginePaths(directory.path)
        # The files of another process's requests have no names; their folder is there.
        spool = directory.empty_spool() if inherited is None else directory.spool
        settings = plane_config(config.server, directory.api_socket, spool)
        self.plane = DataPlane(settings, [one.fileno() for one in sockets])
        self.publisher = Publisher(
            self.plane,
            self.faults,
            current=lambda: (self.reloader.deployment, self.supervisor.replicas),
            waits=lambda: self.supervisor.waits,
            unsaved=lambda: self.keys.unsaved,
            on_publish=on_publish,
        )
        self.tokens = TokenCounts(directory, self.plane, self.faults)
        self.keys = Keys(self.store, self.publish_keys, self.faults)
        outstanding = Outstanding(self.plane)
        self.engines = Engines(
            directory.path,
            config.server.models_folder(),
            self.engine_paths,
            self.faults,
            on_change=self.publisher.pace.soon,
            in_flight=outstanding.of,
            activity=outstanding.activity,
            drain_timeout=lambda: self.config.server.drain_timeout,
            history=history,
            engine_key=lambda model: self.reloader.deployment.engine_keys.get(model),
        )
        self.supervisor = self.engines.supervisor
        self.reloader = Reloader(
            source,
            deployment,
            directory,
            states,
            self.plane,
            self.supervisor,
            self.publisher.whole_table,
            self.engines.no_room,
        )

    @property
    def keeps_engines(self) -> bool:
        """Whether engines go on at its end. With process 1 the kernel ends all that it has."""
        return self.config.server.keep_engines and os.getpid() != 1

    def want(self, adoptable: Iterable[Adoptable]) -> None:
        """Wants what the configuration says, and goes on with these engines; publishes that.

        Raises DataPlaneError: the data plane refuses the table.
        """
        self.engines.start()
        generations = self.reloader.deployment.generations
        self.supervisor.want(self.config.models, generations, adoptable)
        self.publisher.pace.now()
        self.tokens.look()

    @property
    def config(self) -> Config:
        """What holds now."""
        return self.reloader.deployment.config

    def warnings(self, addresses: list[str]) -> list[str]:
        """What is right by all rules, and will still astonish somebody."""
        routes = self.config.all_routes()
        now = time.time()
        unencrypted = console.unencrypted(addresses, self.scheme)
        found = self.plane.stats()
        refused = validity_warning(found.certificate_begins, found.certificate_expires, now)
        return [
            *self._given_warnings,
            *(warning for warning in (unencrypted, refused) if warning),
            *([] if self.keeps_engines or not self.config.server.keep_engines else [KEEPS_NOTHING]),
            *warnings_of(self.config),
            *unmatched(routes, self.keys.all(), now),
        ]

    def publish_keys(self, change: KeyChange) -> None:
        """Tells the data plane of a change of keys, and the process before, if that is there."""
        self.publisher.publish_keys(change)
        if self.inherited is not None:
            self.inherited.forward(change)
