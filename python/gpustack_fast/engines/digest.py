"""What an engine was made of, as a digest: it tells whether it would be started otherwise now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gpustack_fast.backends import Backend
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.prepared import Prepared

__all__ = ["command_digest"]

_SOCKET = Path("/run/engine.sock")
_PORT = 1
_KEY = "key"
_PACKAGE = str(Path(__file__).parents[1])


def command_digest(backend: Backend, model: ModelConfig, prepared: Prepared) -> str:
    """SHA-256 in hexadecimal over command line, variables, files and version of an engine.

    What each instance has for itself is the same for all here: socket, port, key and folder. So is
    the number of replicas, by which some backends divide the processors: to scale a model replaces
    no engine. And so is where this package lies, which an upgrade may change. Looks for files;
    raises BackendError and OSError, as `Backend.command`.
    """
    place = prepared.place(_SOCKET, _PORT if backend.over_tcp else None, _KEY)
    command = backend.command(replace(model, replicas=1), place)
    made = {
        "arguments": [one.replace(_PACKAGE, "{package}") for one in command.arguments],
        "environment": _ordered({**command.environment, **model.env}),
        "files": _ordered({str(path): text for path, text in command.files.items()}),
        "links": _ordered({str(link): str(target) for link, target in command.links.items()}),
        "version": prepared.version,
    }
    return hashlib.sha256(msgspec.json.encode(made)).hexdigest()


def _ordered(named: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(named.items())
