"""`gpustack-fast serve`: brings the rooms to life; reads top to bottom.

serve → Server.run → start …  the data directory, the listening sockets, the data plane (it
                              responds from here on), the keys, the control socket, the
                              management API, the engines; where another process hands over to
                              this one, the data plane responds last
                   → wait     for a signal: a reload, log files, the stop; or for a successor
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
from gpustack_fast.api.views import has_failed, model_views
from gpustack_fast.config import Config, ServeOptions
from gpustack_fast.config.source import Reading, Source
from gpustack_fast.control.documents import HandedOver
from gpustack_fast.earlier_engines import EarlierEngines
from gpustack_fast.engines import processes
from gpustack_fast.errors import ControlError, GpustackFastError, UsageError
from gpustack_fast.faults import go_on, is_ours, reason_of
from gpustack_fast.first_key import first_key
from gpustack_fast.handover.launch import Origin
from gpustack_fast.handover.predecessor import Predecessor
from gpustack_fast.handover.successor import Inheritance
from gpustack_fast.listeners import BindError
from gpustack_fast.local_sockets import LocalSockets
from gpustack_fast.operation import Operation
from gpustack_fast.parts import Parts
from gpustack_fast.reopening import Reopening
from gpustack_fast.seam.dataplane import DataPlaneError
from gpustack_fast.seam.documents import Drained, InstanceFailed, InstanceIdle, ModelWanted
from gpustack_fast.seam.log import announce, flush, start_log
from gpustack_fast.signals import Ask, Signals
from gpustack_fast.storage.data_directory import DataDirectory
from gpustack_fast.succession import Giving, become_ready, take_last_changes, until_alone

__all__ = ["serve"]

log = logging.getLogger(__name__)

POLL_EVERY = 1.0
"""Seconds between two looks at the records; events come at once."""
ADOPTED_WITHIN = 5.0
"""Seconds that clients wait at a start for engines of an earlier run that have served."""
DRAINED_WITHIN = 5.0
"""Seconds that the data plane may take to report the end of its drain, after the deadline."""
KEPT_BEYOND = 2.0
"""Seconds for which the data plane keeps an idle connection beyond the time that its client was
told: so long a successor's predecessor waits for another request on it."""


def serve(
    source: Source,
    start: Reading,
    options: ServeOptions,
    received: Signals,
    inherited: Inheritance | None = None,
) -> int:
    """Runs the server until a signal asks for its stop, or another process has taken over.

    `start`: what `source` has given. `received`: the signals, which may have come already.
    `inherited`: what another process gives to this one. Returns the exit status. Raises
    GpustackFastError.
    """
    config = start.config
    listeners.check_descriptors(config.server.worker_count())
    processes.open_standard_descriptors()
    faulthandler.enable(file=2)  # the last word of a crash, which no handler of ours would have
    signals.enlarge_stack()
    start_log(config.server.log_level, config.server.log_format)
    directory = DataDirectory(config.server.data_dir)
    if inherited is None:
        directory.acquire()
    else:
        directory.inherit(inherited.lock)
    server = None
    try:
        processes.become_subreaper()
        sockets = _sockets(config, inherited)
        server = Server(source, start, options, directory, sockets, inherited)
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


def _sockets(config: Config, inherited: Inheritance | None) -> list[socket.socket]:
    """Those of the process before, where they are what the configuration asks for, else new ones.

    Raises BindError.
    """
    host, port = config.server.host, config.server.port
    if inherited is None:
        return listeners.bind(host, port)
    if (given := inherited.sockets(host, port)) is not None:
        return given
    try:
        return listeners.bind(host, port)
    except BindError as error:
        raise BindError(
            f"{error} If it is the running server itself that is in the way, as where only `host` "
            "has changed: stop that, and start one anew."
        ) from error


