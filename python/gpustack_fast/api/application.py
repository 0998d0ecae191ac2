"""The ASGI application: finds the endpoint, checks the key, turns errors into responses.

Only the data plane talks to it. That has taken `X-Forwarded-*` off the client's request and set its
own, and passes the client's credential on, for the keys are the same.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec

from gpustack_fast.api.documents import Problem
from gpustack_fast.api.routes import ROUTES, ApiError, Call, Route, Sources

__all__ = ["Application"]

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Application:
    """An ASGI application over a table of routes."""

    def __init__(self, sources: Sources, routes: Iterable[Route] = ROUTES) -> None:
        self._sources = sources
        self._routes = tuple(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {}
        try:
            status, body = 200, msgspec.json.encode(self._handle(scope))
        except ApiError as error:
            status, headers = error.code, error.headers
            body = msgspec.json.encode(
                Problem(code=error.code, reason=error.reason, message=error.message)
            )
        fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    def _handle(self, scope: Scope) -> object:
        route = self._find(scope["method"], scope["raw_path"].partition(b"?")[0].decode("latin-1"))
        if not route.open:
            self._check_key(scope["headers"])
        return route.handle(
            Call(sources=self._sources, query=scope["query_string"].decode("latin-1"))
        )

    def _find(self, method: str, path: str) -> Route:
        methods = {route.method: route for route in self._routes if route.path == path}
        if not methods:
            raise ApiError(
                404, "NotFound", f"There is no {path[:200]} in this API. Check the path."
            )
        if found := methods.get("GET" if method == "HEAD" else method):
            return found
        allowed = [*methods, "HEAD"] if "GET" in methods else [*methods]
        raise ApiError(
            405,
            "MethodNotAllowed",
            f"{method} cannot be used with {path}. Use {' or '.join(allowed)}.",
            {"allow": ", ".join(allowed)},
        )

    def _check_key(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises ApiError when none of the request's keys may manage, now."""
        found = [self._sources.find_key(text) for text in _credentials(headers)]
        known = [key for key in found if key is not None]
        valid = [key for key in known if not key.is_expired(time.time())]
        if not known:
            raise _unauthorized(
                "Invalid authentication credentials. Send an API key as `Authorization: Bearer "
                "KEY`; `gpustack-fast keys create NAME` makes one."
            )
        if not valid:
            raise _unauthorized(
                "This API key has expired. `gpustack-fast keys create NAME` makes a new one."
            )
        if not any(key.allows("management") for key in valid):
            raise ApiError(
                403,
                "Forbidden",
                "API key does not have permission to access management features. Use one with the "
                "scope `management`, "
                "as `gpustack-fast keys create NAME --scope management` makes it.",
            )


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, "Unauthorized", message, {"www-authenticate": "Bearer"})


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """The keys of a request as in the data plane: `Authorization: Bearer`, then `X-API-Key`.

    The good one counts.
    """
    fields = {name.lower(): value for name, value in reversed(list(headers))}
    scheme, _, bearer = fields.get(b"authorization", b"").partition(b" ")
    for key in (bearer if scheme.lower() == b"bearer" else b"", fields.get(b"x-api-key", b"")):
        # A key that is not UTF-8 is none of ours; the replacement makes it match none.
        if text := key.strip().decode(errors="replace"):
            yield text
