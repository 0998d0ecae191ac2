"""The API keys, hashed, in one file of the data directory.

    gpustack_0123456789abcdef_0123456789abcdef0123456789abcdef      a generated key: GPUStack's form
             └ access key ──┘ └ secret (128 random bits) ─────┘
    any other text of 16 characters or more                         a custom key

The **access key** names a key in lists, logs and records. Of a custom key it is the first 16 hex
digits of the BLAKE2b-128 hash of the whole text, as in `gpustack/security.py` of GPUStack
(github.com/gpustack/gpustack). That hash has no salt: somebody who sees it can test guesses, so a
custom key should be random.

Stored is only a **digest**: hex of SHA-256 over the store's salt (32 random bytes) followed by the
whole key. One fast hash is right here, and argon2 is not: a key is random, not a word that somebody
remembers, and it is checked on every request.

**Why a JSON file.** A few dozen keys change a few times a day, and the data plane holds them all in
memory. A database would be a dependency, a schema and a migration for that; it comes when usage is
recorded. `durable` writes it so that after a crash there is the old file or the new one. A file
that cannot be understood is never overwritten. `DataDirectory`'s lock keeps writers apart.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from gpustack_fast.config.sentences import is_utf8
from gpustack_fast.errors import KeyNameTaken, KeyNotFound, UsageError
from gpustack_fast.storage import durable
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = [
    "SCOPES",
    "SHORTEST_KEY",
    "CreatedKey",
    "Grant",
    "Key",
    "KeyInfo",
    "Scope",
    "Store",
    "access_key_of",
    "check_key_text",
    "digest_of",
    "new_key_text",
    "stored_keys",
]

SHORTEST_KEY = 16
"""Characters of a custom key, at least."""
_LONGEST_KEY = 1024
_LONGEST_NAME = 100
_LONGEST_LIFE = 100 * 365 * 24 * 3600
"""Seconds."""
_VERSION = 2
"""1 had no scopes and no expiry; its keys may do everything, for ever."""
_GENERATED = re.compile(r"gpustack_([0-9a-f]{16})_[0-9a-f]{32}", re.ASCII)
_ACCESS_KEY = re.compile(r"[0-9a-f]{16}", re.ASCII)

Hex32 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""32 bytes in hex."""


Scope = Literal["*", "management", "inference"]
"""The uses of a key: everything, the management API, inference."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Grant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rights of a key, and their time."""

    allowed_models: list[str] | None = None
    """Route names; None allows all."""
    scopes: list[Scope] = field(default_factory=lambda: ["*"])
    expires_in: int | None = None
    """Seconds from its making; None: for ever."""


