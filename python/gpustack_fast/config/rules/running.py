"""Rules of how a model of ours is run: environment, command, repository, GPUs, adapters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from gpustack_fast.backends import Backend
from gpustack_fast.config.rules.broken import RuleBroken
from gpustack_fast.config.schema import NAME_PATTERN, AdapterConfig, KeyPath, ModelConfig
from gpustack_fast.config.sentences import listed, quoted

__all__ = ["check_adapter_routes", "check_running"]

_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!_-]{0,63}", re.ASCII)
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?", re.ASCII)
_LONGEST_REPOSITORY = 200
_LONGEST_NAME = 200
_GPU = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/_-]{1,128}|(?:[^:\s]+:cuda:)?\d{1,3}", re.ASCII)
_FILES = {"huggingface_filename": "huggingface", "model_scope_file_path": "model_scope"}
_REPOSITORIES = ("huggingface_repo_id", "model_scope_model_id")


def check_running(path: KeyPath, model: ModelConfig, backend: Backend) -> Iterator[RuleBroken]:
    """Every rule of these fields that does not hold. `backend`: the model's."""
    yield from _check_environment(path, model, backend)
    yield from _check_repository(path, model)
    yield from _check_gpus(path, model, backend)
    yield from _check_adapters(path, model, backend)
    for name in backend.variables:
        if name in model.env:
            advice = " Write `gpu_selector` to choose GPUs." if name.startswith("CUDA_") else ""
            yield RuleBroken(
                (*path, "env", name),
                f"The server itself decides the variable `{name}` of the model `{model.name}`. "
                f"Remove it.{advice}",
            )
    if backend.check_fields is not None:
        for name, problem in backend.check_fields(model):
            lacks = path if getattr(model, name) is None else None
            yield RuleBroken(path if lacks else (*path, name), problem, lacks=lacks)


def _check_environment(path: KeyPath, model: ModelConfig, backend: Backend) -> Iterator[RuleBroken]:
    if model.backend_version is not None and not _VERSION.fullmatch(model.backend_version):
        yield RuleBroken(
            (*path, "backend_version"),
            f"{quoted(model.backend_version)} is no version. Write one such as `0.32.0`.",
        )
    python = model.python
    if python is None and backend.environment == "users":
        yield RuleBroken(
            path,
            f"The model `{model.name}` has no `python`: this server makes no environment for "
            f"`{backend.name}`. Make one, and name its interpreter, as in `python = "
            '"/opt/engine/bin/python"`.',
            lacks=path,
        )
    elif python is not None and ("\0" in python or not python.startswith("/")):
        yield RuleBroken(
            (*path, "python"),
            f"{quoted(python)} is no absolute path. Write the whole path of the interpreter of "
            "the engine's environment, as in `/opt/engine/bin/python`.",
        )
    takes_command = backend.name == "custom"
    if model.run_command is not None and not takes_command:
        yield RuleBroken(
            (*path, "run_command"),
            f"`run_command` has no meaning for the model `{model.name}` with backend "
            f'`{model.backend}`. Write `backend = "custom"`, or remove it and use '
            "`backend_parameters`.",
        )


def _check_repository(path: KeyPath, model: ModelConfig) -> Iterator[RuleBroken]:
    for name in _REPOSITORIES:
        value = getattr(model, name)
        if value and not _is_repository(value):
            yield RuleBroken((*path, name), _no_repository(value))
    for name, source in _FILES.items():
        value = getattr(model, name)
        if value is None:
            continue
        if model.source is not None and model.source != source:
            yield RuleBroken(
                (*path, name),
                f'`{name}` belongs to `source = "{source}"`, but the model `{model.name}` has '
                f'`source = "{model.source}"`. Remove one of the two.',
            )
        if not _is_inside(value):
            yield RuleBroken(
                (*path, name),
                f"{quoted(value)} is no file of a repository. Write its path there, such as "
                "`model-Q4_K_M.gguf`.",
            )


def _is_repository(value: str) -> bool:
    fits = len(value) <= _LONGEST_REPOSITORY and _REPOSITORY.fullmatch(value)
    return bool(fits) and ".." not in value


def _no_repository(value: str) -> str:
    return (
        f"{quoted(value)} is no repository. Write it as `owner/name`, or with a revision as "
        "`owner/name@main`."
    )


def _is_inside(value: str) -> bool:
    path = PurePosixPath(value)
    return bool(value and "\0" not in value and not path.is_absolute() and ".." not in path.parts)


