"""What a configuration may well say, but nobody can mean: told, and no reason to refuse it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from gpustack_fast.backends import BACKENDS
from gpustack_fast.config.schema import Config
from gpustack_fast.config.sentences import quoted
from gpustack_fast.config.server import ServerConfig
from gpustack_fast.config.settings import OTHER_VARIABLES, PREFIX, SETTINGS, variable_of
from gpustack_fast.machine import is_loopback

__all__ = ["missing_variables", "unknown_variables", "warnings_of"]

_OF_KUBERNETES = re.compile(
    r"SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
"""What Kubernetes sets in each container for a service that is called `gpustack-fast`."""
_HTTP = re.compile(r"http://(.+):(\d+)")


def unknown_variables(environment: Mapping[str, str], config: Config | None) -> list[str]:
    """A sentence for each variable with our prefix that means nothing; never with its value.

    Where the configuration is not known, any variable may hold the key of an engine: then only
    those are told that look like one of ours.
    """
    meant = {variable_of(setting.flag): setting.variable for setting in SETTINGS}
    meant |= {name: name for name in (*meant.values(), *OTHER_VARIABLES)}
    known = set(meant.values())
    if config is not None:
        known |= {model.api_key_env for model in config.models if model.api_key_env}
    told = []
    for name in sorted(environment):
        bare = name.removeprefix(PREFIX)
        if bare == name or name in known or _OF_KUBERNETES.fullmatch(bare):
            continue
        near = difflib.get_close_matches(name, meant, n=1, cutoff=0.85)
        if near:
            hint = f"Did you mean `{meant[near[0]]}`?"
        elif config is not None:
            hint = "Unset it, or correct its name: `gpustack-fast serve --help` has all."
        else:
            continue
        told.append(f"The variable {quoted(name)} is not known, and does nothing. {hint}")
    return told


def missing_variables(config: Config, environment: Mapping[str, str]) -> list[str]:
    """A sentence for each engine's key that is not in the environment here."""
    return [
        f"The environment variable `{model.api_key_env}` with the key of the engines of the model "
        f"`{model.name}` is not set here. Set it where `serve` will run."
        for model in config.models
        if model.api_key_env and not environment.get(model.api_key_env)
    ]


def warnings_of(config: Config) -> list[str]:
    """A sentence for everything in a right configuration that does nothing, or harm."""
    return [
        *_unused_models(config),
        *_empty_routes(config),
        *_circles(config),
        *_unchecked(config),
    ]


def _unused_models(config: Config) -> Iterator[str]:
    used = {target.model for route in config.all_routes() for target in route.targets}
    for model in config.models:
        if model.name not in used:
            yield (
                f"No route leads to the model `{model.name}`: the route of its name replaces its "
                "own. Add it as a target of a route, or remove it."
            )


def _empty_routes(config: Config) -> Iterator[str]:
    empty = {
        model.name for model in config.models if not model.external and not model.most_replicas
    }
    for route in config.all_routes():
        targets = {target.model for target in route.targets}
        if targets <= empty:
            yield (
                f"Nobody can reach the route `{route.name}`: its models have `replicas = 0`. Give "
                "one of them a replica."
            )


def _unchecked(config: Config) -> Iterator[str]:
    for model in config.models:
        doubts = BACKENDS[model.backend].doubts
        if doubts is not None:
            yield from doubts(model)


def _circles(config: Config) -> Iterator[str]:
    for model in config.models:
        for url in model.urls:
            if _leads_here(url, config.server):
                yield (
                    f"The address {quoted(url)} of the model `{model.name}` is that of this server "
                    "itself: requests would go in a circle. Write the engine's own address, or "
                    "choose another --port."
                )


def _leads_here(url: str, server: ServerConfig) -> bool:
    found = _HTTP.fullmatch(url)
    if found is None or int(found[2]) != server.port:
        return False
    host = found[1].strip("[]")
    local = is_loopback(host) and (is_loopback(server.host) or server.host in ("0.0.0.0", "::"))
    return host == server.host or local
