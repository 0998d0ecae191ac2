"""The configuration that runs, and one that was read now → what holds from now on. Pure.

    settings of `[server]`     those that are marked so change; the others need a restart
    routes, and who may use    as they are written now
    models of somebody else    as they are written now
    models of ours             how they are run needs a restart; their own route is as it is written

A model of ours that is new in the file has no engine before the restart, so that requests for it
get a 503. One that the file does not have any more keeps its engine, which nobody can reach.
"""

from __future__ import annotations

from msgspec import Struct, structs

from gpustack_fast.config.schema import Config, ModelConfig, RouteConfig
from gpustack_fast.config.server import ServerConfig
from gpustack_fast.config.settings import SETTINGS, with_value

__all__ = ["Comparison", "compare"]

_OF_THE_ROUTE = ("categories", "generic_proxy", "access_policy", "allowed_keys", "meta")
"""The fields of a model that are about its own route."""


class Comparison(Struct, frozen=True, kw_only=True):
    """What a reload comes to."""

    config: Config
    """What holds from now on."""
    changes: list[str]
    """The names of what it changes, for a sentence."""
    restart: list[str]
    """What is written and needs a restart, for a sentence."""


def compare(started: Config, running: Config, written: Config) -> Comparison:
    """`started`: what the server began with. `running`: what holds now. `written`: what was read.

    Calling it again with the same `written` and its own result as `running` changes nothing.
    """
    restart: list[str] = []
    server = _server(started.server, written.server, restart)
    models = _models(started.models, written.models, restart)
    config = Config(server=server, models=models, routes=written.routes)
    return Comparison(config=config, changes=_changes(running, config), restart=restart)


def _server(started: ServerConfig, written: ServerConfig, restart: list[str]) -> ServerConfig:
    server = started
    for setting in SETTINGS:
        value = _value(written, setting.path)
        if setting.reload:
            server = with_value(server, setting.path, value)
        elif value != _value(started, setting.path):
            restart.append(f"`{'.'.join(setting.path)}`")
    return server


def _models(
    started: list[ModelConfig], written: list[ModelConfig], restart: list[str]
) -> list[ModelConfig]:
    ours = {model.name: model for model in started if not model.external}
    models = []
    for model in written:
        begun = ours.pop(model.name, None)
        if begun is None:
            models.append(model)
            if not model.external:
                restart.append(f"the model `{model.name}` (it is new)")
            continue
        own_route = {name: getattr(model, name) for name in _OF_THE_ROUTE}
        models.append(structs.replace(begun, **own_route))
        if fields := _differing(models[-1], model):
            restart.append(f"the model `{model.name}` ({', '.join(fields)})")
    restart += [f"the model `{name}` (it is gone)" for name in ours]
    return models


def _changes(running: Config, config: Config) -> list[str]:
    """What differs, by name: settings, models of somebody else, public names."""
    changes = [
        f"`{'.'.join(setting.path)}`"
        for setting in SETTINGS
        if _value(running.server, setting.path) != _value(config.server, setting.path)
    ]

    def models(of: Config) -> dict[str, Struct]:
        return {model.name: model for model in of.models if model.external}

    def routes(of: Config) -> dict[str, RouteConfig]:
        return {route.name: route for route in of.all_routes()}

    for what, before, after in (
        ("model", models(running), models(config)),
        ("route", routes(running), routes(config)),
    ):
        names = [*after, *(name for name in before if name not in after)]
        changes += [f"the {what} `{name}`" for name in names if before.get(name) != after.get(name)]
    return changes


def _differing(one: ModelConfig, other: ModelConfig) -> list[str]:
    return [
        name for name in ModelConfig.__struct_fields__ if getattr(one, name) != getattr(other, name)
    ]


def _value(struct: Struct, path: tuple[str, ...]) -> object:
    value: object = struct
    for name in path:
        value = getattr(value, name)
    return value
