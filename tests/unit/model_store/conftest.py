"""Fixtures: a stand-in hub, and a store on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_store import FILES, House

from hub import Hub, Repo, running


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as one:
        one.repos["org/tiny"] = Repo(dict(FILES))
        yield one


@pytest.fixture
def house(hub: Hub, tmp_path: Path) -> Iterator[House]:
    one = House(hub, tmp_path / "models")
    yield one
    one.store.close()
