"""Hugging Face and ModelScope behind one interface. Runs in the process that downloads.

Hugging Face is reached through its own library: names, addresses, tokens, proxies and errors are
the library's. The bytes are received here, for the library (2.4) begins a file anew after every
interruption, waits as long as a hub asks, and verifies no hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeGuard, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling

# Both are in the library's reference, and its stub forgets them.
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from gpustack_fast.model_store.documents import (
    Manifest,
    ModelStoreError,
    RemoteFile,
    Repository,
)
from gpustack_fast.model_store.repositories import is_commit

__all__ = ["HubAccess", "HuggingFace", "ModelScope", "RateLimited", "open_hub"]

T = TypeVar("T")

TRIES = 4
"""Times that something is tried in a row without a byte that came."""
FIRST_PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long."""
LONGEST_WAIT = 120.0
"""Seconds that are waited where a hub asks for it (429); one that asks for more gets no answer."""

Tell = Callable[[str], None]
"""Says why nothing comes at the moment, as a clause; empty: it comes again."""


class RateLimited(Exception):
    """A hub asks to wait longer than we do. `seconds`: as it said; None: it named no time."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__("too many requests")
        self.seconds = seconds


class HubAccess(Protocol):
    """What the process that downloads asks of a hub."""

    has_ranges: bool
    """Whether a part of a file can be had."""

    def manifest(self) -> Manifest:
        """What the repository has at the commit that its revision stands for now."""
        ...

    def receive(self, commit: str, file: RemoteFile, target: Path, end: int) -> None:
        """Brings the first `end` bytes of a file into `target`, and goes on with what is there."""
        ...

    def near(self) -> list[str]:
        """Names of repositories that may be meant instead; none where they cannot be had."""
        ...


def open_hub(repository: Repository, tell: Tell) -> HubAccess:
    """Raises ModelStoreError where the hub's library is missing."""
    if repository.hub == "model_scope":
        return ModelScope(repository)
    return HuggingFace(repository, tell)


class HuggingFace:
    """Hugging Face, or what HF_ENDPOINT names. Raises the library's errors, and RateLimited."""

    has_ranges = True

    def __init__(self, repository: Repository, tell: Tell) -> None:
        self._repository = repository
        self._tell = tell

    def manifest(self) -> Manifest:
        name, revision = self._repository.name, self._repository.revision
        try:
            info = self._patiently(
                lambda: HfApi().model_info(
                    name,
                    revision=revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                ),
                lambda: 0,
            )
        except HfHubHTTPError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise _no_hub() from error
        # It becomes the name of a folder.
        if info.sha is None or not is_commit(info.sha):
            raise _no_hub()
        files = [self._file(one) for one in info.siblings or []]
        return Manifest(repository=name, commit=info.sha, files=files)

    def receive(self, commit: str, file: RemoteFile, target: Path, end: int) -> None:
        self._patiently(
            lambda: self._receive_once(commit, file, target, end),
            lambda: _size(target),
        )

    def near(self) -> list[str]:
        owner, _, name = self._repository.name.rpartition("/")
        found: list[str] = []
        with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
            if owner:
                found += [one.id for one in HfApi().list_models(author=owner, limit=500)]
        with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
            found += [one.id for one in HfApi().list_models(search=name, limit=20)]
        return found

    def _file(self, one: RepoSibling) -> RemoteFile:
        """Raises ModelStoreError where a mirror tells less of a file than the hub."""
        sha256 = one.lfs.sha256 if one.lfs else ""
        git_sha1 = "" if one.lfs else (one.blob_id or "")
        if not _is_size(one.size) or not (sha256 or git_sha1):
            raise ModelStoreError(
                f"{constants.ENDPOINT} does not say how large the file `{one.rfilename[:200]}` of "
                f"{self._repository.name} is, or not by which hash it is verified, as Hugging Face "
                "does. Check HF_ENDPOINT; another mirror may do."
            )
        return RemoteFile(name=one.rfilename, size=one.size, sha256=sha256, git_sha1=git_sha1)

    def _receive_once(self, commit: str, file: RemoteFile, target: Path, end: int) -> None:
        begin = _size(target)
        if begin > end:
            target.unlink()
            begin = 0
        if begin == end:
            target.touch()
            return
        url = hf_hub_url(self._repository.name, file.name, revision=commit)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if begin or end < file.size:
            headers["Range"] = f"bytes={begin}-{end - 1}"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:
                target.unlink(missing_ok=True)  # what is there is of another file
            hf_raise_for_status(response)
            is_part = response.status_code == 206
            if is_part and not response.headers.get("Content-Range", "").startswith(
                f"bytes {begin}-"
            ):
                raise httpx2.RemoteProtocolError("another part of the file came than was asked for")
            _write_pieces(response, target, begin if is_part else 0, end)
        if _size(target) < end:
            raise httpx2.RemoteProtocolError("the file ended early")

    def _patiently(self, work: Callable[[], T], progress: Callable[[], int]) -> T:
        """Tries again what may pass; bytes that came begin the count anew."""
        failures = 0
        while True:
            before = progress()
            try:
                return work()
            except (HfHubHTTPError, httpx2.TransportError) as error:
                failures = 1 if progress() > before else failures + 1
                self._wait_after(error, failures)

    def _wait_after(self, error: Exception, failures: int) -> None:
        """Waits before the next try, or raises the error where there is none."""
        response = error.response if isinstance(error, HfHubHTTPError) else None
        status = 0 if response is None else response.status_code
        if response is not None and status == 429:
            asked = _retry_after(response.headers)
            pause = asked if asked is not None else FIRST_PAUSE * 2**failures
            if pause > LONGEST_WAIT or failures >= TRIES:
                raise RateLimited(asked) from error
            why = f"the hub asks to wait {pause:.0f} s"
        elif failures >= TRIES or (0 < status < 500 and status not in (408, 416)):
            raise error
        else:
            pause = FIRST_PAUSE * 2 ** (failures - 1)
            why = (
                "the connection was cut, and is tried again"
                if not status
                else (f"the hub responds with status {status}, and is tried again")
            )
        self._tell(why)
        time.sleep(pause)
        self._tell("")


