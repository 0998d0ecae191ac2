"""The command line's end of the control socket: blocking, and quick to import."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from gpustack_fast import errors
from gpustack_fast.control.documents import (
    Apply,
    ApplyReport,
    CreatedKey,
    CreateKey,
    DrainInstance,
    DrainReport,
    Failure,
    Grant,
    HandedOver,
    HandOver,
    KeyInfo,
    ListKeys,
    Request,
    Response,
    ResumeInstance,
    RevokeKey,
    ServerStatus,
    Status,
)
from gpustack_fast.errors import ControlError, GpustackFastError, TakenOver, UsageError

__all__ = ["ControlClient", "NoServer"]

T = TypeVar("T")

TRIES = 50
TRY_AGAIN_AFTER = 0.1
"""Seconds until a command that met a change of the server's process is sent to the new one."""


class NoServer(ControlError):
    """Nobody listens on the control socket."""


class ConnectionLost(ControlError):
    """The server has closed the connection, or does not respond."""


class ControlClient:
    """One connection to a running server. Raises NoServer at once when there is none."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        self._path = path
        self._timeout = timeout
        self._connect()

    def _connect(self) -> None:
        path = self._path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self._timeout)
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise NoServer(
                f"No server listens on {path}. Start one with `gpustack-fast serve`."
            ) from error
        except OSError as error:
            self._socket.close()
            raise ControlError(
                f"The control socket {path} cannot be reached: {error.strerror or error}. "
                "Run the command as the user who runs the server."
            ) from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._lines.close()
        self._socket.close()

    def create_key(
        self, name: str, grant: Grant | None = None, text: str | None = None
    ) -> CreatedKey:
        """Makes a key; the next request may use it. Without a grant it may do everything."""
        return self._ask(CreateKey(name=name, grant=grant or Grant(), text=text), CreatedKey)

    def list_keys(self) -> list[KeyInfo]:
        """All keys, oldest first."""
        return self._ask(ListKeys(), list[KeyInfo])

    def revoke_key(self, which: str) -> KeyInfo:
        """Removes a key; when this returns, the next request with it is rejected."""
        return self._ask(RevokeKey(which=which), KeyInfo)

    def status(self) -> ServerStatus:
        """The state of the server and its engines; of its new process where it was just changed."""
        try:
            return self._ask(Status(), ServerStatus)
        except ConnectionLost:
            self.close()
            self._connect()
            return self._ask(Status(), ServerStatus)

    def drain(self, which: str) -> DrainReport:
        """Takes instances out of the choice: when this returns, no new request goes there."""
        return self._ask(DrainInstance(which=which), DrainReport)

    def resume(self, which: str) -> DrainReport:
        """Takes a drain back."""
        return self._ask(ResumeInstance(which=which), DrainReport)

    def hand_over(self, python: str | None, timeout: float) -> HandedOver:
        """Has another process take over, see `HandOver`; waits as long as that needs."""
        # The server has the word when it is enough, and then ends what it has started.
        self._socket.settimeout(None)
        return self._ask(HandOver(timeout=timeout, python=python), HandedOver)

    def apply(self, file: str, *, dry_run: bool) -> ApplyReport:
        """Has a configuration taken up, or says what that would do."""
        return self._ask(Apply(file=file, dry_run=dry_run), ApplyReport)

    def _ask(self, request: Request, kind: type[T]) -> T:
        """Asks, and asks the server's new process where it is just changed."""
        for _ in range(TRIES - 1):
            try:
                return self._ask_once(request, kind)
            except TakenOver:
                time.sleep(TRY_AGAIN_AFTER)
                self.close()
                self._connect()
        return self._ask_once(request, kind)

    def _ask_once(self, request: Request, kind: type[T]) -> T:
        try:
            line = msgspec.json.encode(request) + b"\n"
        except UnicodeEncodeError as error:
            raise UsageError(
                "A name or a text of the command is not UTF-8. Type it in letters, or set a locale "
                "that fits your terminal."
            ) from error
        try:
            self._socket.sendall(line)
            line = self._lines.readline()
        except OSError as error:
            raise ConnectionLost(
                f"The server behind {self._path} did not respond: {error.strerror or error}. "
                "Look at its log, and repeat the command."
            ) from error
        if not line.endswith(b"\n"):
            raise ConnectionLost(
                f"The server behind {self._path} closed the connection without a response. It has "
                "ended, as `gpustack-fast status` would show, or it is not for you: run the "
                "command as the user who runs it, or as root."
            )
        try:
            response = msgspec.json.decode(line, type=Response)
            if response.error is not None:
                raise _raised(response.error)
            return msgspec.json.decode(response.result, type=kind)
        except msgspec.DecodeError as error:
            raise ControlError(
                f"The server behind {self._path} answered something unknown. Use the command of "
                "its own version."
            ) from error


def _raised(failure: Failure) -> GpustackFastError:
    """The server's exception, so that the exit status is the same with and without a server."""
    kind = getattr(errors, failure.kind, ControlError)
    if kind in (errors.ConfigError, errors.Mistakes):
        each = [errors.ConfigError(line) for line in failure.message.split("\n")]
        return each[0] if len(each) == 1 else errors.Mistakes([*each])
    if kind in (
        errors.InstanceNotFound,
        errors.KeyNameTaken,
        errors.KeyNotFound,
        errors.StoreError,
        errors.TakenOver,
        errors.UsageError,
    ):
        known: GpustackFastError = kind(failure.message)
        return known
    return ControlError(failure.message)
