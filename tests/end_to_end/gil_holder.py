"""Runs `gpustack-fast` with a thread that holds the GIL for as long as a test wants.

    python gil_holder.py FOLDER serve --config ...

It begins when the file FOLDER/hold appears, writes FOLDER/held just before, and FOLDER/released
just after. It ends when somebody opens the pipe FOLDER/release for writing.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

from gpustack_fast.commands.parser import main


def hold(folder: Path) -> None:
    """`PyDLL` calls C without letting the GIL go, as a badly behaved extension does."""
    libc = ctypes.PyDLL(None)
    while not (folder / "hold").exists():
        time.sleep(0.01)
    (folder / "held").touch()
    libc.open(os.fsencode(folder / "release"), os.O_RDONLY)
    (folder / "released").touch()


if __name__ == "__main__":
    threading.Thread(target=hold, args=(Path(sys.argv.pop(1)),), daemon=True).start()
    sys.exit(main())