class Server:
    """A running server: everything on one event loop."""

    def __init__(
        self,
        source: Source,
        start: Reading,
        options: ServeOptions,
        directory: DataDirectory,
        sockets: list[socket.socket],
        inherited: Inheritance | None,
    ) -> None:
        self._directory = directory
        self._sockets = sockets
        self._inherited = inherited
        self._addresses = listeners.urls_of(sockets)
        self._since = time.time()
        self.serving = False
        """Whether the start is over."""
        self._accepts = False
        """Whether clients are served."""
        self._greeted = inherited is not None
        self._signals = 0
        """Those that asked for a stop."""
        self._ending = asyncio.Event()
        """Set by the first of them, or when another process serves instead."""
        self._bereft = False
        """Whether that process has ended before this one."""
        self._following: asyncio.Task[None] | None = None
        """Of a server that was handed over: the look at what its last requests lack."""
        self._drained: asyncio.Future[None] | None = None
        self._contexts = contextlib.AsyncExitStack()
        self._service = systemd.Notifier(os.environ)
        self._parts = Parts(
            source, start, options, directory, sockets, inherited, on_publish=self._greet
        )
        self._earlier = EarlierEngines(self._parts)
        self._faults = self._parts.faults
        self._plane = self._parts.plane
        self._supervisor = self._parts.supervisor
        self._reloader = self._parts.reloader
        self._reopening = Reopening(self._supervisor)
        self._giving = Giving(
            self._parts,
            is_serving=lambda: self.serving,
            tell_wanted=lambda model: self._predecessor.tell_wanted(model),
            leave=self._leave_to_successor,
            hurry=self._hurry,
            bereft=self._go_without_successor,
        )
        self._predecessor = Predecessor(self._giving, lambda: _origin(source, options))
        self._bearer = None
        if inherited is None:
            self._bearer = first_key(self._parts.store, directory, options.bootstrap_key)

    @property
    def _config(self) -> Config:
        """What holds now."""
        return self._parts.config

    @property
    def _is_given(self) -> bool:
        """Whether another process serves instead."""
        return self._predecessor.successor is not None

    async def run(self, received: Signals) -> int:
        """Runs from the first request to the last engine's end."""
        loop = asyncio.get_running_loop()
        received.attend(self._on_signal)
        loop.add_reader(self._plane.fileno(), self._poll)
        poll = functools.partial(self._poll_now_and_then, received)
        polling = asyncio.ensure_future(go_on(poll, "The look at the records", self._faults))
        count = self._parts.publisher.count_now_and_then
        counting = asyncio.ensure_future(go_on(count, "The look at the faults", self._faults))
        save = self._parts.tokens.save_now_and_then
        saving = asyncio.ensure_future(go_on(save, "The look at the tokens", self._faults))
        working = asyncio.ensure_future(self._work())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._stop(working)
            for task in (polling, counting, saving, ending):
                task.cancel()
            loop.remove_reader(self._plane.fileno())
            received.ignore()
        if working.cancelled():
            return 1 if self._bereft else 0
        working.result()  # it ends by itself only with an exception
        return 1

    def _accept(self) -> None:
        """Lets the data plane serve clients."""
        try:
            self._addresses = self._plane.start().addresses
        except DataPlaneError as error:
            raise GpustackFastError(f"The server cannot start. {error}") from error
        self._accepts = True

    async def _work(self) -> None:
        """Starts the rest, then keeps the engines running, for ever."""
        self._parts.keys.publish_all()
        self._contexts.push_async_callback(self._parts.keys.close)
        if self._inherited is None:
            await self._begin()
        else:
            await self._take_over(self._inherited)
        self.serving = True
        self._reloader.begin.set()
        await go_on(self._supervisor.run, "The watch on the engines", self._faults)

    async def _begin(self) -> None:
        """Goes on with the engines of an earlier run, serves, and starts the rest.

        Clients wait in the queue of the listening sockets for what has served before.
        """
        self._parts.want(await self._earlier.adoptable())
        await self._open_sockets(shown=True)
        await self._supervisor.until_adopted(ADOPTED_WITHIN)
        self._parts.publisher.pace.now()
        self._accept()
        listening = console.urls(self._addresses, self._parts.scheme)
        views = model_views(self._config, self._supervisor.replicas)
        due = [one for one in views if one.name not in self._supervisor.resting]
        are_there = all(one.ready_replicas >= one.replicas for one in due)
        announce(f"Listening on {listening}{'' if are_there else '; engines are starting'}.")
        self._warn()
        self._greet()
        self._service.tell(systemd.READY)
        await self._earlier.end_others()  # what they hold is free before anything new is started

    async def _take_over(self, inherited: Inheritance) -> None:
        """Gets ready beside the process that serves, and serves in its place."""
        await inherited.open(self._wanted)
        self._contexts.callback(inherited.close)
        try:
            sockets = await self._open_sockets(shown=False)
            await inherited.until(become_ready(self._parts, self._earlier, inherited))
            go = await inherited.take_over()
            await take_last_changes(self._parts, go)
            self._accept()
        except (GpustackFastError, OSError) as error:
            inherited.tell_error(error)
            raise
        # First, so that whoever is told of it and asks then, asks this process.
        sockets.show()
        inherited.tell_serving(self._urls())
        self._directory.sign()
        self._service.tell(systemd.READY)
        listening = console.urls(self._addresses, self._parts.scheme)
        announce(f"Took over from another process (version {inherited.offer.version}): {listening}")
        self._warn()
        self._supervisor.thaw()
        if go.reload:
            self._reloader.soon()
        alone = asyncio.ensure_future(until_alone(self._parts, self._earlier, inherited))
        self._contexts.callback(alone.cancel)

    async def _open_sockets(self, *, shown: bool) -> LocalSockets:
        """Those of commands and of the management API; `shown`: at their places."""
        sockets = LocalSockets(self._operation(), self._directory, self._faults)
        self._contexts.push_async_callback(self._close_sockets, sockets)
        await sockets.open(shown=shown)
        return sockets

    async def _close_sockets(self, sockets: LocalSockets) -> None:
        await sockets.close(taken_over=self._is_given)

    def _operation(self) -> Operation:
        parts = self._parts
        return Operation(
            self._plane,
            parts.publisher.pace,
            parts.engines,
            self._reloader,
            parts.keys,
            since=self._since,
            addresses=self._urls,
            stopping=self._ending.is_set,
            hand_over=self._hand_over,
        )

    def _urls(self) -> list[str]:
        return [f"{self._parts.scheme}://{address}" for address in self._addresses]

    def _greet(self) -> None:
        """Greets, once: when a model is ready, and none on its way."""
        if self._greeted or self._signals or not self._accepts:
            return
        views = model_views(self._config, self._supervisor.replicas)
        ready = {view.name for view in views if view.ready_replicas or not view.replicas}
        ready |= self._supervisor.resting.keys()
        if all(view.name in ready or has_failed(view) for view in views) and (ready or not views):
            self._greeted = True
            text = console.ready(
                self._config,
                ready,
                self._addresses,
                self._parts.scheme,
                self._bearer,
                self._directory.path,
            )
            announce(text)

    def _warn(self) -> None:
        for warning in self._parts.warnings(self._addresses):
            log.warning("%s", warning)

    # The end, and what leads to it.

    async def _hand_over(self, python: str | None, timeout: float) -> HandedOver:
        """Has another process take over; raises ControlError where this one goes on."""
        if self._ending.is_set() and not self._is_given:
            raise ControlError("The server stops. Start it anew when it has.")
        return await self._predecessor.hand_over(python, timeout)

    def _leave_to_successor(self) -> None:
        """Another process serves from now on."""
        assert self._predecessor.successor is not None
        self._service.tell(systemd.main_process(self._predecessor.successor))
        # Not held by several: whoever serves has it, and where that one is killed, it is free.
        self._directory.release()
        follow = go_on(self._giving.follow, "The look at the successor's engines", self._faults)
        self._following = asyncio.ensure_future(follow)
        self._ending.set()

    def _hurry(self, within: float) -> None:
        """The successor stops, and waits for the end of this process."""
        self._plane.drain(within)
        self._hurry_predecessor(within)

    def _go_without_successor(self) -> None:
        """The successor has ended. A service manager starts the service again when this process
        has ended with an error, and that waits for the process before it.
        """
        self._bereft = True
        self._service.tell(systemd.main_process(os.getpid()))
        self._hurry(self._config.server.drain_timeout)

    async def _stop(self, working: asyncio.Future[None]) -> None:
        """Drains, then ends the engines and the rest; but leaves to a successor what it has."""
        await self._predecessor.abort()
        if not self._is_given:
            self._service.tell(systemd.STOPPING)
        for one in self._sockets:
            one.close()
        # Backwards. Each of them happens, whatever comes of the ones before.
        async with contextlib.AsyncExitStack() as stopping:
            stopping.callback(self._predecessor.close)
            stopping.push_async_callback(self._contexts.aclose)
            stopping.push_async_callback(self._end_engines, working)
            stopping.push_async_callback(self._save_tokens)
            stopping.push_async_callback(self._drain)
            await self._reloader.stop()
        log.info("Stopped.")

    async def _save_tokens(self) -> None:
        """Of a server that was handed over its successor does."""
        if self._is_given:
            self._predecessor.tell_left(self._parts.tokens.unsaved())
        else:
            await self._parts.tokens.save()

    async def _end_engines(self, working: asyncio.Future[None]) -> None:
        working.cancel()
        await asyncio.wait({working})  # its exception, if any, is raised by `run`
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        serves_not_yet = self._inherited is not None and not self._inherited.serves
        if self._is_given or serves_not_yet:
            await self._parts.engines.abandon()
            return
        self._supervisor.restraint.alone.set()
        if self._parts.keeps_engines:
            left = await self._parts.engines.leave()
            log.info("Engines that go on (keep_engines): %s.", ", ".join(left) or "none")
        else:
            await self._parts.engines.shutdown(0.0)
            await self._earlier.look()  # all of them, where none was adopted yet
        if working.cancelled():
            await self._earlier.end_others()

    async def _drain(self) -> None:
        """Lets running requests end; a second signal cuts them. The data plane logs how many."""
        server = self._config.server
        patience = server.handover_timeout if self._is_given else server.drain_timeout
        self._drained = asyncio.get_running_loop().create_future()
        running = self._plane.stats().in_flight
        if running:
            log.info(
                "Stopping; requests that still run: %d, for up to %g s. A second Ctrl-C cuts them.",
                running,
                patience,
            )
        if self._is_given:
            kept = server.timeouts.keep_alive
            self._plane.drain(patience, idle_grace=kept + KEPT_BEYOND if kept else patience)
        else:
            self._plane.drain(0.0 if self._signals > 1 else patience)
            self._hurry_predecessor(0.0 if self._signals > 1 else patience)
        try:
            async with asyncio.timeout(patience + DRAINED_WITHIN):
                await self._drained
        except TimeoutError:
            log.warning("The data plane did not report the end of its drain; going on without.")
        if self._inherited is not None and self._inherited.serves:
            # Its requests are at the engines that are ended next.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience + DRAINED_WITHIN):
                    await self._inherited.has_left.wait()

    def _hurry_predecessor(self, within: float) -> None:
        if self._inherited is not None and self._inherited.serves:
            self._inherited.hurry(within)

    def _on_signal(self, number: int, ask: Ask) -> None:
        name = signals.name(number)
        match ask:
            case Ask.STOP:
                self._stop_soon()
            case Ask.HANG_UP if not self._signals:
                # A second one is no wish to cut: a terminal and its shell both send it.
                log.info("The terminal has gone (%s); stopping.", name)
                self._stop_soon()
            case Ask.RELOAD if not self._ending.is_set():
                self._reopening.soon()
                if self._predecessor.is_under_way:
                    self._giving.reload_later()
                else:
                    self._reloader.soon()
            case Ask.REOPEN:
                self._reopening.soon()
            case _:
                log.info("%s came, which asks for nothing now; the server goes on.", name)

    def _stop_soon(self) -> None:
        """Drains and stops; the second time cuts what still runs."""
        self._signals += 1
        self._ending.set()
        if self._drained is not None:
            is_first = self._is_given and self._signals == 1
            self._plane.drain(self._config.server.drain_timeout if is_first else 0.0)
            self._hurry_predecessor(0.0)

    def _wanted(self, model: str) -> None:
        """A request of the process before waits for a model."""
        if self._is_given:
            self._predecessor.tell_wanted(model)
        else:
            self._supervisor.model_wanted(model)

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
                case ModelWanted(model=model):
                    self._supervisor.model_wanted(model)
                case Drained() if self._drained is not None and not self._drained.done():
                    self._drained.set_result(None)


def _origin(source: Source, options: ServeOptions) -> Origin:
    """How a successor is started: as this server was, but for another file that was applied."""
    arguments = list(options.arguments)
    if source.file is not None and source.file != source.first_file:
        arguments += ["--config", str(source.file)]
    return Origin(arguments=arguments, environment=options.environment)
