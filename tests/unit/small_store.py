"""A small model store on a stand-in hub, and a model's settings as it asks for them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpustack_fast.faults import Faults
from gpustack_fast.model_store.documents import Download, ModelStoreError
from gpustack_fast.model_store.repositories import parse
from gpustack_fast.model_store.store import Store
from hub import LARGE, Hub

__all__ = ["FILES", "WEIGHTS", "House", "Model", "children_of", "names", "until", "wait_until"]

WEIGHTS = os.urandom(5 * LARGE)
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": os.urandom(2 * LARGE),
    "README.md": b"about it",
}


class Model(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "m"
    source: str | None = "huggingface"
    local_path: str | None = None
    huggingface_repo_id: str | None = "org/tiny"
    huggingface_filename: str | None = None
    model_scope_model_id: str | None = None
    model_scope_file_path: str | None = None
    lora_list: list[Any] = []
    env: dict[str, str] = {}


class House:
    """A store on a stand-in, and what it reports."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.reports: list[Download] = []
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("HF_")},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder.parent / "home"),
        }
        self.store = Store(folder, Faults(), self.environment)

    def fetch(self, **settings: Any) -> Path:
        found = asyncio.run(self.store.fetch(Model(**settings), self.reports.append))
        assert found is not None
        return found

    def pull(self) -> Path:
        repository = parse("huggingface:org/tiny")
        assert repository is not None
        return asyncio.run(self.store.pull(repository, {}, self.reports.append))

    def fails(self, **settings: Any) -> ModelStoreError:
        with pytest.raises(ModelStoreError) as raised:
            self.fetch(**settings)
        assert "hf_" not in str(raised.value) and "signature" not in str(raised.value)
        return raised.value

    @property
    def repository(self) -> Path:
        return self.folder / "huggingface" / "org--tiny"


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - files and processes tell nobody
        await asyncio.sleep(0.01)


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed]
