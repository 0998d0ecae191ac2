"""The keys of a running server: store and data plane change together, and survive a crash.

**Store first, then the data plane, both ways.** A key that was revoked is gone from the disk before
the workers hear of it: if we die between the two, the workers die with us, and the next start does
not know the key. The other order could leave a revoked key valid after a restart. A created key is
likewise on the disk before any worker accepts it.

`publish` is given by `app`: it hands the change to the data plane and returns when every worker has
it. This module knows nothing of the data plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from msgspec import Struct

from gpustack_fast.keys.store import CreatedKey, Grant, Key, KeyInfo, Store, new_key_text

__all__ = ["FIRST_KEY", "FirstKey", "KeyChange", "Keys", "bootstrap"]

T = TypeVar("T")

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

    def __init__(self, store: Store, publish: Callable[[KeyChange], None]) -> None:
        self._store = store
        self._publish = publish
        self._one_at_a_time = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()

    def publish_all(self) -> None:
        """Hands every key to the data plane, as after a start."""
        self._publish(KeyChange(salt=self._store.salt, replace=True, upsert=self._store.keys))

    async def create(
        self, name: str, grant: Grant | None = None, text: str | None = None
    ) -> CreatedKey:
        """Makes a key as `Store.create` does; the next request may use it."""
        return await self._to_its_end(self._create(name, grant, text))

    async def revoke(self, name_or_access_key: str) -> KeyInfo:
        """Revokes a key as `Store.revoke` does; the next request with it is rejected."""
        return await self._to_its_end(self._revoke(name_or_access_key))

    def all(self) -> list[KeyInfo]:
        """All keys, oldest first."""
        return [key.info() for key in self._store.keys]

    def authenticate(self, text: str) -> KeyInfo | None:
        """The key of a client of the management API, if it is one of ours; it may have expired."""
        found = self._store.find(text)
        return found.info() if found else None

    async def _create(self, name: str, grant: Grant | None, text: str | None) -> CreatedKey:
        async with self._one_at_a_time:
            created = await asyncio.to_thread(self._store.create, name, grant, text)
            self._publish(KeyChange(salt=self._store.salt, upsert=[self._store.keys[-1]]))
            return created

    async def _revoke(self, name_or_access_key: str) -> KeyInfo:
        async with self._one_at_a_time:
            key = await asyncio.to_thread(self._store.revoke, name_or_access_key)
            self._publish(KeyChange(salt=self._store.salt, remove=[key.access_key]))
            return key.info()

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Runs a change to its end: a client that leaves must not stop it half-way."""
        task = asyncio.ensure_future(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


def bootstrap(store: Store, text: str | None, keep: Callable[[str], None] | None) -> FirstKey:
    """Gives a new store its first key: the given text, else a generated one.

    `keep` gets a generated one before it is stored: what could not be kept is not made, and the
    next start tries again.

    A store that ever had a key ignores the text, also after its last key was revoked: otherwise a
    restart would bring a revoked key back, since the text usually stays in the environment. Raises
    UsageError, StoreError.
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
        notice="The bootstrap key was ignored: this data directory had its first start before. "
        "Use `gpustack-fast keys create` for more keys."
    )
