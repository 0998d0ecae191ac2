"""One engine process: started, watched until it is ready and until it ends, and ended.

    DATA_DIR/run/instances/ID.json    who it is, written by the process before it becomes the engine
    DATA_DIR/run/engines/ID.sock      where it listens (elsewhere if too long: `EnginePaths`)
    DATA_DIR/logs/MODEL/ID.log        its standard output and error, appended to by itself

The engine may outlive this program, so its output is a file and never a pipe, and nothing of it
depends on ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import msgspec

from gpustack_fast.backends import Backend, Command, Place
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import processes
from gpustack_fast.engines.ask import Answer, ask
from gpustack_fast.engines.engine_log import LogFollower, cause_of, last_lines, rotate
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.processes import Process, ProcessTable
from gpustack_fast.errors import EngineFailed, printable
from gpustack_fast.faults import Faults, is_ours, run_in_thread
from gpustack_fast.storage.engine_paths import EnginePaths, safe

__all__ = ["Identified", "Instance", "new_id"]

Identified = tuple[int, int]
"""A process, by its id and its start time."""

STUB = Path(__file__).parents[1] / "backends" / "exec_stub.py"
LOG_LIMIT = 64 * 1024 * 1024
PROBE_TIMEOUT = 1.0
STAGE_EVERY = 1.0
"""Seconds between two looks at how far a start has come."""
WARM_UP_WITHIN = 300.0
"""Seconds: kernels that are compiled at the first request were seen to take half a minute."""
DISK_WITHIN = 5.0
"""Seconds that a disk may take before an engine's end, and the message about it, go on without."""
RECORD_ROOM = 1024
"""Bytes that a record may need."""


def new_id(model: str) -> str:
    """GPUStack's form: the model's name and five random characters."""
    letters = string.ascii_lowercase + string.digits
    return f"{safe(model)}-{''.join(secrets.choice(letters) for _ in range(5))}"


