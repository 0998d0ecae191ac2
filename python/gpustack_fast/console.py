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

__all__ = ["first_key", "program", "public_url", "ready"]

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Addresses for a client on this machine of a server that listens everywhere."""


def public_url(address: str, scheme: str) -> str:
    """The URL for a data plane's address, `127.0.0.1:8080` or `[::1]:8080`."""
    host, _, port = address.rpartition(":")
    return f"{scheme}://{ANY_ADDRESS.get(host, host)}:{port}"


def program() -> str:
    """The command for this program in a shell: its name where the PATH leads to this very one."""
    called = Path(sys.argv[0]).absolute()
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m gpustack_fast"
    found = shutil.which(called.name)
    if found is not None and os.path.realpath(found) == os.path.realpath(called):
        return called.name
    return shlex.quote(str(called))


def first_key(key: str) -> str:
    """Shown as soon as the key is made, for its text is known at this moment only."""
    return f"API key (shown once; keep it): {key}"


def ready(config: Config, models: set[str], url: str, key: str | None, data_dir: Path) -> str:
    """The URL, and a line to paste that streams a response.

    `models` are those that are ready; the others are named. `key` is known on a first start only.
    """
    lines = ["", f"Ready: {url}"]
    if missing := [model.name for model in config.models if model.name not in models]:
        lines.append(f"Not ready: {', '.join(missing)}; the lines above say why.")
    if key is None:
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
        bearer = (
            '"Authorization: Bearer $YOUR_KEY"'
            if key is None
            else shlex.quote(f"Authorization: Bearer {key}")
        )
        lines.append(
            f"Try it: curl {options} {url}/v1/chat/completions -H {bearer} "
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        )
    return "\n".join([*lines, ""])


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
