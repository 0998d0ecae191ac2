"""Environments of engines that are none: their package runs the fake engine."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

MODULES = {
    "vllm": ("vllm/entrypoints/cli/main.py", "vllm", "0.32.0+cpu"),
    "tensorrt_llm": ("tensorrt_llm/commands/serve.py", "tensorrt-llm", "1.2.1"),
}
"""The module that a backend runs, the package's name and its version."""
MAIN = """
from managed_engine import main

if __name__ == "__main__":
    main({kind!r})
"""


def make(folder: Path, kind: str, version: str | None = None) -> Path:
    """Makes an environment with an engine of this kind; returns its interpreter."""
    module, package, usual = MODULES[kind]
    version = version or usual
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(os.path.realpath(sys.executable))
    home = Path(os.path.realpath(sys.executable)).parent
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    file = site / module
    file.parent.mkdir(parents=True)
    file.write_text(MAIN.format(kind=kind))
    # The fake engine, and what it imports.
    paths = [str(Path(__file__).parent), sysconfig.get_paths()["purelib"]]
    (site / "made_up.pth").write_text("\n".join(paths) + "\n")
    facts = site / f"{package.replace('-', '_')}-{version}.dist-info" / "METADATA"
    facts.parent.mkdir()
    facts.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return python
