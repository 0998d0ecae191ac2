"""The files of models, for their engines: what they say, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.preparer import Report
from gpustack_fast.faults import run_in_thread
from gpustack_fast.model_store.documents import Download
from gpustack_fast.model_store.store import Store
from gpustack_fast.sizing import FactsError, ModelFacts, read_facts

__all__ = ["ModelFiles"]


class ModelFiles:
    """Those of a store, and those that the configuration names; see `preparer.Files`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def facts(self, model: ModelConfig) -> ModelFacts | None:
        try:
            return await self._read(model)
        except FactsError:
            # Whoever has fetched a file whole takes its beginning away, which this may have read.
            return await self._read(model)

    async def _read(self, model: ModelConfig) -> ModelFacts | None:
        found = await self._store.inspect(model)
        if found is None:
            return None
        return await run_in_thread(read_facts, found.folder, found.filename, found.sizes)

    async def fetch(self, model: ModelConfig, report: Report) -> Path | None:
        return await self._store.fetch(model, lambda download: report(sentence(download)))

    async def adapters(self, model: ModelConfig, report: Report) -> Mapping[str, Path]:
        return await self._store.adapters(model, lambda download: report(sentence(download)))


def sentence(download: Download) -> str:
    """How far a download is: `Qwen/Qwen3-8B: 3.2 of 15.3 GiB (21 %).`"""
    found = list[str]()
    if download.total:
        unit, name = (2**30, "GiB") if download.total >= 2**30 else (2**20, "MiB")
        digits = 1 if name == "GiB" else 0
        done, total = download.done / unit, download.total / unit
        share = 100 * download.done // download.total
        found.append(f"{done:.{digits}f} of {total:.{digits}f} {name} ({share} %)")
    if download.note:
        found.append(download.note)
    return f"{download.repository}: {'; '.join(found) or 'its files are looked up'}."
