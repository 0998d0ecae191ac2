"""The files that a configuration names, looked at without starting anything.

`serve` finds out by itself; this is for `check`, on the machine that will serve.
"""

from __future__ import annotations

import os
from pathlib import Path

from gpustack_fast.config.reading.file import where
from gpustack_fast.config.schema import Config, ModelConfig
from gpustack_fast.config.secrets import check_tls_files, engine_key_in_file
from gpustack_fast.config.server import ServerConfig
from gpustack_fast.errors import ConfigError, MistakesFound

__all__ = ["check_files"]


def check_files(config: Config, file: Path | None) -> None:
    """Raises ConfigError for files that are not there, cannot be read, or hold something else.

    `file` is the configuration's, for errors.
    """
    found = MistakesFound()
    with found.here():
        _check_data_dir(config.server, file)
    with found.here():
        check_tls_files(config.server, file)
        _check_tls_content(config.server, file)
    for index, model in enumerate(config.models):
        with found.here():
            _check_model(index, model, file)
    found.raise_any()


def _check_data_dir(server: ServerConfig, file: Path | None) -> None:
    if os.path.exists(server.data_dir) and not os.path.isdir(server.data_dir):
        raise ConfigError(
            f"`data_dir` is {server.data_dir}, which is a file and no directory. Choose another, "
            "or move the file away.",
            *where(file, ("server", "data_dir")),
        )


def _check_model(index: int, model: ModelConfig, file: Path | None) -> None:
    if model.api_key_file is not None:
        try:
            engine_key_in_file(model)
        except ConfigError as error:
            place = where(file, ("models", index, "api_key_file"))
            raise ConfigError(error.message, *place) from error
    path = model.local_path
    if path is not None and not (os.path.isfile(path) and os.access(path, os.R_OK)):
        raise ConfigError(
            f"The file {path} of the model `{model.name}` is not there, or this user may not read "
            "it. Correct `local_path`, or the rights of the file.",
            *where(file, ("models", index, "local_path")),
        )


def _check_tls_content(server: ServerConfig, file: Path | None) -> None:
    """What is certainly wrong: no PEM, a key with a password, a key of another certificate."""
    if server.tls_certificate is None or server.tls_key is None:
        return
    problems = {
        "tls_certificate": _certificate_problem(server.tls_certificate),
        "tls_key": _key_problem(server.tls_key),
    }
    if not any(problems.values()) and not _belong_together(server.tls_certificate, server.tls_key):
        problems["tls_key"] = (
            f"The private key in {server.tls_key} is not that of the certificate in "
            f"{server.tls_certificate}. Name the two that were made together; the server's own "
            "certificate comes first in its file."
        )
    found = MistakesFound()
    for name, problem in problems.items():
        if problem is not None:
            found.errors.append(ConfigError(problem, *where(file, ("server", name))))
    found.raise_any()


def _certificate_problem(path: Path) -> str | None:
    if b"-----BEGIN CERTIFICATE-----" in path.read_bytes():
        return None
    return (
        f"The file {path} of `tls_certificate` holds no certificate in PEM form. Name the one that "
        "begins with `-----BEGIN CERTIFICATE-----`."
    )


def _key_problem(path: Path) -> str | None:
    content = path.read_bytes()
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


def _belong_together(certificate: Path, key: Path) -> bool:
    """False only where OpenSSL knows that they do not: the rest is for the data plane to say."""
    import ssl  # 20 ms, which only a configuration with TLS needs

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        return error.reason != "KEY_VALUES_MISMATCH"
    return True
