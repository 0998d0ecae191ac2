"""What a change of each field of a model comes to: another engine process, or none. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from gpustack_fast.config.schema import ModelConfig

__all__ = ["OF_THE_PROCESS", "OF_THE_ROUTE", "differing", "makes_same_process", "spec_digest"]

OF_THE_ROUTE = (
    "categories",
    "generic_proxy",
    "access_policy",
    "allowed_keys",
    "meta",
)
"""About its own route."""

OF_THE_PROCESS = (
    "backend",
    "categories",
    "source",
    "python_package",
    "local_path",
    "huggingface_repo_id",
    "huggingface_filename",
    "model_scope_model_id",
    "model_scope_file_path",
    "lora_list",
    "backend_version",
    "python",
    "run_command",
    "placement_strategy",
    "gpu_selector",
    "sleep_level",
    "backend_parameters",
    "env",
)
"""What an engine of ours is made of, and where it is placed: another value is another engine. All
other fields hold for the engines that run, or are of engines that somebody else runs.
"""


def spec_digest(model: ModelConfig) -> str:
    """SHA-256, in hex, of all that makes the engines of a model of ours."""
    # Without those that nobody has set: a version that knows more fields finds the same.
    unset = ModelConfig(name=model.name, backend="")
    made_of = {
        name: getattr(model, name)
        for name in OF_THE_PROCESS
        if getattr(model, name) != getattr(unset, name)
    }
    return hashlib.sha256(msgspec.json.encode(made_of, order="deterministic")).hexdigest()


def makes_same_process(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether an engine of one is an engine of the other, too."""
    return all(getattr(one, name) == getattr(other, name) for name in OF_THE_PROCESS)


def differing(one: ModelConfig, other: ModelConfig) -> list[str]:
    """The fields that have other values, without those that only its own route has."""
    return [
        name
        for name in ModelConfig.__struct_fields__
        if getattr(one, name) != getattr(other, name)
        and (name in OF_THE_PROCESS or name not in OF_THE_ROUTE)
    ]
