"""The endpoints of the management API. A new one is a function and a line in `ROUTES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qs

from msgspec import Struct

from gpustack_fast.api.documents import ModelView, Page, Pagination, RouteView, VersionView
from gpustack_fast.keys.store import KeyInfo

__all__ = ["ROUTES", "ApiError", "Call", "Route", "Sources"]

T = TypeVar("T")


class Sources(Struct, frozen=True, kw_only=True):
    """The sources of all responses, filled in by `app`.

    Every callable must be quick, for it runs in the event loop.
    """

    version: str
    models: Callable[[], list[ModelView]]
    routes: Callable[[], list[RouteView]]
    find_key: Callable[[str], KeyInfo | None]
    """The API key of this text; it may have expired."""


class ApiError(Exception):
    """Ends a call with an error response."""

    def __init__(
        self, code: int, reason: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.headers = headers or {}


class Call(Struct, frozen=True, kw_only=True):
    """One request, as far as a route needs it."""

    sources: Sources
    query: str


class Route(Struct, frozen=True):
    """An endpoint. HEAD is allowed wherever GET is."""

    method: str
    path: str
    handle: Callable[[Call], object]
    """Returns the document to send with 200."""
    open: bool = False
    """Whether it needs no key."""


def _version(call: Call) -> VersionView:
    return VersionView(version=call.sources.version)


def _list_models(call: Call) -> Page[ModelView]:
    return _page(call.sources.models(), call.query)


def _list_routes(call: Call) -> Page[RouteView]:
    return _page(call.sources.routes(), call.query)


ROUTES = (
    Route("GET", "/version", _version, open=True),
    Route("GET", "/v2/models", _list_models),
    Route("GET", "/v2/model-routes", _list_routes),
)


def _page(items: list[T], query: str) -> Page[T]:
    """The page that `page` (from 1; -1: all) and `perPage` ask for."""
    parameters = parse_qs(query, keep_blank_values=True)
    page = _number(parameters, "page", 1)
    per_page = _number(parameters, "perPage", 100)
    if page == 0 or page < -1 or per_page < 1:
        raise ApiError(
            422, "Invalid", "`page` begins with 1 (-1 is all), and `perPage` is 1 or more."
        )
    pagination = Pagination(
        page=page, per_page=per_page, total=len(items), total_page=-(-len(items) // per_page)
    )
    first = (page - 1) * per_page
    return Page(
        items=items if page == -1 else items[first : first + per_page], pagination=pagination
    )


def _number(parameters: dict[str, list[str]], name: str, default: int) -> int:
    text = parameters.get(name, [str(default)])[-1]
    # 9 digits are beyond every list, and within what a slice takes.
    if not text.removeprefix("-").isdecimal() or len(text) > 9:
        raise ApiError(
            422,
            "Invalid",
            f"`{name}` must be a whole number. Write for example `{name}={default}`.",
        )
    return int(text)
