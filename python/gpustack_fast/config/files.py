"""The files that a configuration names, looked at without starting anything.

`serve` finds out by itself; this is for `check`, on the machine that will serve.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gpustack_fast import plain_files
from gpustack_fast.backends import BACKENDS
from gpustack_fast.config.reading.toml_lines import Places
from gpustack_fast.config.rules.demands import check_demands
from gpustack_fast.config.schema import AdapterConfig, Config, KeyPath, ModelConfig
from gpustack_fast.config.secrets import engine_key_in_file, read_tls_file
from gpustack_fast.config.server import ServerConfig
from gpustack_fast.errors import ConfigError, GpustackFastError, MistakesFound, printable
from gpustack_fast.sizing import UNKNOWN, FactsError, missing_weights, read_facts

__all__ = ["check_files"]


Loader = Callable[[ServerConfig], str | None]
"""Tries the files for TLS as `serve` does, and gives what is to be said of them; None: nothing.
Raises GpustackFastError.
"""


def check_files(config: Config, places: Places, load_tls: Loader) -> str | None:
    """Raises ConfigError for files that are not there, cannot be read, or hold something else.

    Returns what `load_tls` gives; None where there is no TLS.
    """
    found, warning = MistakesFound(), None
    for name in ("data_dir", "models_dir"):
        with found.here():
            _check_folder(config.server, name, places)
    with found.here():
        warning = _check_tls(config.server, places, load_tls)
    for index, model in enumerate(config.models):
        with found.here():
            _check_engine_key(index, model, places)
        with found.here():
            _check_model_file(index, model, places)
            _check_content(index, model, places)
        with found.here():
            _check_python(index, model, places)
        for number, adapter in enumerate(model.lora_list):
            with found.here():
                _check_adapter(("models", index, "lora_list", number), adapter, places)
    found.raise_any()
    return warning


def _check_folder(server: ServerConfig, name: str, places: Places) -> None:
    folder = getattr(server, name)
    if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(
            f"`{name}` is {folder}, which is a file and no directory. Choose another, or move the "
            "file away.",
            *places.where(("server", name)),
        )


def _check_engine_key(index: int, model: ModelConfig, places: Places) -> None:
    if model.api_key_file is not None:
        try:
            engine_key_in_file(model)
        except ConfigError as error:
            place = places.where(("models", index, "api_key_file"))
            raise ConfigError(error.message, *place) from error


def _check_model_file(index: int, model: ModelConfig, places: Places) -> None:
    path = model.local_path
    if path is None:
        return
    folder_fits = model.backend not in ("llama_cpp", "external")  # also of a backend that is none
    kind = "file or folder" if folder_fits else "file"
    if folder_fits and os.path.isdir(path) and os.access(path, os.R_OK):
        return
    if not (os.path.exists(path) and os.access(path, os.R_OK)):
        raise ConfigError(
            f"The {kind} {path} of the model `{model.name}` is not there, or this user may not "
            f"read it. Correct `local_path`, or the rights of the {kind}.",
            *places.where(("models", index, "local_path")),
        )
    if problem := plain_files.problem_of(path):
        raise ConfigError(
            f"The {kind} {path} of the model `{model.name}` cannot be read: {problem}. Correct "
            "`local_path`.",
            *places.where(("models", index, "local_path")),
        )


def _check_content(index: int, model: ModelConfig, places: Places) -> None:
    """What a start finds out before it looks for GPUs: whether the files can be read, and whether
    the settings fit this model. After `_check_model_file`.
    """
    backend = BACKENDS.get(model.backend)
    if model.local_path is None or backend is None or backend.demands is None:
        return
    path: KeyPath = ("models", index)
    try:
        facts = read_facts(Path(model.local_path))
    except FactsError as error:
        if not backend.any_files:
            raise ConfigError(str(error), *places.where((*path, "local_path"))) from error
        facts = UNKNOWN
    if facts.format == "safetensors" and (missing := missing_weights(Path(model.local_path))):
        raise ConfigError(
            f"The folder {model.local_path} of the model `{model.name}` lacks "
            f"{printable(missing)}, which its index of weights names. Fetch it again.",
            *places.where((*path, "local_path")),
        )
    if check_demands(path, model, backend) is not None:
        return  # which was told without its files
    if (problem := check_demands(path, model, backend, facts)) is not None:
        raise ConfigError(problem.message, *_around(places, problem.path))


def _check_python(index: int, model: ModelConfig, places: Places) -> None:
    path = model.python
    if path is not None and not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise ConfigError(
            f"The interpreter {path} of the model `{model.name}` is not there, or this user may "
            "not run it. Name that of the engine's environment, such as `/opt/engine/bin/python`.",
            *places.where(("models", index, "python")),
        )


def _check_adapter(path: KeyPath, adapter: AdapterConfig, places: Places) -> None:
    folder = adapter.local_path
    if folder is None:
        return
    file = os.path.join(folder, "adapter_config.json")
    if not (os.path.isfile(file) and os.access(file, os.R_OK)):
        raise ConfigError(
            f"The folder {folder} of the adapter `{adapter.lora_name}` has no adapter_config.json "
            "that this user may read. Name the folder of an adapter (LoRA) in the form of PEFT.",
            *_around(places, (*path, "local_path")),
        )


def _around(places: Places, path: KeyPath) -> tuple[Path | None, int | None]:
    """The place of a value that may stand inside a table of one line. No flag lies over a model."""
    return places.file, places.find_line(path)


def _check_tls(server: ServerConfig, places: Places, load_tls: Loader) -> str | None:
    """What people mix up has words of its own; all else is for the loader of `serve` to say."""
    found = MistakesFound()
    for name, problem_of in _TLS_PROBLEMS.items():
        with found.here():
            content = read_tls_file(server, name, places)
            problem = None if content is None else problem_of(getattr(server, name), content)
            if problem is not None:
                raise ConfigError(problem, *places.where(("server", name)))
    found.raise_any()
    if server.tls_certificate is None or server.tls_key is None:
        return None
    try:
        return load_tls(server)
    except GpustackFastError as error:
        told = str(error)
        # What names both is told of the key, which people mix up more often.
        of_certificate = str(server.tls_certificate) in told and str(server.tls_key) not in told
        name = "tls_certificate" if of_certificate else "tls_key"
        raise ConfigError(told, *places.where(("server", name))) from error


def _certificate_problem(path: Path, content: bytes) -> str | None:
    if b"-----BEGIN CERTIFICATE-----" in content:
        return None
    return (
        f"The file {path} of `tls_certificate` holds no certificate in PEM form. Name the one that "
        "begins with `-----BEGIN CERTIFICATE-----`."
    )


def _key_problem(path: Path, content: bytes) -> str | None:
    if b"ENCRYPTED" in content:
        return (
            f"The private key in {path} has a password, which nobody could type at a start. Write "
            "it without one, as with `openssl pkey -in FILE -out NEW`."
        )
    if b"PRIVATE KEY-----" not in content:
        return (
            f"The file {path} of `tls_key` holds no private key in PEM form. Name the one that "
            "begins with `-----BEGIN PRIVATE KEY-----`."
        )
    return None


_TLS_PROBLEMS: dict[str, Callable[[Path, bytes], str | None]] = {
    "tls_certificate": _certificate_problem,
    "tls_key": _key_problem,
}
