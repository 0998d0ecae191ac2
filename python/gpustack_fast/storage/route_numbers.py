"""The number of every route's name, for ever: `/model/proxy/NUMBER/...` survives any restart.

A name gets the next number when it is first seen, and keeps it while it is gone: when it comes
back, the number is its own again, and until then nobody else's. Numbers begin with 1. A route's
name never begins with a digit, so that a number is never taken for a name. Beside the number lies
the time of that first sight, in Unix seconds.

    DIR/routes.json   0600
    {"version": 1, "routes": [{"name": "smollm2", "number": 1, "created": 1795300000}]}
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from gpustack_fast.storage import durable
from gpustack_fast.storage.data_directory import DataDirectory

__all__ = ["KnownRoute", "known_routes"]

log = logging.getLogger(__name__)

_VERSION = 1


class KnownRoute(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lasting facts of a route's name, whatever becomes of the route."""

    name: str
    number: Annotated[int, Meta(ge=1)]
    created: int
    """Unix seconds."""


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    version: int = _VERSION
    routes: list[KnownRoute] = []


def known_routes(directory: DataDirectory, names: Iterable[str]) -> Mapping[str, KnownRoute]:
    """All names that were ever seen, these among them: new ones are on the disk when this returns.

    Needs the directory's lock. Raises StoreError when the file is damaged, newer than we are, or
    cannot be written: a number that is not saved could be another route's after a restart, and a
    client that goes by it would be led to another model. Without a new name nothing is written.
    """
    assert directory.held, "the numbers belong to the holder of the data directory's lock"
    found = (
        durable.read(directory.routes_file, _Document, _VERSION, "The numbers of the routes")
        or _Document()
    )
    known = {route.name: route for route in found.routes}
    fresh = [name for name in dict.fromkeys(names) if name not in known]
    if fresh:
        now = int(time.time())
        following = max((route.number for route in found.routes), default=0) + 1
        for number, name in enumerate(fresh, following):
            known[name] = KnownRoute(name=name, number=number, created=now)
        doubt = durable.write(directory.routes_file, _Document(routes=list(known.values())))
        if doubt:
            log.warning("%s", doubt)
    return known
