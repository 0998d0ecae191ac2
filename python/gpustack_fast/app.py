"""`gpustack-fast serve`: wires the rooms together; reads top to bottom.

serve → Server.run → start …  the data directory, the listening sockets, the data plane (it
                              responds from here on), the keys, the control socket, the
                              management API, the engines
                   → wait     for a signal: a reload, log files, the stop
                   → stop …   drain, the engines, the rest; a second signal cuts what still runs
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import logging
import os
import socket
import time

import uvloop

from gpustack_fast import console, listeners, signals, systemd
from gpustack_fast.api.application import Application
from gpustack_fast.api.server import ApiServer
from gpustack_fast.api.views import has_failed, model_views
from gpustack_fast.config import Config, ServeOptions
from gpustack_fast.config.certificate import validity_warning
from gpustack_fast.config.source import Reading, Source
from gpustack_fast.config.warnings import warnings_of
from gpustack_fast.control.server import ControlServer
from gpustack_fast.engines import processes
from gpustack_fast.engines.assembly import Engines
from gpustack_fast.engines.leftovers import end_leftovers
from gpustack_fast.errors import GpustackFastError, UsageError
from gpustack_fast.faults import Faults, go_on, is_ours, reason_of
from gpustack_fast.first_key import first_key
from gpustack_fast.keys.live import Keys
from gpustack_fast.keys.reach import unmatched
from gpustack_fast.keys.store import Store
from gpustack_fast.operation import Operation
from gpustack_fast.publisher import Publisher
from gpustack_fast.reload import Deployment, Reloader
from gpustack_fast.reopening import Reopening
from gpustack_fast.seam.dataplane import DataPlane, DataPlaneError
from gpustack_fast.seam.documents import Drained, InstanceFailed, InstanceIdle
from gpustack_fast.seam.log import announce, flush, start_log
from gpustack_fast.seam.outstanding import Outstanding
from gpustack_fast.seam.settings import plane_config
from gpustack_fast.signals import Ask, Signals
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.storage.engine_paths import EnginePaths
from gpustack_fast.token_counts import TokenCounts

__all__ = ["serve"]

log = logging.getLogger(__name__)

POLL_EVERY = 1.0
"""Seconds between two looks at the records; events come at once."""
DRAINED_WITHIN = 5.0
"""Seconds that the data plane may take to report the end of its drain, after the deadline."""


def serve(source: Source, start: Reading, options: ServeOptions, received: Signals) -> int:
    """Runs the server until a signal asks for its stop, and returns its exit status.

    `start`: what `source` has given. `received`: the signals, which may have come already. Raises
    GpustackFastError.
    """
    config = start.config
    listeners.check_descriptors(config.server.worker_count())
    processes.open_standard_descriptors()
    faulthandler.enable(file=2)  # the last word of a crash, which no handler of ours would have
    start_log(config.server.log_level, config.server.log_format)
    directory = DataDirectory(config.server.data_dir)
    directory.acquire()
    server = None
    try:
        processes.become_subreaper()
        sockets = listeners.bind(config.server.host, config.server.port)
        server = Server(source, start, options, directory, sockets)
        return uvloop.run(server.run(received))
    except DataPlaneError as error:
        # What the machine lacks may be there the next time. The rest stays as it is written, and
        # no service manager needs to try it again.
        may_pass = is_ours(error) or (server is not None and server.serving)
        kind = GpustackFastError if may_pass else UsageError
        raise kind(f"The data plane cannot do what the configuration asks. {error}") from error
    except OSError as error:
        serving = server is not None and server.serving
        what = "The server has ended before its time" if serving else "The server cannot start"
        raise GpustackFastError(f"{what}: {reason_of(error)}.") from error
    finally:
        directory.release()
        flush()


class Server:
    """A running server: everything on one event loop."""

    def __init__(
        self,
        source: Source,
        start: Reading,
        options: ServeOptions,
        directory: DataDirectory,
        sockets: list[socket.socket],
    ) -> None:
        config = start.config
        self._directory = directory
        self._sockets = sockets
        self._scheme = "http" if config.server.tls_certificate is None else "https"
        self._since = time.time()
        self._faults = Faults()
        self.serving = False
        """Whether the start is over."""
        self._greeted = False
        self._leftovers = True
        """Whether engines of an earlier run may still be there."""
        self._signals = 0
        """Those that asked for a stop."""
        self._signalled = asyncio.Event()
        self._drained: asyncio.Future[None] | None = None
        self._contexts = contextlib.AsyncExitStack()
        self._service = systemd.Notifier(os.environ)

        deployment = Deployment.of(config, start.engine_keys, directory)
        self._given_warnings = options.warnings
        # What is damaged ends the start before there is a data plane, which would tell of its end.
        store = Store(directory)
        self._engine_paths = EnginePaths(directory.path)
        settings = plane_config(config.server, directory.api_socket, directory.empty_spool())
        self._plane = DataPlane(settings, [one.fileno() for one in sockets])
        self._publisher = Publisher(
            self._plane,
            self._faults,
            current=lambda: (self._reloader.deployment, self._supervisor.replicas),
            unsaved=lambda: self._keys.unsaved,
            on_publish=self._greet,
        )
        self._keys = Keys(store, self._publisher.publish_keys, self._faults)
        self._tokens = TokenCounts(directory, self._plane, self._faults)
        self._engines = Engines(
            directory.path,
            config.server.models_folder(),
            self._engine_paths,
            self._faults,
            on_change=self._publisher.pace.soon,
            in_flight=Outstanding(self._plane).of,
        )
        self._supervisor = self._engines.supervisor
        self._reopening = Reopening(self._supervisor)
        self._reloader = Reloader(
            source,
            deployment,
            directory,
            self._plane,
            self._supervisor,
            self._publisher.whole_table,
        )
        self._bearer = first_key(store, directory, options.bootstrap_key)

    @property
    def _config(self) -> Config:
        """What holds now."""
        return self._reloader.deployment.config

    async def run(self, received: Signals) -> int:
        """Runs from the first request to the last engine's end."""
        loop = asyncio.get_running_loop()
        received.attend(self._on_signal)
        try:
            self._addresses = self._plane.start().addresses
        except DataPlaneError as error:
            raise GpustackFastError(f"The server cannot start. {error}") from error
        loop.add_reader(self._plane.fileno(), self._poll)
        poll = functools.partial(self._poll_now_and_then, received)
        polling = asyncio.ensure_future(go_on(poll, "The look at the records", self._faults))
        counting = asyncio.ensure_future(
            go_on(self._publisher.count_now_and_then, "The look at the faults", self._faults)
        )
        saving = asyncio.ensure_future(
            go_on(self._tokens.save_now_and_then, "The look at the tokens", self._faults)
        )
        working = asyncio.ensure_future(self._work())
        signalled = asyncio.ensure_future(self._signalled.wait())
        try:
            await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._stop(working)
            for task in (polling, counting, saving, signalled):
                task.cancel()
            loop.remove_reader(self._plane.fileno())
            received.ignore()
        if working.cancelled():
            return 0
        working.result()  # it ends by itself only with an exception
        return 1

    async def _work(self) -> None:
        """Starts the rest, then keeps the engines running, for ever."""
        self._keys.publish_all()
        listening = console.urls(self._addresses, self._scheme)
        announce(f"Listening on {listening}; engines are starting.")
        for warning in self._warnings():
            log.warning("%s", warning)
        self._contexts.push_async_callback(self._keys.close)
        operation = self._operation()
        control = ControlServer(self._directory.control_socket, operation, self._faults)
        self._contexts.push_async_callback(control.close)
        await control.start()
        api = ApiServer(Application(operation.sources()), self._directory.api_socket)
        self._contexts.push_async_callback(api.close)
        await api.start()
        self._service.tell(systemd.READY)
        await self._end_leftovers()
        self._engines.start()
        self._supervisor.want(self._config.models)
        self._publisher.pace.now()  # a table that the data plane refuses ends the start
        self._tokens.look()
        self.serving = True
        self._reloader.begin.set()
        await go_on(self._supervisor.run, "The watch on the engines", self._faults)

    def _operation(self) -> Operation:
        return Operation(
            self._plane,
            self._publisher.pace,
            self._engines,
            self._reloader,
            self._keys,
            since=self._since,
            addresses=[f"{self._scheme}://{address}" for address in self._addresses],
            stopping=lambda: self._signals > 0,
        )

    def _greet(self) -> None:
        """Greets, once: when a model is ready, and none on its way."""
        if self._greeted or self._signals:
            return
        views = model_views(self._config, self._supervisor.replicas)
        ready = {view.name for view in views if view.ready_replicas or not view.replicas}
        if all(view.name in ready or has_failed(view) for view in views) and (ready or not views):
            self._greeted = True
            text = console.ready(
                self._config,
                ready,
                self._addresses,
                self._scheme,
                self._bearer,
                self._directory.path,
            )
            announce(text)

    def _warnings(self) -> list[str]:
        """What is right by all rules, and will still astonish somebody."""
        routes = self._config.all_routes()
        now = time.time()
        unencrypted = console.unencrypted(self._addresses, self._scheme)
        found = self._plane.stats()
        refused = validity_warning(found.certificate_begins, found.certificate_expires, now)
        return [
            *self._given_warnings,
            *(warning for warning in (unencrypted, refused) if warning),
            *warnings_of(self._config),
            *unmatched(routes, self._keys.all(), now),
        ]

    async def _end_leftovers(self) -> None:
        """Ends the engines of an earlier, killed server."""
        for name in await end_leftovers(self._engine_paths, self._faults):
            log.info("Ended the engine %s, which an earlier run had left.", name)
        self._leftovers = False

    async def _stop(self, working: asyncio.Future[None]) -> None:
        """Drains, then ends the engines and the rest."""
        self._service.tell(systemd.STOPPING)
        for one in self._sockets:
            one.close()
        # Backwards. Each of them happens, whatever comes of the ones before.
        async with contextlib.AsyncExitStack() as stopping:
            stopping.push_async_callback(self._contexts.aclose)
            stopping.push_async_callback(self._end_engines, working)
            stopping.push_async_callback(self._tokens.save)
            stopping.push_async_callback(self._drain)
            await self._reloader.stop()
        log.info("Stopped.")

    async def _end_engines(self, working: asyncio.Future[None]) -> None:
        working.cancel()
        await asyncio.wait({working})  # its exception, if any, is raised by `run`
        await self._engines.shutdown(0.0)
        if self._leftovers and working.cancelled():
            await self._end_leftovers()

    async def _drain(self) -> None:
        """Lets running requests end; a second signal cuts them. The data plane logs how many."""
        patience = self._config.server.drain_timeout
        self._drained = asyncio.get_running_loop().create_future()
        running = self._plane.stats().in_flight
        if running:
            log.info(
                "Stopping; requests that still run: %d, for up to %g s. A second Ctrl-C cuts them.",
                running,
                patience,
            )
        self._plane.drain(0.0 if self._signals > 1 else patience)
        try:
            async with asyncio.timeout(patience + DRAINED_WITHIN):
                await self._drained
        except TimeoutError:
            log.warning("The data plane did not report the end of its drain; going on without.")

    def _on_signal(self, number: int, ask: Ask) -> None:
        name = signals.name(number)
        match ask:
            case Ask.STOP:
                self._stop_soon()
            case Ask.HANG_UP if not self._signals:
                # A second one is no wish to cut: a terminal and its shell both send it.
                log.info("The terminal has gone (%s); stopping.", name)
                self._stop_soon()
            case Ask.RELOAD if not self._signals:
                self._reopening.soon()
                self._reloader.soon()
            case Ask.REOPEN:
                self._reopening.soon()
            case _:
                log.info("%s came, which asks for nothing now; the server goes on.", name)

    def _stop_soon(self) -> None:
        """Drains and stops; the second time cuts what still runs."""
        self._signals += 1
        self._signalled.set()
        if self._drained is not None:
            self._plane.drain(0.0)

    # From the data plane.

    async def _poll_now_and_then(self, received: Signals) -> None:
        while True:
            await asyncio.sleep(POLL_EVERY)
            self._poll()
            received.look()

    def _poll(self) -> None:
        """Hands events on that are not for the log alone: the data plane has logged each of them.

        Records have no reader yet.
        """
        for event in self._plane.poll().events:
            match event:
                case InstanceIdle(instance=instance):
                    self._supervisor.instance_idle(instance)
                case InstanceFailed(instance=instance, reason=reason):
                    self._supervisor.instance_failed(instance, reason)
                case Drained() if self._drained is not None and not self._drained.done():
                    self._drained.set_result(None)
