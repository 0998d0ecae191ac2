"""The plain texts that a person sees while the server starts."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from gpustack_fast.config import Config
from gpustack_fast.config.server import default_data_dir
from gpustack_fast.machine import is_loopback, outward_address

__all__ = [
    "bearer_in",
    "first_key",
    "local_url",
    "program",
    "ready",
    "unencrypted",
    "urls",
]

EVERYWHERE = {"0.0.0.0": "every IPv4 address", "[::]": "every IPv6 address"}
"""Addresses of a server that listens on all of this machine's."""
LOCAL = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""The same for a client on this machine."""


def urls(addresses: list[str], scheme: str) -> str:
    """Where the server listens, as it is: `http://0.0.0.0:8080 (every IPv4 address)`."""
    shown = []
    for address in addresses:
        host = address.rpartition(":")[0]
        note = f" ({EVERYWHERE[host]})" if host in EVERYWHERE else ""
        shown.append(f"{scheme}://{address}{note}")
    return " and ".join(shown)


def local_url(address: str, scheme: str) -> str:
    """The URL for a client on this machine."""
    host, _, port = address.rpartition(":")
    return f"{scheme}://{LOCAL.get(host, host)}:{port}"


def unencrypted(addresses: list[str], scheme: str) -> str | None:
    """A warning where keys and prompts would cross a network in the clear."""
    open_to_others = [one for one in addresses if not is_loopback(one.rpartition(":")[0])]
    if scheme != "http" or not open_to_others:
        return None
    return (
        f"Other machines can reach {urls(open_to_others, scheme)}, and keys and prompts cross the "
        "network in the clear there. Set `tls_certificate` and `tls_key`; or listen on 127.0.0.1 "
        "with --host, behind a proxy that speaks TLS."
    )


def program() -> str:
    """The command for this program in a shell: its name where the PATH leads to this very one."""
    called = Path(sys.argv[0]).absolute()
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m gpustack_fast"
    found = shutil.which(called.name)
    if found is not None and os.path.realpath(found) == os.path.realpath(called):
        return called.name
    return shlex.quote(str(called))


def first_key(key: str, file: Path | None) -> str:
    """Told as soon as the key is made: the key itself, or the file that it was written to."""
    if file is None:
        return f"API key (shown once; keep it):\nYOUR_KEY={key}"
    return (
        f"The first API key is in {file}, which its owner alone can read. Keep it elsewhere, and "
        "delete the file."
    )


def bearer_in(file: Path | None) -> str:
    """The first key as a shell finds it: in the variable that was shown, or in the file."""
    return "$YOUR_KEY" if file is None else f"$(cat {shlex.quote(str(file))})"


def ready(
    config: Config,
    models: set[str],
    addresses: list[str],
    scheme: str,
    bearer: str | None,
    data_dir: Path,
) -> str:
    """The URL, and a line to paste that streams a response.

    `models` are those that are ready; the others are named. `bearer` is known on a first start
    only: `bearer_in`.
    """
    url = local_url(addresses[0], scheme)
    lines = ["", f"Ready: {urls(addresses, scheme)}"]
    if any(address.rpartition(":")[0] in EVERYWHERE for address in addresses):
        lines.append(f"From this machine {url}{_from_others(addresses, scheme)}")
    if not config.models:
        lines.append("There is nothing to serve: the configuration has no [[models]]. Add one.")
    if missing := [model.name for model in config.models if model.name not in models]:
        lines.append(f"Not ready: {', '.join(missing)}; the lines above say why.")
    if bearer is None:
        where = (
            "" if data_dir == default_data_dir() else f" --data-dir {shlex.quote(str(data_dir))}"
        )
        lines.append(f"A key:  YOUR_KEY=$({program()} keys create NAME{where})")
    chats = chat_routes(config, models)
    if chats:
        # A certificate names a host that this line need not know: it goes to this machine.
        options = "-Nk" if url.startswith("https:") else "-N"
        body = {
            "model": chats[0],
            "stream": True,
            "messages": [{"role": "user", "content": "Say hello."}],
        }
        lines.append(
            f"Try it: curl {options} {url}/v1/chat/completions "
            f'-H "Authorization: Bearer {bearer or "$YOUR_KEY"}" '
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        )
    return "\n".join([*lines, ""])


def _from_others(addresses: list[str], scheme: str) -> str:
    """The URL by which other machines most likely reach a server on every IPv4 address."""
    ports = [one.rpartition(":")[2] for one in addresses if one.startswith("0.0.0.0:")]
    outward = outward_address()
    if not ports or outward is None:
        return ""
    return f", from other machines {scheme}://{outward}:{ports[0]}"


def chat_routes(config: Config, models: set[str]) -> list[str]:
    """Routes to one of these models that any key may use; those for chat, if there are any."""
    usable = [
        route
        for route in config.all_routes()
        if route.access_policy != "allowed_keys"
        and any(target.model in models for target in route.targets)
    ]
    return [route.name for route in usable if "llm" in route.categories] or [
        route.name for route in usable
    ]