class KeyInfo(Struct, frozen=True, kw_only=True):
    """The public part of a key."""

    name: str
    access_key: str
    masked: str
    allowed_models: list[str] | None
    """Route names; None allows all."""
    scopes: list[Scope]
    created: int
    """Unix seconds."""
    expires: int | None
    """Unix seconds, the first at which it is rejected; None: never."""
    custom: bool
    unsaved: str = ""
    """The reason, in sentences, why the disk may not know yet that it is revoked; empty: it does.
    """

    def is_expired(self, now: float) -> bool:
        """Whether it is rejected at this Unix time."""
        return self.expires is not None and now >= self.expires

    def allows(self, scope: Scope) -> bool:
        """Whether it may be used for this."""
        return "*" in self.scopes or scope in self.scopes


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as it is stored."""

    name: str
    access_key: Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    digest: Hex32
    allowed_models: list[str] | None = None
    """Route names; None allows all."""
    scopes: Annotated[list[Scope], Meta(min_length=1)] = field(default_factory=lambda: ["*"])
    created: int
    """Unix seconds."""
    expires: int | None = None
    """Unix seconds; None: never."""
    custom: bool = False
    """Whether somebody chose its text, so that it is not of the generated form."""

    def info(self) -> KeyInfo:
        """Its public part."""
        return KeyInfo(
            name=self.name,
            access_key=self.access_key,
            masked="********" if self.custom else f"gpustack_{self.access_key}_********",
            allowed_models=self.allowed_models,
            scopes=self.scopes,
            created=self.created,
            expires=self.expires,
            custom=self.custom,
        )


class CreatedKey(Struct, frozen=True, kw_only=True):
    """A new key and its text, which is known at this moment only."""

    info: KeyInfo
    text: str
    warnings: list[str] = []
    """Sentences: a disk in doubt, and what it was made for, where a running server knows better."""

    def __repr__(self) -> str:
        return f"CreatedKey(info={self.info!r}, text='********')"


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    version: int = _VERSION
    salt: Hex32
    keys: list[Key] = []


def stored_keys(directory: DataDirectory) -> list[KeyInfo] | None:
    """The keys as they are at this moment, without the lock; None where none was ever made.

    Raises StoreError.
    """
    found = durable.read(directory.keys_file, _Document, _VERSION, "The keys")
    return None if found is None else [key.info() for key in found.keys]


class Store:
    """The keys of a data directory whose lock we hold.

    `create` and `revoke` return when the disk has the change. They are made of the smaller steps
    below them, from which `live` makes those of a running server: all of them belong to one thread,
    and `write` alone, which neither reads nor changes anything here, to any other.
    """

    def __init__(self, directory: DataDirectory) -> None:
        """Reads the keys. Raises StoreError for a file that is damaged, too new or unreadable."""
        assert directory.held, "the store belongs to the holder of the data directory's lock"
        self._file = directory.keys_file
        found = durable.read(self._file, _Document, _VERSION, "The keys")
        self.is_new = found is None
        """No key was ever made here. (A store whose last key was revoked is not new.)"""
        document = found or _Document(salt=secrets.token_bytes(32).hex())
        self.salt = document.salt
        """Hex; the same for all keys, for ever."""
        self._on_disk = list(document.keys)
        """Those that the disk has, or may have again after a power cut."""
        self._keys = list(document.keys)

    @property
    def keys(self) -> list[Key]:
        """All keys, oldest first."""
        return list(self._keys)

    @property
    def unsaved(self) -> list[Key]:
        """Keys that were forgotten, and that the disk still has, or may have."""
        known = {key.access_key for key in self._keys}
        return [key for key in self._on_disk if key.access_key not in known]

    def create(self, name: str, grant: Grant | None = None, text: str | None = None) -> CreatedKey:
        """Makes a key as `draft` does. Raises also StoreError when it cannot be saved."""
        key, text = self.draft(name, grant, text)
        doubt = self._save([*self._keys, key])
        return self.add(key, text, doubt)

    def draft(
        self, name: str, grant: Grant | None = None, text: str | None = None
    ) -> tuple[Key, str]:
        """A key that could be made: generated, or of the given text. Without a grant it may do all.

        Returns it and its text, which is known at this moment only. Nothing has changed yet. Raises
        UsageError when name, grant or text cannot be used, KeyNameTaken.
        """
        grant = grant or Grant()
        _check_name(name)
        _check_grant(grant)
        if text is None:
            text = new_key_text()
        check_key_text(text)
        now = int(time.time())
        key = Key(
            name=name,
            access_key=access_key_of(text),
            digest=digest_of(self.salt, text),
            allowed_models=grant.allowed_models,
            scopes=list(dict.fromkeys(grant.scopes)),
            created=now,
            expires=None if grant.expires_in is None else now + grant.expires_in,
            custom=not _GENERATED.fullmatch(text),
        )
        for other in self._keys:
            if other.name == name:
                raise KeyNameTaken(
                    f"There is a key named `{name}` already. Choose another name, or revoke that "
                    "key first."
                )
            if other.access_key == key.access_key:
                raise KeyNameTaken(
                    f"The key named `{other.name}` is the same or has the same access key. Use "
                    "that one."
                )
        return key, text

    def add(self, key: Key, text: str, doubt: str) -> CreatedKey:
        """Adds a key to memory, of whose text `create` tells, and of the doubt of its writing."""
        self._keys.append(key)
        return CreatedKey(info=key.info(), text=text, warnings=[doubt] if doubt else [])

    def revoke(self, which: str) -> KeyInfo:
        """Removes a key, as `named` finds it; `unsaved` says if a power cut may bring it back.

        Raises KeyNotFound, StoreError when it cannot be saved.
        """
        key = self.named(which)
        doubt = self._save([other for other in self._keys if other is not key])
        self.forget(key)
        return replace(key.info(), unsaved=doubt)

    def forget(self, key: Key) -> None:
        """Removes a key from memory; on the disk it stays until the others are written."""
        self._keys.remove(key)

    def write(self, keys: list[Key]) -> str:
        """Lets the disk have these keys, of which `written` is then to be told. For any thread.

        Returns the doubt as `durable.write` does. Raises StoreError.
        """
        return durable.write(self._file, _Document(salt=self.salt, keys=keys))

    def written(self, keys: list[Key], doubt: str) -> None:
        """Takes note of what `write` has written, and of what it has returned."""
        # After a power cut there may be the former ones instead.
        former = self._on_disk if doubt else []
        self._on_disk = list({key.access_key: key for key in [*former, *keys]}.values())
        self.is_new = False

    def named(self, which: str) -> Key:
        """The key of this name or access key, or of this whole text. Raises KeyNotFound."""
        if found := self._meant(self._keys, which):
            return found
        # What may be somebody's key is not repeated.
        shown = f" `{which}`" if len(which) < SHORTEST_KEY or _ACCESS_KEY.fullmatch(which) else ""
        raise KeyNotFound(
            f"There is no key with the name or access key{shown or ' that was given'}. "
            "`keys list` shows all."
        )

    def unsaved_named(self, which: str) -> Key | None:
        """The same among `unsaved`; None: there is none."""
        return self._meant(self.unsaved, which)

    def find(self, text: str) -> Key | None:
        """The key that a client sent, if it is one of ours."""
        digest = digest_of(self.salt, text)
        # The digests are salted: how long a comparison takes shows nothing of a key.
        return next((key for key in self._keys if key.digest == digest), None)

    def _meant(self, keys: list[Key], which: str) -> Key | None:
        for key in keys:
            if which in (key.access_key, key.name):
                return key
        digest = digest_of(self.salt, which) if is_utf8(which) else ""
        return next((key for key in keys if key.digest == digest), None)

    def _save(self, keys: list[Key]) -> str:
        doubt = self.write(keys)
        self.written(keys, doubt)
        return doubt


def new_key_text() -> str:
    """A random key of the generated form."""
    return f"gpustack_{secrets.token_hex(8)}_{secrets.token_hex(16)}"


def digest_of(salt: str, text: str) -> str:
    """Hex of SHA-256 over the salt's bytes followed by the key's bytes."""
    return hashlib.sha256(bytes.fromhex(salt) + text.encode()).hexdigest()


def access_key_of(text: str) -> str:
    """16 hex digits that name a key: its middle part if generated, else of its BLAKE2b-128 hash."""
    if generated := _GENERATED.fullmatch(text):
        return generated[1]
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:16]


def check_key_text(text: str) -> None:
    """Raises UsageError, which never repeats it, when a text is too short or no header's value."""
    if not SHORTEST_KEY <= len(text) <= _LONGEST_KEY:
        raise UsageError(
            f"A key has {SHORTEST_KEY} to {_LONGEST_KEY} characters, but this one has {len(text)}. "
            "Choose another, or leave it out to have one generated."
        )
    if not text.isprintable() or text != text.strip():
        raise UsageError(
            "A key may not hold control characters, nor begin or end with a space: no header could "
            "carry it. Choose another, or leave it out to have one generated."
        )


def _check_grant(grant: Grant) -> None:
    if grant.allowed_models is not None and not all(grant.allowed_models):
        raise UsageError(
            "A name in the list of allowed models is empty. Remove the comma too many."
        )
    if not all(is_utf8(name) for name in grant.allowed_models or ()):
        raise UsageError(
            "A name in the list of allowed models holds bytes that are not UTF-8. Correct it."
        )
    if grant.allowed_models == []:
        raise UsageError(
            "The list of allowed models is empty. Name at least one, or leave the list out to "
            "allow all."
        )
    if not grant.scopes:
        raise UsageError(
            "The list of scopes is empty. Name at least one, or leave the list out to allow all."
        )
    if grant.expires_in is not None and not 1 <= grant.expires_in <= _LONGEST_LIFE:
        raise UsageError(
            "A key expires after 1 second to 100 years. Choose a time between, or none for no "
            "expiry."
        )


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(
            f"A key's name has 1 to {_LONGEST_NAME} printable characters. Choose another name."
        )
    if _ACCESS_KEY.fullmatch(name):
        raise UsageError("A name of 16 hex digits looks like an access key. Choose another name.")
