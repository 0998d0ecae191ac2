"""Secrets that the configuration names but does not hold: others' engines' keys, files for TLS.

They are looked for when the server starts; `check` looks at the files among them (see `files`). No
error and no log shows what was found.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from gpustack_fast import plain_files
from gpustack_fast.config.reading.toml_lines import Places
from gpustack_fast.config.schema import Config, ModelConfig
from gpustack_fast.config.server import ServerConfig
from gpustack_fast.errors import ConfigError, MistakesFound

__all__ = ["check_tls_files", "engine_key_in_file", "read_tls_file", "take_engine_keys"]


def take_engine_keys(
    config: Config, environment: MutableMapping[str, str], places: Places
) -> dict[str, str]:
    """The key of each model that names a place for one. Raises ConfigError when a place holds none.

    The variables are taken out of the environment, for engines of our own inherit that, and the
    keys of others are none of their business.
    """
    keys: dict[str, str] = {}
    found = MistakesFound()
    for index, model in enumerate(config.models):
        field = "api_key_env" if model.api_key_env is not None else "api_key_file"
        try:
            text = _text(model, environment)
        except ConfigError as error:
            place = places.where(("models", index, field))
            found.errors.append(ConfigError(error.message, *place))
            continue
        if text is not None:
            keys[model.name] = text
    found.raise_any()
    for model in config.models:
        if model.api_key_env is not None:
            environment.pop(model.api_key_env, None)
    return keys


def _text(model: ModelConfig, environment: MutableMapping[str, str]) -> str | None:
    """The key of one model; None when it asks for none."""
    if model.api_key_env is not None:
        place = f"The environment variable `{model.api_key_env}`"
        return _checked(environment.get(model.api_key_env, ""), place, model.name)
    return None if model.api_key_file is None else engine_key_in_file(model)


def engine_key_in_file(model: ModelConfig) -> str:
    """The key of a model that has `api_key_file`. Raises ConfigError when there is none in it."""
    assert model.api_key_file is not None, "the model has a file for its key"
    place = f"The file {model.api_key_file}"
    return _checked(_read(model.api_key_file, place, model.name), place, model.name)


def _checked(text: str, place: str, model: str) -> str:
    text = text.rstrip("\r\n")
    if not text:
        raise ConfigError(
            f"{place} should hold the key of the engines of the model `{model}`, but it is "
            "empty or not there. Put the key there before the start."
        )
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ConfigError(
            f"{place} does not hold a key that a header could carry: it has a space around it, a "
            "second line, or letters beyond ASCII. Write the key alone."
        )
    return text


def _read(name: str, place: str, model: str) -> str:
    try:
        return plain_files.read_text(name)
    except OSError as error:
        raise ConfigError(
            f"{place} with the key of the engines of the model `{model}` cannot be read: "
            f"{error.strerror}. Check its path and rights."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place} is not text. Write the key alone on one line.") from error


def check_tls_files(server: ServerConfig, places: Places) -> None:
    """Raises ConfigError when a file for TLS cannot be read.

    The data plane checks what is in them.
    """
    found = MistakesFound()
    for name in ("tls_certificate", "tls_key"):
        with found.here():
            read_tls_file(server, name, places)
    found.raise_any()


def read_tls_file(server: ServerConfig, name: str, places: Places) -> bytes | None:
    """The content of the file that a setting names; None: it names none. Raises ConfigError."""
    path: Path | None = getattr(server, name)
    if path is None:
        return None
    try:
        return plain_files.read_bytes(path, pipes=False)  # the data plane reads it again
    except OSError as error:
        raise ConfigError(
            f"The file {path} of `{name}` cannot be read: {error.strerror}. Check its path and "
            "rights.",
            *places.where(("server", name)),
        ) from error
