"""Rules of a configuration beyond the types of its values. Pure: opens no file, resolves no name.

models            names, sources, addresses, processes
response_headers  the fields of engines' responses that a model lets pass
routes            targets, who may use a route, its `meta`
server            the listener: TLS, proxies and hosts, CORS
"""

from __future__ import annotations

from collections.abc import Iterator

from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.rules.models import check_models, check_names
from gpustack_fast.config.rules.routes import check_routes
from gpustack_fast.config.rules.server import NO_HOME, check_server
from gpustack_fast.config.schema import Config

__all__ = ["NO_HOME", "RuleBroken", "check", "check_server"]


def check(config: Config) -> Iterator[RuleBroken]:
    """Every rule of models and routes that does not hold.

    `check_server` comes when flags and variables have been laid over the file: they may complete
    it.
    """
    yield from check_names("models", [model.name for model in config.models])
    yield from check_models(config.models)
    yield from check_names("routes", [route.name for route in config.routes])
    yield from check_routes(config)
