"""What went wrong at a hub or on the disk, in sentences: the cause and the next step.

No text of the library gets into them: it has addresses with signatures in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from gpustack_fast.config.sentences import closest
from gpustack_fast.model_store.documents import Failed, Repository
from gpustack_fast.model_store.hubs import RateLimited

__all__ = ["EXPLAINED", "explain"]

EXPLAINED = (HfHubHTTPError, OfflineModeIsEnabled, RateLimited, httpx2.HTTPError, OSError)
"""Errors that have an explanation here."""
LONGEST_WAIT = 3600.0
"""Seconds: a hub that asks for more is asked again all the same, after these."""
KEPT = "What was downloaded is kept, and the next try goes on from there."


def explain(error: Exception, repository: Repository, near: Callable[[], list[str]]) -> Failed:
    """`near`: names of repositories that may be meant, asked for where one was not found."""
    if isinstance(error, RateLimited):
        return _rate_limited(error)
    if isinstance(error, OfflineModeIsEnabled):
        return Failed(
            message=f"{repository.name} is not complete in the store, and HF_HUB_OFFLINE allows no "
            "network. Fetch it once with `gpustack-fast models pull` where there is one.",
            may_pass=False,
        )
    if isinstance(error, HfHubHTTPError):
        return _status(error, repository, near)
    if isinstance(error, httpx2.HTTPError):
        return Failed(
            message=f"The hub at {constants.ENDPOINT} cannot be reached, or cuts the connection "
            f"({type(error).__name__}): {repository.name} is not complete in the store. Check the "
            f"network, the proxy (HTTPS_PROXY) and HF_ENDPOINT. {KEPT}",
            may_pass=True,
        )
    assert isinstance(error, OSError)
    return _disk(error, repository)


def _rate_limited(error: RateLimited) -> Failed:
    asked = "" if error.seconds is None else f" for {error.seconds:.0f} s"
    more = "" if get_token() else ", or set HF_TOKEN: it allows more to accounts that it knows"
    return Failed(
        message=f"The hub asks to wait{asked}: it got too many requests from this address. Try "
        f"again later{more}. {KEPT}",
        may_pass=True,
        wait=min(error.seconds or 0.0, LONGEST_WAIT),
    )


def _status(error: HfHubHTTPError, repository: Repository, near: Callable[[], list[str]]) -> Failed:
    status = error.response.status_code
    page = f"{constants.ENDPOINT}/{repository.name}"
    if isinstance(error, GatedRepoError):
        token = "with the account of your HF_TOKEN" if get_token() else "and set HF_TOKEN"
        text = (
            f"{repository.name} is gated: its owner asks you to accept a licence. Accept it at "
            f"{page} {token}, then try again."
        )
    elif isinstance(error, RevisionNotFoundError):
        text = (
            f"{repository.name} has no revision `{repository.revision}`. {page}/tree/main shows "
            "the branches and tags that it has."
        )
    elif isinstance(error, RemoteEntryNotFoundError):
        text = (
            f"A file of {repository.name} is not there any more. `gpustack-fast models pull` looks "
            "up what it has now."
        )
    elif isinstance(error, DisabledRepoError):
        text = f"{repository.name} was disabled by the hub. {page} says why; use another one."
    elif isinstance(error, RepositoryNotFoundError):
        text = _not_found(repository, near)
    elif status in (401, 403) and not get_token():
        text = (
            f"The hub at {constants.ENDPOINT} gives {repository.name} to nobody without a token, "
            f"and none is set (status {status}). Set HF_TOKEN to one that may read it, or check "
            "HF_ENDPOINT and the proxy: one of them may ask for a login of its own."
        )
    elif status == 401:
        text = (
            f"The hub at {constants.ENDPOINT} rejects the token in HF_TOKEN. Make a new one at "
            f"{constants.ENDPOINT}/settings/tokens, or unset it: public models need none."
        )
    elif status == 403:
        text = (
            f"The token in HF_TOKEN may not read {repository.name}. Give it the right to read that "
            f"repository at {constants.ENDPOINT}/settings/tokens, or use another one."
        )
    elif status >= 500:
        text = (
            f"The hub at {constants.ENDPOINT} has trouble of its own (status {status}). Try again "
            f"later. {KEPT}"
        )
    else:
        text = (
            f"The hub at {constants.ENDPOINT} refuses {repository.name} with status {status}. "
            f"Look at {page}, and check HF_ENDPOINT."
        )
    return Failed(message=text, may_pass=status >= 500)


def _not_found(repository: Repository, near: Callable[[], list[str]]) -> str:
    may = "the token in HF_TOKEN may not read it" if get_token() else "HF_TOKEN is not set"
    return (
        f"There is no repository {repository.name} at {constants.ENDPOINT}, or it is private and "
        f"{may}. Check its name.{closest(repository.name, near())}"
    )


def _disk(error: OSError, repository: Repository) -> Failed:
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    steps = {
        errno.ENOSPC: "the disk is full. Free some space",
        errno.EDQUOT: "the disk quota is used up. Free some space",
        errno.EFBIG: "a file may not become as large as it is (`ulimit -f`). Raise that limit",
        errno.EACCES: "the folder cannot be written. Check its owner and rights",
        errno.EPERM: "the folder cannot be written. Check its owner and rights",
        errno.EROFS: "the file system is read-only",
    }
    number = error.errno or 0
    reason = steps.get(number, f"the system says: {os.strerror(number) if number else 'no reason'}")
    return Failed(
        message=f"{repository.name} cannot be kept in the store: {reason}{where}, or choose "
        f"another folder with `models_dir`. {KEPT}",
        may_pass=number in (errno.ENOSPC, errno.EDQUOT),
    )
