"""The configuration that runs, and one that was read now → what holds from now on. Pure.

settings of `[server]`     those that are marked so change; the others need a restart
routes, and who may use    as they are written now
models                     as they are written now; the engines of ours follow
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from gpustack_fast.config.model_fields import differing, makes_same_process
from gpustack_fast.config.schema import Config, ModelConfig, RouteConfig
from gpustack_fast.config.server import ServerConfig
from gpustack_fast.config.settings import SETTINGS, with_value

__all__ = ["Comparison", "ModelChange", "compare"]


class ModelChange(Struct, frozen=True, kw_only=True):
    """What becomes of the engines of a model of ours."""

    name: str
    kind: Literal["new", "gone", "edited", "scaled", "changed"]
    """edited: its engines are replaced by others. scaled: some come or go, the others stay.
    changed: what is changed holds for the engines that run.
    """
    fields: list[str]
    """Those with other values; of a new one, and of one that is gone, none."""
    before: int
    """Replicas that were wanted."""
    after: int
    """Replicas that are wanted now."""

    def words(self) -> str:
        """It in a list of what has changed."""
        if self.kind in ("new", "gone"):
            return f"the model `{self.name}` (it is {self.kind})"
        fields = [
            f"replicas {self.before} → {self.after}"
            if name == "replicas" and self.before != self.after
            else name
            for name in self.fields
        ]
        return f"the model `{self.name}` ({', '.join(fields)})"


class Comparison(Struct, frozen=True, kw_only=True):
    """What a reload comes to."""

    config: Config
    """What holds from now on."""
    changes: list[str]
    """The names of what it changes, for a sentence."""
    models: list[ModelChange]
    """Those of `changes` that are models of ours."""
    restart: list[str]
    """What is written and needs a restart, for a sentence."""


def compare(started: Config, running: Config, written: Config) -> Comparison:
    """`started`: what the server began with. `running`: what holds now. `written`: what was read.

    Calling it again with the same `written` and its own result as `running` changes nothing.
    """
    restart: list[str] = []
    server = _server(started.server, written.server, restart)
    config = Config(server=server, models=written.models, routes=written.routes)
    models = _of_ours(running, config)
    return Comparison(
        config=config, changes=_changes(running, config, models), models=models, restart=restart
    )


def _server(started: ServerConfig, written: ServerConfig, restart: list[str]) -> ServerConfig:
    server = started
    for setting in SETTINGS:
        value = _value(written, setting.path)
        if setting.reload:
            server = with_value(server, setting.path, value)
        elif value != _value(started, setting.path):
            restart.append(f"`{'.'.join(setting.path)}`")
    return server


def _of_ours(running: Config, config: Config) -> list[ModelChange]:
    """The changes of models of ours: those of now in their order, then those that are gone."""
    before = {model.name: model for model in running.models if not model.external}
    after = {model.name: model for model in config.models if not model.external}
    found = [_change(before.get(name), model) for name, model in after.items()]
    gone = [
        ModelChange(name=name, kind="gone", fields=[], before=model.replica_bounds[0], after=0)
        for name, model in before.items()
        if name not in after
    ]
    return [change for change in found if change is not None] + gone


def _change(before: ModelConfig | None, after: ModelConfig) -> ModelChange | None:
    name, replicas = after.name, after.replica_bounds[0]
    if before is None:
        return ModelChange(name=name, kind="new", fields=[], before=0, after=replicas)
    fields = differing(before, after)
    if not fields:
        return None
    kind: Literal["edited", "scaled", "changed"] = "changed"
    if not makes_same_process(before, after):
        kind = "edited"
    elif before.replica_bounds[0] != replicas:
        kind = "scaled"
    least = before.replica_bounds[0]
    return ModelChange(name=name, kind=kind, fields=fields, before=least, after=replicas)


def _changes(running: Config, config: Config, ours: list[ModelChange]) -> list[str]:
    """What differs, by name: settings, models, public names."""
    changes = [
        f"`{'.'.join(setting.path)}`"
        for setting in SETTINGS
        if _value(running.server, setting.path) != _value(config.server, setting.path)
    ]
    changes += [change.words() for change in ours]

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


def _value(struct: Struct, path: tuple[str, ...]) -> object:
    value: object = struct
    for name in path:
        value = getattr(value, name)
    return value
