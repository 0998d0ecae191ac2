"""Rules of the public names: their targets, who may use them, and their `meta`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import Config, KeyPath, ModelConfig, RouteConfig
from gpustack_fast.config.sentences import closest, quoted

__all__ = ["check_routes"]

_DEEPEST_META = 16
"""Tables and lists in one another."""
_LARGEST_NUMBER = 2**53
"""Beyond it, JSON readers round."""
_OF_THE_ROUTE = ("access_policy", "allowed_keys", "meta")


def check_routes(config: Config) -> Iterator[RuleBroken]:
    """Every rule that does not hold."""
    declared = {route.name for route in config.routes}
    for index, model in enumerate(config.models):
        path: KeyPath = ("models", index)
        if model.name in declared:
            yield from _reject_what_a_route_replaces(path, model)
        yield from _check_access(path, model)
        yield from _check_meta((*path, "meta"), model.meta)
    yield from _check_default(config)
    models = {model.name: model for model in config.models}
    for index, route in enumerate(config.routes):
        path = ("routes", index)
        yield from _check_targets(path, route, models)
        yield from _check_access(path, route)
        yield from _check_meta((*path, "meta"), route.meta)


def _check_default(config: Config) -> Iterator[RuleBroken]:
    """Requests without a model lead to one route, which is no pattern."""
    name = config.server.default_route
    known = [route.name for route in config.all_routes() if not route.name.endswith("*")]
    if name is not None and name not in known:
        yield RuleBroken(
            ("server", "default_route"),
            f"`default_route` is {quoted(name)}, but no route is called so. Name one that "
            f"[[models]] or [[routes]] declares, without a `*`.{closest(name, known)}",
            lacks=(),
        )


def _reject_what_a_route_replaces(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    """Somebody who restricts a model must not find it open under its own name."""
    defaults = ModelConfig(name=model.name, backend=model.backend)
    for name in _OF_THE_ROUTE:
        if getattr(model, name) != getattr(defaults, name):
            yield RuleBroken(
                (*path, name),
                f"The route `{model.name}` under [[routes]] replaces the model's own, so that "
                f"`{name}` would do nothing here. Write it there.",
            )


def _check_targets(
    path: KeyPath, route: RouteConfig, models: dict[str, ModelConfig]
) -> Iterator[RuleBroken]:
    seen: set[tuple[str, str]] = set()
    for index, target in enumerate(route.targets):
        here = (*path, "targets", index)
        if target.overridden_model_name == "":
            yield RuleBroken(
                (*here, "overridden_model_name"),
                "`overridden_model_name` is empty. Write what the engine calls the model or "
                "adapter, or leave it out.",
            )
        if target.model not in models:
            yield RuleBroken(
                (*here, "model"),
                f"The route `{route.name}` has the target {quoted(target.model)}, but no model is "
                "called so. "
                f"Declare it under [[models]], or correct the name.{closest(target.model, models)}",
                lacks=(),
            )
            continue
        same = (target.model, target.overridden_model_name or models[target.model].engine_name)
        if same in seen:
            yield RuleBroken(
                here,
                f"The route `{route.name}` names the model `{target.model}` twice. Add the weights "
                "up in one target.",
            )
        seen.add(same)
    if not any(target.share or target.fallback for target in route.targets):
        yield RuleBroken(
            (*path, "targets"),
            f"All targets of the route `{route.name}` have weight 0, so that no request could go "
            "anywhere. Give one a weight above 0.",
            lacks=(*path, "targets"),
        )


def _check_access(path: KeyPath, of: ModelConfig | RouteConfig) -> Iterator[RuleBroken]:
    """`allowed_keys` stands where the policy asks for it, and nowhere else."""
    if of.access_policy == "allowed_keys" and not of.allowed_keys:
        yield RuleBroken(
            (*path, "access_policy"),
            f'`{of.name}` has `access_policy = "allowed_keys"`, but no key is named. '
            'Write `allowed_keys = ["..."]` with the names or access keys that `gpustack-fast keys '
            "list` shows.",
            lacks=path,
        )
    if of.access_policy != "allowed_keys" and of.allowed_keys:
        yield RuleBroken(
            (*path, "allowed_keys"),
            f'`{of.name}` names `allowed_keys`, but has `access_policy = "{of.access_policy}"`, '
            "which lets others in, "
            'too. Write `access_policy = "allowed_keys"`, or remove the list.',
            lacks=path,
        )


def _check_meta(path: KeyPath, value: Any, depth: int = 0) -> Iterator[RuleBroken]:
    """JSON can carry it, and every reader of JSON reads the same in it."""
    if depth > _DEEPEST_META:
        yield RuleBroken(
            path, f"`meta` is nested deeper than {_DEEPEST_META} levels. Make it flatter."
        )
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _check_meta((*path, key), inner, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _check_meta((*path, index), inner, depth + 1)
    elif not (value is None or isinstance(value, str | int | float)):
        yield RuleBroken(
            path,
            f"`meta` is shown as JSON, which has no dates and times: {value}. Write it as text in "
            "quotes.",
        )
    elif isinstance(value, float) and not math.isfinite(value):
        yield RuleBroken(
            path,
            f"`meta` is shown as JSON, which has no number {value}. Write it as text in quotes.",
        )
    elif isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        yield RuleBroken(
            path,
            f"The number {quoted(value)} in `meta` is too large for readers of JSON. Write it as "
            "text in quotes.",
        )
