"""The commands `models list`, `models pull` and `models remove`."""

from __future__ import annotations

import argparse

from gpustack_fast.commands.arguments.shared import (
    Commands,
    add_place,
    command,
    whole_config,
)

__all__ = ["add_models"]

_MODELS = (
    "Lists, fetches and removes the models of hubs that are on this machine. A server fetches what "
    "it lacks by itself when it starts; `pull` does so before, and brings a model up to date."
)


def add_models(commands: Commands) -> None:
    """`gpustack-fast models …`."""
    models = commands.add_parser(
        "models",
        help="list, fetch and remove the models on this machine",
        allow_abbrev=False,
        description=_MODELS,
    )
    actions = models.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="model_command"
    )
    command(
        actions,
        "list",
        "list what is there, and which models of the configuration use it",
        _list_models,
    )
    pull = command(
        actions,
        "pull",
        "fetch a model, or bring it up to date: engines that start from then on load it",
        _pull_model,
    )
    pull.add_argument(
        "which",
        metavar="MODEL|huggingface:ORG/NAME[@REVISION][:FILE]",
        help="a model of the configuration with its adapters, or a repository; FILE may be a "
        "pattern such as `*Q4_K_M.gguf`",
    )
    remove = command(
        actions, "remove", "remove a repository that no running server uses", _remove_model
    )
    remove.add_argument(
        "which",
        metavar="REPOSITORY|MODEL",
        help="as `models list` shows it, or by a model's name: then its adapters go as well, but "
        "for those that another model of the configuration needs",
    )
    for each in actions.choices.values():
        each.add_argument("--json", action="store_true", help="print one JSON document")
        add_place(each, "data_dir", "models_dir")


def _list_models(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import models

    return models.show(whole_config(options), as_json=options.json)


def _pull_model(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import models

    return models.pull(whole_config(options), options.which, as_json=options.json)


def _remove_model(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import models

    return models.remove(whole_config(options), options.which, as_json=options.json)
