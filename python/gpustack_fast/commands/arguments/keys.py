"""The commands `keys create`, `keys list` and `keys revoke`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpustack_fast.commands.arguments.shared import (
    SHOWN_IN_PS,
    Commands,
    add_place,
    command,
    config_file,
    data_dir,
    read_key,
)
from gpustack_fast.config.settings import load_config
from gpustack_fast.errors import ConfigError

__all__ = ["add_keys"]

_KEYS = (
    "Makes, lists and revokes API keys. A running server is told at once: when the command "
    "returns, the very next request sees the change. Without a server the data directory is "
    "changed."
)


def add_keys(commands: Commands) -> None:
    """`gpustack-fast keys …`."""
    keys = commands.add_parser(
        "keys", help="make, list and revoke API keys", allow_abbrev=False, description=_KEYS
    )
    actions = keys.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="key_command"
    )

    create = command(
        actions, "create", "make a key and print it, alone, on standard output", _create_key
    )
    create.add_argument("name", metavar="NAME", help="what to call the key in lists")
    create.add_argument(
        "--allowed-models", metavar="A,B", help="the routes that it may use; by default all"
    )
    create.add_argument(
        "--scope",
        action="append",
        choices=["*", "inference", "management"],
        metavar="SCOPE",
        dest="scopes",
        help="what it may be used for: inference or management; repeat it for both; by default all "
        "(`*`), with --allowed-models inference alone",
    )
    create.add_argument(
        "--expires-in",
        metavar="TIME",
        help="after which it is rejected, a number and its unit: 90s, 15m, 12h, 30d or 4w; by "
        "default never",
    )
    text = create.add_mutually_exclusive_group()
    text.add_argument(
        "--key-file", metavar="FILE", help="take the key from this file instead of generating one"
    )
    text.add_argument(
        "--key", metavar="KEY", help=f"take this text of 16 characters or more; {SHOWN_IN_PS}"
    )

    listing = command(actions, "list", "list the keys by name and access key", _list_keys)
    listing.add_argument("--json", action="store_true", help="as a JSON list, for programs")

    revoke = command(actions, "revoke", "reject a key from the next request on", _revoke_key)
    revoke.add_argument(
        "which", metavar="NAME_OR_ACCESS_KEY", help="as `keys list` shows it, or the whole key"
    )

    for each in actions.choices.values():
        add_place(each)


def _create_key(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import keys
    from gpustack_fast.keys.store import Grant

    models = (
        None
        if options.allowed_models is None
        else [name.strip() for name in options.allowed_models.split(",")]
    )
    expires_in = None if options.expires_in is None else keys.seconds(options.expires_in)
    # Somebody who names models has inference in mind, and would not look for the right to manage.
    scopes = options.scopes or (["*"] if models is None else ["inference"])
    grant = Grant(allowed_models=models, scopes=scopes, expires_in=expires_in)
    text = options.key if options.key_file is None else read_key(Path(options.key_file))
    return keys.create(data_dir(options), options.name, grant, text, _routes(options))


def _routes(options: argparse.Namespace) -> list[str] | None:
    """The names of the routes of the configuration that was named, if it is right."""
    file = config_file(options)
    if file is None:
        return None
    try:
        return [route.name for route in load_config(file).all_routes()]
    except ConfigError:
        return None  # a broken file stops no key; `check` tells what is wrong


def _list_keys(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import keys

    return keys.show(data_dir(options), as_json=options.json)


def _revoke_key(options: argparse.Namespace) -> int:
    from gpustack_fast.commands import keys

    return keys.revoke(data_dir(options), options.which)
