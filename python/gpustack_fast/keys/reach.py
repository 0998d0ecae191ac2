"""Keys and routes that do not meet: names that match nothing, and routes that no key may use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gpustack_fast.config import RouteConfig
from gpustack_fast.config.sentences import closest, quoted
from gpustack_fast.keys.store import KeyInfo

__all__ = ["unknown_models", "unmatched"]


def unmatched(routes: Sequence[RouteConfig], keys: Sequence[KeyInfo], now: float) -> list[str]:
    """A sentence for each name that matches nothing, and each route that no key may use.

    `now` is Unix time: keys expire.
    """
    names = [route.name for route in routes]
    told = [sentence for key in keys for sentence in unknown_models(key, names)]
    guarded = [route for route in routes if route.access_policy != "public"]
    if guarded and not keys:
        return [
            *told,
            "There is no API key, so that nobody can use a route that is not public. Make one with "
            "`gpustack-fast keys create NAME`.",
        ]
    for route in guarded:
        told += _unknown_keys(route, keys)
        if not any(_may_use(key, route, now) for key in keys):
            told.append(_unreachable(route, keys))
    return [sentence for sentence in told if sentence]


def unknown_models(key: KeyInfo, routes: Iterable[str]) -> list[str]:
    """A sentence for each model of a key that no route is called like."""
    known = list(routes)
    return [
        f"The key {quoted(key.name)} may use {quoted(model)}, but no route is called so."
        f"{closest(model, known) or ' Declare it under [[routes]], or make another key.'}"
        for model in key.allowed_models or []
        if model not in known
    ]


def _unknown_keys(route: RouteConfig, keys: Sequence[KeyInfo]) -> Iterator[str]:
    known = {name for key in keys for name in (key.name, key.access_key)}
    for name in route.allowed_keys:
        if name not in known:
            hint = closest(name, [key.name for key in keys])
            yield (
                f"The route `{route.name}` lets in the key {quoted(name)}, but there is none of "
                f"this name.{hint} Correct `allowed_keys`, or make the key with `gpustack-fast "
                "keys create`."
            )


def _may_use(key: KeyInfo, route: RouteConfig, now: float) -> bool:
    """As the data plane decides it for each request (`table::keys`, `request::admission`)."""
    if key.is_expired(now) or not key.allows("inference"):
        return False
    if key.allowed_models is not None and route.name not in key.allowed_models:
        return False
    return route.access_policy != "allowed_keys" or bool(
        {key.name, key.access_key} & set(route.allowed_keys)
    )


def _unreachable(route: RouteConfig, keys: Sequence[KeyInfo]) -> str:
    """Empty where a name that is wrong has said it already."""
    named = {name for key in keys for name in (key.name, key.access_key)}
    if route.access_policy == "allowed_keys" and not named & set(route.allowed_keys):
        return ""
    return (
        f"No key may use the route `{route.name}`: those that could have expired, are not for "
        "inference, or have a list of models without it. Make one with `gpustack-fast keys create`."
    )
