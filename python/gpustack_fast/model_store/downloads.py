"""The process that downloads, seen from the one that wants it: its start, its lines, its end.

Of its own, so that neither a hub's library nor the reckoning of hashes is in the server, and so
that a download can be ended at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gpustack_fast.model_store.documents import (
    Done,
    Download,
    Failed,
    Job,
    ModelStoreError,
    Report,
    decode_message,
)

__all__ = ["check_endpoint", "download", "environment_for"]

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("download_main.py")
STOP_PATIENCE = 3.0
"""Seconds between asking politely and killing."""
LONGEST_LINE = 1024 * 1024
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "PYTHONUTF8": "1",
}
_OF_HUBS = ("HF_", "MODELSCOPE_")
_NOT_ITS_BUSINESS = ("HF_DEBUG",)
"""It has every request written down."""


def environment_for(model: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a download: ours, with what the model's `env` says to hubs' libraries.

    Tokens go this way and no other.
    """
    of_model = {name: value for name, value in model.items() if name.startswith(_OF_HUBS)}
    both = {**own, **of_model}
    return {name: both[name] for name in both if name not in _NOT_ITS_BUSINESS} | _QUIET


def check_endpoint(environment: Mapping[str, str]) -> None:
    """Raises ModelStoreError where HF_ENDPOINT is no address: the hub's library would end by it, or
    try it as if a hub were away.
    """
    text = environment.get("HF_ENDPOINT", "")
    try:
        found = urllib.parse.urlsplit(text)
        is_address = found.scheme in ("http", "https") and bool(found.hostname)
    except ValueError:
        is_address = False
    if text and not is_address:
        raise ModelStoreError(
            "The variable HF_ENDPOINT is no address of a hub. Write it as "
            "`https://huggingface.co`, or unset it, for the server or in the `env` of the model."
        )


async def download(job: Job, environment: Mapping[str, str], handle: int, report: Report) -> str:
    """Has a job done, and returns the commit.

    `handle`: the lock's descriptor. The child holds on to it: were we killed, it would keep the
    next one out until it has ended. Raises ModelStoreError, and OSError where nothing can be
    started; a cancelled one ends the process.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # beside the program lie no modules of Python's
        str(PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        pass_fds=[handle],
        limit=LONGEST_LINE,
        start_new_session=True,  # Ctrl-C reaches us alone, and we end it
    )
    assert child.stdin and child.stdout and child.stderr
    result: Done | Failed | None = None
    complaints = asyncio.ensure_future(_last_words(child.stderr))
    try:
        child.stdin.write(msgspec.json.encode(job) + b"\n")
        with contextlib.suppress(ConnectionError):
            await child.stdin.drain()
        result = await _result(child.stdout, report)
        # Not `wait_for`: Python 3.11's loses a cancellation that comes with the end.
        async with asyncio.timeout(STOP_PATIENCE if result else None):
            await child.wait()
    except TimeoutError:
        pass  # its last line is there, so all is done; it is ended below
    finally:
        if child.returncode is None:
            await _end(child)
        child.stdin.close()
        said = await _within(complaints)
    if isinstance(result, Done):
        if result.unverified:
            log.warning(
                "The hub gives no hash for %d of the files of %s: of those nothing but the size "
                "was compared. Compare them with their owner's, if you do not trust the way.",
                result.unverified,
                job.repository.name,
            )
        return result.commit
    if isinstance(result, Failed):
        raise ModelStoreError(result.message, may_pass=result.may_pass, wait=result.wait)
    said = _without_tokens(said, environment)
    raise ModelStoreError(_ended_early(job.repository.name, child.returncode, said), may_pass=True)


async def _result(lines: asyncio.StreamReader, report: Report) -> Done | Failed | None:
    """The last line; None: the process ended without one."""
    async for line in lines:
        try:
            message = decode_message(line)
        except msgspec.DecodeError:
            continue  # cut off by its end
        if not isinstance(message, Download):
            return message
        report(message)
    return None


async def _last_words(errors: asyncio.StreamReader) -> str:
    """The end of what it writes to standard error."""
    kept = b""
    while piece := await errors.read(65536):
        kept = (kept + piece)[-4096:]
    return kept.decode(errors="replace")


async def _within(complaints: asyncio.Future[str]) -> str:
    try:
        async with asyncio.timeout(STOP_PATIENCE):
            return await complaints
    except TimeoutError:
        return ""


async def _end(child: asyncio.subprocess.Process) -> None:
    """Politely, then firmly. One that a disk keeps inside the kernel is not waited for."""
    for ask in (child.terminate, child.kill):
        with contextlib.suppress(ProcessLookupError):
            ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await child.wait()
                return


def _ended_early(repository: str, status: int | None, said: str) -> str:
    how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
    last = [line.strip() for line in said.splitlines() if line.strip()][-1:]
    words = f" Its last line: {last[0][:300]}" if last else ""
    return (
        f"The process that downloads {repository} ended before its time ({how}). What was "
        f"downloaded is kept, and the next try goes on from there.{words}"
    )


def _without_tokens(text: str, environment: Mapping[str, str]) -> str:
    """No library is known to write one; should one do so, it goes no further.

    `environment`: that of the download, with what the model's `env` adds to ours.
    """
    for name, value in environment.items():
        if value and "TOKEN" in name:
            text = text.replace(value, "...")
    return text