class Instance:
    """One engine process, from its start until nobody of its session is left."""

    def __init__(
        self,
        instance_id: str,
        model: ModelConfig,
        backend: Backend,
        paths: EnginePaths,
        table: ProcessTable,
        faults: Faults,
    ) -> None:
        self._paths = paths
        self._table = table
        self._faults = faults
        self.id = instance_id
        self.model = model
        self.backend = backend
        self.ready_path = ready_path(backend, model)
        self.key = secrets.token_hex(24)
        self.socket = paths.socket(instance_id)
        self.record = paths.record(instance_id)
        self._new_record = self.record.with_name(self.record.name + ".new")
        self.log = paths.log(model.name, instance_id)
        self.exited = asyncio.Event()
        self._making: asyncio.Task[IO[bytes]] | None = None
        """The making of its files, which goes on when a start is given up."""
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        """None: not watched, so its end would not be seen."""
        self._opened: os.stat_result | None = None
        """The log, as it was opened."""
        self.folder = self.socket.with_suffix(".d")
        """Where what its command names is written before the start."""
        self._port: int | None = None
        self.devices: tuple[str, ...] = ()
        """GPUs and slices that it was given, as CUDA takes them."""

    def take(self, model: ModelConfig) -> None:
        """Goes on by another configuration of its model, which makes the same process."""
        self.model = model
        self.ready_path = ready_path(self.backend, model)

    @property
    def address(self) -> str:
        if self._port is not None:
            return f"http://127.0.0.1:{self._port}"
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    async def start(self, prepared: Prepared) -> None:
        """Starts the process and watches it.

        Raises BackendError, StoreError, or OSError for this machine. `stop` must follow that, too:
        the process may run, and not be watched.
        """
        self._port = free_port() if self.backend.over_tcp else None
        self.devices = prepared.devices
        place = Place(
            python=prepared.python,
            version=prepared.version,
            socket=self.socket,
            port=self._port,
            key=self.key,
            files=prepared.files,
            adapters=prepared.adapters,
            devices=prepared.devices,
            shape=prepared.shape,
            share=prepared.share,
            facts=prepared.facts,
        )
        command = await run_in_thread(self.backend.command, self.model, place)  # looks for files
        stub = [
            sys.executable,
            "-I",
            "-S",
            str(STUB),
            str(self.record),
            str(self.socket),
            str(self.log),
        ]
        self._making = asyncio.ensure_future(run_in_thread(self._make_files, command))
        with await asyncio.shield(self._making) as log:
            # On the loop: no stop can come in between, and miss it.
            self._run([*stub, *command.arguments], log, command.environment)

    def _run(self, arguments: list[str], log: IO[bytes], variables: dict[str, str]) -> None:
        self._child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment(variables),
            start_new_session=True,
        )
        self._pidfd = os.pidfd_open(self._child.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """What the engine inherits of ours, without our settings (one may be a key) and what its
        backend decides; over it what that says, and what the user does.
        """
        decided = self.backend.variables
        found = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GPUSTACK_FAST_") and name not in decided
        }
        return {**found, **variables, **self.model.env, processes.MARK: str(self.record)}

    def _make_files(self, command: Command) -> IO[bytes]:
        """Makes the places of its files; returns the open log. Raises OSError, StoreError."""
        self._paths.make_room_for(self.log)
        self.socket.unlink(missing_ok=True)
        # On a full disk the process could not write its record, nor say so: its log is there, too.
        self._new_record.write_bytes(b" " * RECORD_ROOM)
        make_folder(self.folder, command)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        log = os.fdopen(os.open(self.log, flags, 0o600), "ab")
        self._opened = os.fstat(log.fileno())
        return log

    def _on_exit(self) -> None:
        assert self._pidfd is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.exited.set()

    async def wait_until_ready(self, stage: Callable[[str], None] = lambda _: None) -> None:
        """Returns when the engine can serve; `stage` is told how far it has come. Raises
        EngineFailed when it ends or takes too long.
        """
        limit = self.model.ready_timeout
        follower = LogFollower(self.log, self.backend.stages)
        waited, asked, looked = 0.0, time.monotonic(), 0.0
        while not (ready := await self._is_ready()):
            before, asked = asked, time.monotonic()
            # What cannot be probed is neither ready nor too slow.
            waited += 0.0 if ready is None else asked - before
            if asked >= looked + STAGE_EVERY and self.backend.stages:
                looked = asked
                try:
                    async with asyncio.timeout(DISK_WITHIN):
                        stage(await run_in_thread(follower.stage))
                except TimeoutError:
                    looked = float("inf")  # each further look would keep one more thread
                except OSError:
                    pass  # there is no log yet, or none that can be read
            if limit and waited > limit:
                raise EngineFailed(
                    f"The engine was not ready after {limit:g} s. Set a longer ready_timeout for "
                    f"the model {self.model.name}, or look into its log. {await self.last_words()}"
                )
            # Not `wait_for`: Python 3.11's loses a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1 if waited < 10 else 0.5):
                    await self.exited.wait()
            if self.exited.is_set():
                raise EngineFailed(
                    f"The engine {self.how_it_ended()} before it was ready. "
                    f"{await self.last_words()}"
                )

    async def _is_ready(self) -> bool | None:
        """As `probe`, and it is this engine that says so: between the choice of its port and its
        listening there, another program may have taken it.
        """
        ready = await self.probe()
        # A program of the user's may leave listening to others, such as a container's runtime.
        if not ready or self._port is None or self.backend.environment == "none":
            return ready
        living = await self.living()
        if living is None:
            return None
        try:
            pids = [one.pid for one in living]
            return await run_in_thread(processes.listens, self._port, pids)
        except OSError as error:
            self._faults.note("processes", error)
            return ready

    async def warm_up(self) -> None:
        """Sends a ready engine its first request, if its kind needs one. Raises EngineFailed."""
        asked = None if self.backend.warm_up is None else self.backend.warm_up(self.model)
        if asked is None:
            return
        try:
            async with asyncio.timeout(WARM_UP_WITHIN):
                answer = await self.ask(asked.path, msgspec.json.encode(asked.body))
        except TimeoutError:
            said = f"gave no answer within {WARM_UP_WITHIN:g} s"
        except OSError as error:
            if is_ours(error):
                raise
            said = f"ended it without an answer ({os.strerror(error.errno or 0)})"
        else:
            if 200 <= answer.status < 300:
                return
            # It answers a prompt of ours: nothing of a client's is in it.
            body = printable(answer.body.decode(errors="replace").strip())[:300]
            said = f"answered it with {answer.status}: {body}"
        raise EngineFailed(
            f"The engine was ready, but its first request ({asked.path}), which we sent, failed: "
            f"it {said}. {await self.last_words()}"
        )

    async def ask(self, path: str, body: bytes | None = None) -> Answer:
        """The engine's answer to a GET, or with a `body` of JSON to a POST; the caller bounds the
        time. Raises OSError.
        """
        return await ask(self.address, path, self.key, body)

    async def probe(self) -> bool | None:
        """Whether the engine's ready path gives 200; None: it cannot be asked, by our own fault."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return (await self.ask(self.ready_path)).status == 200
        except TimeoutError:
            return False
        except OSError as error:
            if not is_ours(error):
                return False
            self._faults.note("probe", error)
            return None

    def how_it_ended(self) -> str:
        """The manner of its end for a sentence, as in `ended with exit code 1`.

        Only a hint: a crashed engine may well exit with 0.
        """
        assert self._child is not None
        found = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return "is running"
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        hint = "; perhaps memory ran out, see `dmesg`" if found.si_status == signal.SIGKILL else ""
        return (
            f"was ended by signal {found.si_status} "
            f"({signal.strsignal(found.si_status) or 'unknown'}{hint})"
        )

    async def last_words(self) -> str:
        """The cause that its log names, if it is known, and the log's end, in one line, for a
        message. It may hold something of a request.
        """
        lines, cause = list[str](), ""
        try:
            async with asyncio.timeout(DISK_WITHIN):
                lines = await run_in_thread(last_lines, self.log)
                cause = await run_in_thread(cause_of, self.log, self.backend.causes)
        except TimeoutError:
            return f"Its log cannot be read: the disk does not respond (log: {self.log})."
        except OSError:
            pass  # there is none, or a pipe in its place
        cause = f"{cause} " if cause else ""
        if lines:
            return f"{cause}It wrote last: {' | '.join(lines)} (log: {self.log})."
        return f"{cause}It wrote nothing (log: {self.log})."

    async def processor_time(self) -> float | None:
        """Seconds of processors' time that its process has used; None: not known."""
        if self._child is None:
            return None
        return await run_in_thread(processes.processor_time, self._child.pid)

    async def rotate_log(self, limit: int = LOG_LIMIT) -> None:
        """Copies a large log and truncates it, for the engine holds it open for appending."""
        try:
            await run_in_thread(rotate, self.log, limit)
        except OSError as error:
            self._faults.note("log_rotation", error)

    def log_was_moved(self) -> bool:
        """Whether somebody has moved or removed the log, into which the engine writes on.

        Waits for the disk, and may be called from any thread.
        """
        if self._opened is None:
            return False
        try:
            return not os.path.samestat(self._opened, self.log.stat())
        except OSError as error:
            # Others say nothing of where it is.
            return error.errno in (errno.ENOENT, errno.ENOTDIR)

    async def living(self) -> list[Process] | None:
        """The living processes of its session, and those that have left it; None: nobody can see
        them now.

        Reaps the dead ones except for the leader. As long as that is not reaped, no other session
        can have its number.
        """
        if self._child is None:
            return []
        leader = self._child.pid
        mark = str(self.record) if self.backend.leaves_session else ""
        found = await self._table.members(leader, mark)
        if found is None:
            return None
        processes.reap(found, spare=leader)
        return [one for one in found if one.alive]

    async def apart(self) -> set[Identified] | None:
        """Those of its living processes that have left its session, where its kind does that; None:
        nobody can see them now.
        """
        if self._child is None or not self.backend.leaves_session:
            return set()
        leader, living = self._child.pid, await self.living()
        if living is None:
            return None
        return {(one.pid, one.start_time) for one in living if one.session != leader}

    async def stop(self, grace: float = float("inf")) -> bool:
        """Ends the whole session, and removes its files. Returns False when somebody lives on.

        `grace`: seconds until it is killed, where that is less than its backend gives it.
        """
        if self._child is not None:
            gone = await processes.end(
                self._child.pid,
                self.living,
                self.backend.stop_signal,
                min(grace, self.backend.stop_grace),
                is_child=True,
            )
            # Not `wait`: a leader that nobody sees, as without `/proc`, may live, and hold up all.
            if not gone or self._child.poll() is None:
                return False
            self._child = None
            self.exited.set()
            if self._pidfd is not None:
                asyncio.get_running_loop().remove_reader(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = None
        try:
            async with asyncio.timeout(DISK_WITHIN):
                await self._files_are_made()
                await run_in_thread(remove_folder, self.folder)
                await run_in_thread(remove_files, self.socket, self.record, self._new_record)
        except TimeoutError:
            self._faults.note("files", "the disk does not respond")
        except OSError as error:
            self._faults.note("files", error)
        return True

    async def _files_are_made(self) -> None:
        """Waits for a start that was given up while it made files, which would outlast the end."""
        if self._making is not None:
            self._making.add_done_callback(close_log)  # however long the disk takes
            await asyncio.wait({self._making})


def ready_path(backend: Backend, model: ModelConfig) -> str:
    """The path that says whether a model's engine is well."""
    return backend.ready_path if backend.ready_path_for is None else backend.ready_path_for(model)


def close_log(made: asyncio.Future[IO[bytes]]) -> None:
    """Closes what `_make_files` has opened."""
    if not made.cancelled() and made.exception() is None:
        made.result().close()


def free_port() -> int:
    """A TCP port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_folder(folder: Path, command: Command) -> None:
    """Writes the files and makes the links that an engine is to find. Raises OSError."""
    if command.files or command.links:
        folder.mkdir(mode=0o700, exist_ok=True)
    for path, text in command.files.items():
        path.write_text(text, encoding="utf-8")
    for link, target in command.links.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def remove_folder(folder: Path) -> None:
    """Removes what `make_folder` has made, as far as it can be removed."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_files(*paths: Path | str) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)
