"""One engine process: started, watched until it is ready and until it ends, and ended.

    DATA_DIR/run/instances/ID.json    who it is (`records`)
    DATA_DIR/run/engines/ID.sock      where it listens (elsewhere if too long: `EnginePaths`)
    DATA_DIR/logs/MODEL/ID.log        its standard output and error, appended to by itself

The engine may outlive this program, so its output is a file and never a pipe, and nothing of it
depends on ours. One that did can be adopted by the next: from then on it is as any other, but that
nobody knows its exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import secrets
import string
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from gpustack_fast.backends import Backend, Command
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import processes
from gpustack_fast.engines.ask import Answer, ask
from gpustack_fast.engines.digest import command_digest
from gpustack_fast.engines.engine_log import cause_of, last_lines, rotate
from gpustack_fast.engines.instance_files import (
    close_log,
    free_port,
    make_folder,
    remove_files,
    remove_folder,
)
from gpustack_fast.engines.leader import Adopted, Child, Leader, watch
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.engines.processes import Process, ProcessTable
from gpustack_fast.engines.records import Record, renew, write_draft
from gpustack_fast.faults import Faults, is_ours, reason_of, run_in_thread
from gpustack_fast.storage.engine_paths import EnginePaths, safe

__all__ = ["Identified", "Instance", "new_id"]

log = logging.getLogger(__name__)

Identified = tuple[int, int]
"""A process, by its id and its start time."""

STUB = Path(__file__).parents[1] / "backends" / "exec_stub.py"
LOG_LIMIT = 64 * 1024 * 1024
PROBE_TIMEOUT = 1.0
DISK_WITHIN = 5.0
"""Seconds that a disk may take before an engine's end, and the message about it, go on without."""


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
        self._leader: Leader | None = None
        self._pidfd: int | None = None
        """None: not watched, so its end would not be seen."""
        self._opened: os.stat_result | None = None
        """The log, as it was opened."""
        self.folder = self.socket.with_suffix(".d")
        """Where what its command names is written before the start."""
        self.port: int | None = None
        """That at which it listens, of the loopback; None: at its socket."""

    def take(self, model: ModelConfig) -> None:
        """Goes on by another configuration of its model, which makes the same process."""
        self.model = model
        self.ready_path = ready_path(self.backend, model)

    @property
    def address(self) -> str:
        if self.port is not None:
            return f"http://127.0.0.1:{self.port}"
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int | None:
        return None if self._leader is None else self._leader.pid

    @property
    def key_path(self) -> str:
        """A path that asks for its key, where its kind has one."""
        return self.backend.key_path or self.ready_path

    @property
    def may_go_on(self) -> bool:
        """Whether it has a process that can be left to the next server."""
        return self._leader is not None and not self.exited.is_set()

    @property
    def gpu_owner(self) -> dict[int, str]:
        """Its process id, and the mark of those that have left its session: by these its memory on
        GPUs is known.
        """
        return {} if self.pid is None else {self.pid: str(self.record)}

    async def start(self, prepared: Prepared, number: int = 0, generation: int = 1) -> None:
        """Starts the process and watches it. `number`: of its replica's slot; both for its record.

        Raises BackendError, StoreError, or OSError for this machine. `stop` must follow that, too:
        the process may run, and not be watched.
        """
        self.port = free_port() if self.backend.over_tcp else None
        place = prepared.place(self.socket, self.port, self.key)
        command = await run_in_thread(self.backend.command, self.model, place)  # looks for files
        record = Record(
            pid=0,
            start_time=0,
            boot_id="",
            socket=str(self.socket),
            log=str(self.log),
            model=self.model.name,
            number=number,
            generation=generation,
            digest=await run_in_thread(command_digest, self.backend, self.model, prepared),
            backend=self.backend.name,
            version=prepared.version,
            key=self.key,
            port=self.port,
            ready_path=self.ready_path,
            created=time.time(),
            devices=prepared.devices,
            placement=prepared.placement,
            remark=prepared.remark,
            config=msgspec.to_builtins(self.model),
        )
        stub = [sys.executable, "-I", "-S", str(STUB), str(self.record)]
        self._making = asyncio.ensure_future(run_in_thread(self._make_files, command, record))
        with await asyncio.shield(self._making) as log:
            # On the loop: no stop can come in between, and miss it.
            self._run([*stub, *command.arguments], log, command.environment)

    def adopt(self, record: Record) -> None:
        """Takes over the engine of a record, which an earlier run has started, and watches it.

        Raises ProcessLookupError where its process is gone, and OSError for this machine. `stop`
        must follow that, too: others of its session may live.
        """
        self.key = record.key
        self.socket = Path(record.socket)
        self.folder = self.socket.with_suffix(".d")
        self.log = Path(record.log)
        self.port = record.port
        self.ready_path = record.ready_path
        self._leader = Adopted(record, self._table)
        self._pidfd = watch(record.pid, self.exited.set)
        one = processes.process(record.pid)
        if one is None or not record.is_leader(one):  # what was opened is another one's
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        with contextlib.suppress(OSError):
            self._opened = os.stat(f"/proc/{record.pid}/fd/1")

    def leave(self) -> None:
        """Lets it go on without this server, which does not watch it any more."""
        assert self._leader is not None
        self._leader.leave()
        self._leader = None
        self._end_watch()

    def _run(self, arguments: list[str], log: IO[bytes], variables: dict[str, str]) -> None:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment(variables),
            start_new_session=True,
        )
        self._leader = Child(child, self._table)
        self._pidfd = watch(child.pid, self.exited.set)

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

    def _make_files(self, command: Command, record: Record) -> IO[bytes]:
        """Makes the places of its files; returns the open log. Raises OSError, StoreError."""
        self._paths.make_room_for(self.log)
        self.socket.unlink(missing_ok=True)
        # On a full disk the process could not write its record, nor say so: its log is there, too.
        write_draft(self._new_record, record)
        make_folder(self.folder, command)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        log = os.fdopen(os.open(self.log, flags, 0o600), "ab")
        self._opened = os.fstat(log.fileno())
        return log

    def note_unseen(self, error: OSError) -> None:
        """Counts that nobody could see whose an address is."""
        self._faults.note("processes", error)

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

    async def note(self, **changes: bool) -> None:
        """Notes for the next server what its record says of it: `has_run`, `asleep`."""
        problem = ""
        try:
            async with asyncio.timeout(DISK_WITHIN):
                await run_in_thread(functools.partial(renew, self.record, **changes))
        except TimeoutError:
            problem = "the disk does not respond"
        except OSError as error:
            problem = reason_of(error)
        if problem:
            log.warning("The record of %s cannot be renewed: %s.", self.id, problem)

    def how_it_ended(self) -> str:
        """The manner of its end for a sentence, as in `ended with exit code 1`.

        Only a hint: a crashed engine may well exit with 0.
        """
        assert self._leader is not None
        return self._leader.how_it_ended()

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
        if self._leader is None:
            return None
        return await run_in_thread(processes.processor_time, self._leader.pid)

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
        """
        if self._leader is None:
            return []
        return await self._leader.living(str(self.record) if self.backend.leaves_session else "")

    async def apart(self) -> set[Identified] | None:
        """Those of its living processes that have left its session, where its kind does that; None:
        nobody can see them now.
        """
        if self._leader is None or not self.backend.leaves_session:
            return set()
        leader, living = self._leader.pid, await self.living()
        if living is None:
            return None
        return {(one.pid, one.start_time) for one in living if one.session != leader}

    async def stop(self, grace: float = float("inf")) -> bool:
        """Ends the whole session, and removes its files. Returns False when somebody lives on.

        `grace`: seconds until it is killed, where that is less than its backend gives it.
        """
        if self._leader is not None:
            gone = await processes.end(
                self._leader.pid,
                self.living,
                self.backend.stop_signal,
                min(grace, self.backend.stop_grace),
                is_child=self._leader.is_child,
            )
            if not gone or not self._leader.is_reaped():
                return False
            self._leader = None
            self.exited.set()
            self._end_watch()
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

    def _end_watch(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    async def _files_are_made(self) -> None:
        """Waits for a start that was given up while it made files, which would outlast the end."""
        if self._making is not None:
            self._making.add_done_callback(close_log)  # however long the disk takes
            await asyncio.wait({self._making})


def ready_path(backend: Backend, model: ModelConfig) -> str:
    """The path that says whether a model's engine is well."""
    return backend.ready_path if backend.ready_path_for is None else backend.ready_path_for(model)
