"""Where a server has its configuration from, and from where it can be read again."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Callable, MutableMapping
from pathlib import Path

from msgspec import Struct

from gpustack_fast.config.reading.toml_lines import Places
from gpustack_fast.config.schema import Config
from gpustack_fast.config.secrets import check_tls_files, take_engine_keys
from gpustack_fast.config.settings import Loaded
from gpustack_fast.errors import ConfigError

__all__ = ["Reading", "Source"]


class Reading(Struct, frozen=True, kw_only=True):
    """What was read: the configuration, and the secrets that it names."""

    config: Config
    engine_keys: dict[str, str]
    """The keys of the engines of external models, by model."""


class Source:
    """The file, under the flags and the variables of the start, which stay as they were.

    Secrets in files are read each time. Those in variables were taken out of the environment when
    they were read first, and are kept here.
    """

    def __init__(
        self,
        load: Callable[[Path | None], Loaded],
        file: Path | None,
        environment: MutableMapping[str, str] = os.environ,
    ) -> None:
        """`load` reads a file, or without one the embedded default, under flags and variables."""
        self.file = file
        """The one that is read."""
        self.first_file = file
        self._load = load
        self._environment = environment
        self._taken: dict[str, str] = {}

    def read(self) -> Reading:
        """Reads everything anew. It changes nothing, and may be called from any thread.

        Raises ConfigError, with file and line, or Mistakes.
        """
        return self._read(self._load(self.file))

    def read_for_successor(self, *, had_models: bool) -> Reading:
        """As `read`, for a process that takes over from another one, which has models or not.
        Raises ConfigError where every model would be gone, too.
        """
        return self._read_unless_emptied(self.file, had_models)

    def read_again(self, running: Config, file: Path | None = None) -> Reading:
        """As `read`, for a reload; of another `file`, if one is named. Raises ConfigError where
        every model would be gone, too.
        """
        return self._read_unless_emptied(file or self.file, bool(running.models))

    def _read_unless_emptied(self, file: Path | None, had_models: bool) -> Reading:
        loaded = self._load(file)
        reading = self._read(loaded)
        _check_not_emptied(had_models, reading.config, loaded.places)
        return reading

    def _read(self, loaded: Loaded) -> Reading:
        config, found, keys = loaded.config, loaded.mistakes, dict[str, str]()
        # The first map takes what is taken out.
        environment = ChainMap({}, self._taken, self._environment)
        with found.here():
            keys = take_engine_keys(config, environment, loaded.places)
        with found.here():
            check_tls_files(config.server, loaded.places)
        found.raise_any()
        return Reading(config=config, engine_keys=keys)

    def take(self, config: Config, file: Path | None = None) -> None:
        """Takes the variables with engines' keys out of the environment: our engines inherit it.
        From now on this `file` is read, if one is named.
        """
        self.file = file or self.file
        for model in config.models:
            name = model.api_key_env
            if name is not None and name in self._environment:
                self._taken[name] = self._environment.pop(name)


def _check_not_emptied(had_models: bool, written: Config, places: Places) -> None:
    """A file that is just being written, or was lost, would take every model away from clients."""
    if places.nothing_written:
        raise ConfigError(
            "The file is empty. Write it anew, best beside it and then renamed; or stop the server "
            "and start it with it, if nothing shall be served.",
            places.file,
        )
    if had_models and not written.models:
        raise ConfigError(
            "The file has no model any more, and all of them would be gone at once. Write them "
            "again; or stop the server and start it with it, if nothing shall be served.",
            places.file,
        )
