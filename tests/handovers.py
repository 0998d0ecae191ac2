"""A server whose process changes, and what tests do with it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpustack_fast.control.client import ControlClient
from gpustack_fast.control.documents import HandedOver, ServerStatus
from gpustack_fast.storage.data_directory import DataDirectory
from harness import ENDED_WITHIN, ServedRouter, cli, short_folder
from raw_http import Client, chat, eventually

__all__ = ["HELD", "Succeeding", "succeeding", "wait_for_end"]


WRAPPER = """#!{python}
# The program, with changes; called as `python -P -m gpustack_fast ARGUMENTS`.
import asyncio, os, pathlib, signal, sys
sys.argv = ["gpustack_fast", *sys.argv[sys.argv.index("gpustack_fast") + 1 :]]
folder = pathlib.Path({folder!r})
{code}
from gpustack_fast.__main__ import main
sys.exit(main())
"""
HELD = """
from gpustack_fast import app
become_ready = app.become_ready

async def held(*arguments):
    await become_ready(*arguments)
    (folder / "held").touch()
    while not (folder / "go").exists():
        await asyncio.sleep(0.01)

app.become_ready = held
"""
"""A successor that is ready, and does not say so before there is a file `go`."""


class Succeeding(ServedRouter):
    """The whole product, whichever process of it serves."""

    def command(self, *arguments: str) -> dict[str, Any]:
        """`gpustack-fast restart` or `upgrade`, which succeeds; what it says."""
        done = self.try_command(*arguments)
        assert done.returncode == 0, f"{done.stderr}\nserve wrote:\n{self.output()}"
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def try_command(
        self, *arguments: str, program: list[str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same, which may fail."""
        return subprocess.run(
            [*(program or cli()), *arguments, "--json", "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            timeout=ENDED_WITHIN,
            env=self.environment,
            check=False,
        )

    def open_stream(self, client: Client) -> None:
        """Asks for a stream that goes on when its engine is told to; its first frame comes."""
        fault = {"how": "stall", "at": "at_frame"}
        usage = {"include_usage": True}
        self.send_chat(client, chat(fake={"fault": fault}, stream=True, stream_options=usage))
        assert client.read_head().status == 200
        client.read_chunk()

    def interpreter(self, code: str) -> str:
        """The path of a program in the place of Python, which changes ours by this code first."""
        return self.script(
            WRAPPER.format(python=sys.executable, folder=str(self.folder), code=code)
        )

    def script(self, text: str) -> str:
        """The path of a program with this text."""
        file = self.folder / f"python-{len(list(self.folder.glob('python-*')))}"
        file.write_text(text)
        file.chmod(0o700)
        return str(file)

    @contextlib.contextmanager
    def handing_over(self, code: str = HELD, timeout: float = 60.0) -> Iterator[Future[HandedOver]]:
        """Inside, a hand-over is under way, to a successor that is held where `code` does so; `go`
        lets it go on.
        """
        for name in ("held", "go"):
            (self.folder / name).unlink(missing_ok=True)
        python = self.interpreter(code)

        def hand_over() -> HandedOver:
            with self.control() as control:
                return control.hand_over(python, timeout)

        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(hand_over)
            held = self.folder / "held"
            eventually(lambda: held.exists() or begun.done(), "a successor that is held")
            try:
                yield begun
            finally:
                self.go()

    def go(self) -> None:
        """Lets a successor go on that is held."""
        (self.folder / "go").touch()

    def control(self) -> ControlClient:
        """A connection to whichever process serves."""
        return ControlClient(DataDirectory(self.data_dir).control_socket)

    def status(self) -> ServerStatus:
        with self.control() as control:
            return control.status()

    def pid(self) -> int:
        """The process that serves."""
        return self.status().pid

    def ended(self) -> int:
        """Waits for the end of the first process; its exit status."""
        try:
            return self.process.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"It does not end:\n{self.output()}") from None

    def stop(self) -> int:
        """Ends whichever process serves, and the first one, all at once."""
        with ThreadPoolExecutor() as pool:
            others = [pool.submit(wait_for_end, one, signal.SIGTERM) for one in self.processes()]
            status = super().stop()
        for one in others:
            one.result()
        return status

    def processes(self) -> list[int]:
        """Its processes but the first one, by the data directory in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            pid = int(folder.name)
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if str(self.data_dir) in words and "serve" in words and pid != self.process.pid:
                    found.append(pid)
        return found


def wait_for_end(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that is no child of this one, and waits until it has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, number)
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            assert waiting.poll(ENDED_WITHIN * 1000), f"The process {pid} does not end."
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def succeeding(config: str, *arguments: str, **options: Any) -> Iterator[Succeeding]:
    """A server while the block runs, ready at its begin; behind it no process of it is left."""
    with short_folder() as folder:
        server = Succeeding(folder, config, *arguments, **options)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()
        assert server.processes() == []