class ModelScope:
    """ModelScope, through its own package, which is not installed with us."""

    has_ranges = False

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        try:
            self._api: Any = importlib.import_module("modelscope.hub.api")
            self._files: Any = importlib.import_module("modelscope.hub.file_download")
        except ImportError as error:
            raise ModelStoreError(
                "Models of ModelScope are fetched with its own package, which cannot be imported "
                f"({error}). Install it beside gpustack-fast with `pip install modelscope`."
            ) from error

    def manifest(self) -> Manifest:
        name = self._repository.name
        with self._explained():
            listed = self._api.HubApi().get_model_files(
                name, revision=self._repository.revision, recursive=True
            )
        files = [self._file(one) for one in listed if one.get("Type") != "tree"]
        # It names no commit: what is in the files is as good a name for them.
        text = "".join(f"{one.name}\0{one.size}\0{one.sha256}\n" for one in _by_name(files))
        commit = hashlib.sha256(text.encode()).hexdigest()[:40]
        return Manifest(repository=name, commit=commit, files=files)

    def _file(self, one: dict[str, Any]) -> RemoteFile:
        """Raises ModelStoreError where it is not told how large a file is."""
        name, size = one["Path"], one.get("Size")
        if not _is_size(size):
            raise ModelStoreError(
                f"ModelScope does not say how large the file `{name[:200]}` of "
                f"{self._repository.name} is. Try again later, or take the model from elsewhere."
            )
        return RemoteFile(name=name, size=size, sha256=(one.get("Sha256") or "").lower())

    def receive(self, commit: str, file: RemoteFile, target: Path, end: int) -> None:
        folder = target.with_name(f"{target.name}.d")
        folder.mkdir(exist_ok=True)
        with self._explained():
            path = self._files.model_file_download(
                model_id=self._repository.name,
                file_path=file.name,
                revision=self._repository.revision,
                local_dir=str(folder),
            )
        os.replace(path, target)
        shutil.rmtree(folder)

    def near(self) -> list[str]:
        return []

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """The package's errors of the network are OSErrors without a number: those of `requests`.
        Their texts have addresses with signatures in them.
        """
        try:
            yield
        except OSError as error:
            if error.errno is not None:
                raise
            raise ModelStoreError(
                f"ModelScope cannot be reached, or refuses {self._repository.name} "
                f"({type(error).__name__}). Check the name, the network, the proxy (HTTPS_PROXY), "
                "and for a private model MODELSCOPE_API_TOKEN. What was downloaded is kept.",
                may_pass=True,
            ) from error


def _is_size(size: object) -> TypeGuard[int]:
    return type(size) is int and size >= 0


def _no_hub() -> ModelStoreError:
    return ModelStoreError(
        f"{constants.ENDPOINT} responds, but not as a hub of Hugging Face does. Check HF_ENDPOINT, "
        "and whether the network asks for a login first."
    )


def _by_name(files: list[RemoteFile]) -> list[RemoteFile]:
    return sorted(files, key=lambda file: file.name)


def _write_pieces(response: httpx2.Response, target: Path, begin: int, end: int) -> None:
    """Writes what comes from `begin` on, and no byte more than up to `end`."""
    with open(target, "r+b" if begin else "wb") as out:
        out.seek(begin)
        at = begin
        for piece in response.iter_bytes():  # as it comes: a cut loses no larger piece
            out.write(piece[: end - at])
            out.flush()
            at += len(piece)
            if at >= end:
                break  # a server that takes no ranges sends on


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _retry_after(headers: Any) -> float | None:
    """Seconds; None: the hub named none, or a date."""
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isdecimal() and len(text) < 10 else None
