"""The keys of a running server: store and data plane change together, and survive a crash.

**A key that is made is on the disk before any worker accepts it.** Else a restart could lose a key
that somebody uses already.

**A key that is revoked is gone from the workers first, whatever the disk does.** A full disk must
not keep a stolen key alive. What could not be saved for certain is tried again until it is, and
listed until then, since a restart would bring the key back; who has revoked it is told.

Only the event loop reads and changes the store; a thread beside it gets a list of keys of its own
to write (`Store.write`).

`publish` is given by `app`: it hands the change to the data plane and returns when every worker has
it. This module knows nothing of the data plane.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gpustack_fast.errors import ControlError, KeyNotFound, StoreError, TakenOver
from gpustack_fast.faults import Faults, reason_of, run_in_thread
from gpustack_fast.keys.store import CreatedKey, Grant, Key, KeyInfo, Store, new_key_text

__all__ = ["FIRST_KEY", "FirstKey", "KeyChange", "Keys", "bootstrap"]

T = TypeVar("T")

log = logging.getLogger(__name__)

SAVE_WITHIN = 5.0
"""Seconds that a disk may take before its command is told that a revocation is not saved yet."""
SAVE_AGAIN_EVERY = 5.0
"""Seconds between two tries to save a revocation."""
NO_REPLY = "The disk has not replied yet."
"""Why a revocation is not saved while the first try to save it runs."""
FIRST_KEY = "default"
"""The name of the key that a first start makes."""


class KeyChange(Struct, frozen=True, kw_only=True):
    """A change of keys for the data plane."""

    salt: str
    replace: bool = False
    """True: `upsert` is all there is."""
    upsert: list[Key] = []
    remove: list[str] = []
    """Access keys."""


class FirstKey(Struct, frozen=True, kw_only=True):
    """The outcome of `bootstrap`."""

    created: CreatedKey | None = None
    """The first start's key: show it now, for its text is known at this moment only."""
    notice: str | None = None
    """A sentence for the user."""