def _check_gpus(path: KeyPath, model: ModelConfig, backend: Backend) -> Iterator[RuleBroken]:
    selector = model.gpu_selector
    if selector is None:
        return
    if backend.demands is None:
        yield RuleBroken(
            (*path, "gpu_selector"),
            f"`gpu_selector` has no meaning for the model `{model.name}`: the backend "
            f"`{model.backend}` runs without GPUs here. Remove it.",
        )
    for index, name in enumerate(selector.gpu_ids):
        here = (*path, "gpu_selector", "gpu_ids", index)
        if not _GPU.fullmatch(name):
            yield RuleBroken(
                here,
                f"{quoted(name)} is no GPU. Write its number or its UUID, as `gpustack-fast gpus` "
                "shows them, or GPUStack's `<worker>:cuda:0`.",
            )
        elif name in selector.gpu_ids[:index]:
            yield RuleBroken(here, f"{quoted(name)} stands twice in `gpu_ids`. Remove one of them.")
    wanted = selector.gpus_per_replica
    if selector.gpu_ids and wanted is not None and wanted > len(selector.gpu_ids):
        yield RuleBroken(
            (*path, "gpu_selector", "gpus_per_replica"),
            f"Each replica of the model `{model.name}` is to have {wanted} GPUs, but `gpu_ids` "
            f"names only {len(selector.gpu_ids)}. Correct one of the two.",
        )


def _check_adapters(path: KeyPath, model: ModelConfig, backend: Backend) -> Iterator[RuleBroken]:
    if model.lora_list and not backend.takes_adapters:
        yield RuleBroken(
            (*path, "lora_list"),
            f"The backend `{model.backend}` of the model `{model.name}` serves no adapters. Use "
            "`vllm` or `sglang`, or remove `lora_list`.",
        )
    names = [adapter.lora_name for adapter in model.lora_list]
    for index, adapter in enumerate(model.lora_list):
        here: KeyPath = (*path, "lora_list", index)
        name, route = adapter.lora_name, f"{model.name}:{adapter.lora_name}"
        if len(route) > _LONGEST_NAME or not NAME_PATTERN.fullmatch(route):
            yield RuleBroken(
                (*here, "lora_name"),
                f"The adapter {quoted(name)} would have the route {quoted(route)}, which cannot be "
                "a name. Use letters, digits and `_ - .`, and end with a letter or a digit.",
            )
        elif name in names[:index]:
            yield RuleBroken(
                (*here, "lora_name"),
                f"Two adapters of the model `{model.name}` are called {quoted(name)}. Give one of "
                "them another name.",
            )
        elif name == model.name:
            yield RuleBroken(
                (*here, "lora_name"),
                f"The adapter {quoted(name)} is called as its model, so that the engine could not "
                "tell them apart. Give it another name.",
            )
        yield from _check_adapter_source(here, adapter)


def _check_adapter_source(path: KeyPath, adapter: AdapterConfig) -> Iterator[RuleBroken]:
    written = [
        name
        for name in ("lora_repo_name", "huggingface_repo_id", "model_scope_model_id", "local_path")
        if getattr(adapter, name) is not None
    ]
    local = adapter.loaded_from == "local_path"
    fitting = {
        "local_path": ["local_path"],
        "huggingface": ["lora_repo_name", "huggingface_repo_id"],
        "model_scope": ["lora_repo_name", "model_scope_model_id"],
    }[adapter.loaded_from]
    if not written:
        yield RuleBroken(
            path,
            f"The adapter {quoted(adapter.lora_name)} does not say where it comes from. Add "
            '`local_path = "..."` or `lora_repo_name = "owner/name"`.',
            lacks=path,
        )
    elif len(written) > 1:
        both = " and ".join(f"`{one}`" for one in written)
        yield RuleBroken(
            path,
            f"The adapter {quoted(adapter.lora_name)} has {both}, each of which says where it "
            "comes from. Keep one of them.",
        )
    elif written[0] not in fitting:
        yield RuleBroken(
            path,
            f"The adapter {quoted(adapter.lora_name)} has `{written[0]}`, which does not belong to "
            f'`source = "{adapter.loaded_from}"`. Write {listed(fitting)} instead, or another '
            "`source`.",
        )
    elif local:
        if not adapter.local_path or "\0" in adapter.local_path:
            yield RuleBroken(
                (*path, "local_path"), "`local_path` is no path of a folder. Correct it."
            )
    elif not _is_repository(adapter.repository or ""):
        yield RuleBroken((*path, written[0]), _no_repository(str(adapter.repository)))


def check_adapter_routes(models: list[ModelConfig]) -> Iterator[RuleBroken]:
    """No adapter's route has the name of a model, or of another model's adapter."""
    taken = {model.name for model in models}
    for index, model in enumerate(models):
        for number, adapter in enumerate(model.lora_list):
            route = f"{model.name}:{adapter.lora_name}"
            same_model = [f"{model.name}:{one.lora_name}" for one in model.lora_list[:number]]
            if route in taken and route not in same_model:
                yield RuleBroken(
                    ("models", index, "lora_list", number, "lora_name"),
                    f"The route {quoted(route)} of an adapter has the name of another model or "
                    "adapter. Rename one of the two.",
                )
            taken.add(route)
