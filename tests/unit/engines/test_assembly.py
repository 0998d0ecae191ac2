"""What runs engines, put together."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import uvloop
from small_environments import TinyEngine

from gpustack_fast.config import ModelConfig
from gpustack_fast.engines.assembly import Engines
from gpustack_fast.engines.history import History
from gpustack_fast.engines.sights import Activity
from gpustack_fast.faults import Faults
from gpustack_fast.storage.engine_paths import EnginePaths


def test_how_far_a_build_is_is_in_the_log_and_shown_to_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gpustack_fast")
    tiny = TinyEngine(tmp_path, monkeypatch)

    async def scenario() -> None:
        engines = Engines(
            tiny.data,
            tmp_path / "models",
            EnginePaths(tmp_path),
            Faults(),
            on_change=lambda: None,
            activity=Activity,
            in_flight=lambda _: 0,
            drain_timeout=lambda: 0.0,
            history=History(),
        )
        model = ModelConfig(name="m", backend="tiny_engine")
        found = await engines._environment(model, False, tiny.lines.append)
        assert found.version == "1.0"
        await engines.shutdown(0.0)

    uvloop.run(scenario())
    assert tiny.lines[0].startswith("Building the environment of tiny_engine 1.0 (cpu)")
    assert tiny.lines[-1].startswith("tiny_engine 1.0 (cpu) is ready after ")
    assert tiny.lines == caplog.messages
