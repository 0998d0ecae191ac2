"""What an engine was made of, as a digest: what changes it, and what does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpustack_fast.backends import BACKENDS, Backend, Command, Model, Place, Shape
from gpustack_fast.config import ModelConfig
from gpustack_fast.engines import digest
from gpustack_fast.engines.digest import command_digest
from gpustack_fast.engines.prepared import Prepared
from gpustack_fast.placement import Claim, Placement

PREPARED = Prepared(python=Path("/usr/bin/python3"), version="1", devices=("0",))
MODEL = ModelConfig(
    name="m",
    backend="llama_cpp",
    source="python_package",
    python_package="p",
    backend_parameters=["--ctx-size=4096"],
    env={"A": "1", "B": "2"},
)
LLAMA = BACKENDS["llama_cpp"]


def command(_: Model, place: Place) -> Command:
    """One that names all that an instance has for itself."""
    assert place.port is not None
    return Command(
        arguments=[str(place.socket), str(place.port), str(place.folder / "f")],
        environment={"KEY": place.key, "DEVICES": ",".join(place.devices)},
        files={place.folder / "f": f"{place.shape.tensor} {place.share}"},
        links={place.folder / "l": place.files or Path("/nowhere")},
    )


ALL = Backend(name="all", command=command, ready_path="/", check=lambda _: iter(()), over_tcp=True)


def change(**fields: object) -> ModelConfig:
    return replace(MODEL, **fields)


def test_it_is_the_same_again_and_for_each_replica() -> None:
    assert command_digest(LLAMA, MODEL, PREPARED) == command_digest(LLAMA, MODEL, PREPARED)
    assert len(command_digest(LLAMA, MODEL, PREPARED)) == 64
    assert command_digest(ALL, MODEL, PREPARED) == command_digest(ALL, MODEL, PREPARED)


@pytest.mark.parametrize(
    "same",
    [
        {"replicas": 5},
        {"ready_timeout": 1.0, "hang_timeout": 1.0, "max_in_flight": 3},
        {"env": {"B": "2", "A": "1"}},
        {"categories": ["llm"], "access_policy": "public", "meta": {"a": 1}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_makes_no_other_process_does_not_change_it(same: dict[str, object]) -> None:
    assert command_digest(LLAMA, change(**same), PREPARED) == command_digest(LLAMA, MODEL, PREPARED)


@pytest.mark.parametrize(
    "other",
    [{"backend_parameters": ["--ctx-size=8192"]}, {"env": {"A": "1"}}, {"python_package": "q"}],
    ids=lambda fields: next(iter(fields)),
)
def test_flags_variables_and_files_change_it(other: dict[str, object]) -> None:
    assert command_digest(LLAMA, change(**other), PREPARED) != command_digest(
        LLAMA, MODEL, PREPARED
    )


def placed(tensor: int, share: float) -> Placement:
    claims = [Claim(uuid=f"GPU-{number}", bytes=1) for number in range(tensor)]
    return Placement(model="m", number=0, shape=Shape(tensor=tensor), claims=claims, share=share)


@pytest.mark.parametrize(
    "other",
    [
        {"version": "2"},
        {"python": Path("/opt/bin/python")},
        {"devices": ("1",)},
        {"files": Path("/models/other")},
        {"placement": placed(2, 0.5)},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_version_environment_devices_files_and_division_change_it(
    other: dict[str, object],
) -> None:
    changed = dataclasses.replace(PREPARED, **other)  # type: ignore[arg-type]
    both = [
        command_digest(backend, MODEL, one)
        for backend in (LLAMA, ALL)
        for one in (PREPARED, changed)
    ]
    assert both[0] != both[1] or both[2] != both[3]


def test_a_package_that_lies_elsewhere_after_an_upgrade_does_not_change_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def moved(model: Model, place: Place) -> Command:
        made = LLAMA.command(model, place)
        here = str(Path(digest.__file__).parents[1])
        arguments = [one.replace(here, "/opt/other") for one in made.arguments]
        assert arguments != made.arguments
        return dataclasses.replace(made, arguments=arguments)

    before = command_digest(LLAMA, MODEL, PREPARED)
    monkeypatch.setattr(digest, "_PACKAGE", "/opt/other")
    assert command_digest(dataclasses.replace(LLAMA, command=moved), MODEL, PREPARED) == before