class Keys:
    """All changes of keys in a running server go through here, one after the other."""

    def __init__(self, store: Store, publish: Callable[[KeyChange], None], faults: Faults) -> None:
        self._store = store
        self._publish = publish
        self._faults = faults
        self._one_at_a_time = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()
        self._saving_again: asyncio.Task[None] | None = None
        self._problem = NO_REPLY
        """Why the last try to save a revocation failed, in sentences."""
        self._given = False
        """Whether another process has the keys, or is just given them."""

    def publish_all(self) -> None:
        """Hands every key to the data plane, as after a start."""
        self._publish(KeyChange(salt=self._store.salt, replace=True, upsert=self._store.keys))

    async def create(
        self, name: str, grant: Grant | None = None, text: str | None = None
    ) -> CreatedKey:
        """Makes a key as `Store.create` does; the next request may use it. Raises TakenOver."""
        self._check_ours()
        return await self._to_its_end(self._create(name, grant, text))

    async def revoke(self, which: str) -> KeyInfo:
        """Revokes a key, as `Store.named` finds it.

        The next request with it is rejected, whatever the disk does. Where that could not be saved,
        the result says so, and it is tried until it can be. Of a key that was revoked so, it is
        tried once more. Raises KeyNotFound, TakenOver.
        """
        self._check_ours()
        key = self._revoke(which)
        await self._to_its_end(self._save())
        return self._unsaved_info(key) if key in self._store.unsaved else key.info()

    def all(self) -> list[KeyInfo]:
        """All keys, oldest first; behind them those that are revoked and still on the disk."""
        known = [key.info() for key in self._store.keys]
        return known + [self._unsaved_info(key) for key in self._store.unsaved]

    @property
    def unsaved(self) -> int:
        """The number of keys that are revoked and may still be on the disk."""
        return len(self._store.unsaved)

    async def give(self) -> list[str]:
        """Changes no key any more, for another process does so from now on.

        Returns the access keys of those that are revoked and may still be on the disk. Raises
        ControlError where a change is still being saved.
        """
        self._given = True
        await self._stop_saving_again()
        if self._running:
            await asyncio.wait(self._running, timeout=SAVE_WITHIN)
        if self._running:
            raise ControlError(
                "A change of the keys is still being saved: the disk does not respond. Repeat the "
                "command when it does."
            )
        return [key.access_key for key in self._store.unsaved]

    def take_back(self) -> None:
        """Changes keys again."""
        if self._given:
            self._given = False
            self._save_in_time()

    def take(self, store: Store, revoked: list[str]) -> None:
        """Replaces the keys by those that another process has given: what it has written, but for
        those that it has revoked and could not save.
        """
        self._store = store
        for key in store.keys:
            if key.access_key in revoked:
                store.forget(key)
        self.publish_all()
        self._save_in_time()

    async def close(self) -> None:
        """Waits for what is being saved, tries once more to save what is not, and then gives up."""
        if self._given:
            return
        await self._stop_saving_again()
        if self._running:
            await asyncio.wait(self._running, timeout=SAVE_WITHIN)
        if self._store.unsaved:
            await asyncio.wait({self._begin(self._try_to_save())}, timeout=SAVE_WITHIN)
        for key in self._store.unsaved:
            log.error(
                "The key `%s` (access key %s) is revoked, but that is not saved for certain: when "
                "the next start accepts it again, revoke it once more. %s",
                key.name,
                key.access_key,
                self._problem,
            )

    def authenticate(self, text: str) -> KeyInfo | None:
        """The key of a client of the management API, if it is one of ours; it may have expired."""
        found = self._store.find(text)
        return found.info() if found else None

    def _check_ours(self) -> None:
        if self._given:
            raise TakenOver(
                "Another process takes the server over at this moment. Repeat the command."
            )

    async def _stop_saving_again(self) -> None:
        if self._saving_again is not None:
            self._saving_again.cancel()
            await asyncio.wait({self._saving_again})

    async def _create(self, name: str, grant: Grant | None, text: str | None) -> CreatedKey:
        async with self._one_at_a_time:
            key, given = self._store.draft(name, grant, text)
            try:
                doubt = await self._write([*self._store.keys, key])
            except OSError as error:
                raise StoreError(f"The key was not made: {reason_of(error)}. Try again.") from error
            created = self._store.add(key, given, doubt)
            self._publish(KeyChange(salt=self._store.salt, upsert=[key]))
            return created

    def _revoke(self, which: str) -> Key:
        """Takes a key from the workers and from memory."""
        try:
            key = self._store.named(which)
        except KeyNotFound:
            if key_again := self._store.unsaved_named(which):
                return key_again
            raise
        self._publish(KeyChange(salt=self._store.salt, remove=[key.access_key]))
        self._store.forget(key)
        return key

    async def _write(self, keys: list[Key]) -> str:
        """Lets the disk have these keys; returns the doubt. Raises StoreError, OSError."""
        doubt = await run_in_thread(self._store.write, keys)
        self._store.written(keys, doubt)
        return doubt

    async def _save(self) -> None:
        """Saves what was revoked: now, or else now and then until it is done."""
        await asyncio.wait({self._begin(self._try_to_save())}, timeout=SAVE_WITHIN)
        self._save_in_time()

    def _save_in_time(self) -> None:
        """Tries it now and then, where something is not saved, and nobody tries."""
        if self._given:
            return
        if self._store.unsaved and (self._saving_again is None or self._saving_again.done()):
            self._saving_again = asyncio.ensure_future(self._save_again())

    async def _save_again(self) -> None:
        while self._store.unsaved:
            await asyncio.sleep(SAVE_AGAIN_EVERY)
            await self._to_its_end(self._try_to_save())
        log.info("The revoked keys are gone from the disk, too.")

    async def _try_to_save(self) -> None:
        async with self._one_at_a_time:
            if not self._store.unsaved:
                return
            try:
                problem = await self._write(self._store.keys)
            except StoreError as error:
                problem = str(error)
            except OSError as error:
                problem = f"The change was not saved: {reason_of(error)}."
            # Where all is well, what failed before is no reason any more.
            self._problem = problem or NO_REPLY
            if problem:
                self._faults.note("keys", problem)

    def _unsaved_info(self, key: Key) -> KeyInfo:
        return replace(key.info(), unsaved=self._problem)

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Runs a change to its end: a client that leaves must not stop it half-way."""
        return await asyncio.shield(self._begin(change))

    def _begin(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def bootstrap(store: Store, text: str | None, keep: Callable[[str], None] | None) -> FirstKey:
    """Gives a new store its first key: the given text, else a generated one.

    `keep` gets a generated one before it is stored: what could not be kept is not made, and the
    next start tries again.

    A store that ever had a key does not take the text, whoever made that key, and also after its
    last one was revoked: otherwise a restart would bring a revoked key back, since the text usually
    stays in the environment. Raises UsageError, StoreError.
    """
    if store.is_new and text is None:
        text = new_key_text()
        if keep is not None:
            keep(text)
    if store.is_new:
        return FirstKey(created=store.create(FIRST_KEY, text=text))
    if text is None or store.find(text):
        return FirstKey()
    return FirstKey(
        notice="The bootstrap key was not taken, and opens nothing: it is for a data directory "
        "that never had a key, and here others were made before. If it shall be one of them, run "
        "`gpustack-fast keys create NAME --key-file FILE` with a file that holds it; else leave "
        "it out."
    )
