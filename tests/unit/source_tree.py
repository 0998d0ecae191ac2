"""A small Cargo workspace and Python package on the disk, for the tests of scripts/layout."""

from __future__ import annotations

from pathlib import Path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_crate(root: Path, folder: str, name: str, files: dict[str, str]) -> None:
    """`files` below `src`; an empty lib.rs where none is given."""
    manifest = f'[package]\nname = "{name}"\n'
    write(
        root / folder,
        {
            "Cargo.toml": manifest,
            "src/lib.rs": "",
            **{f"src/{path}": files[path] for path in files},
        },
    )
