"""Scripts in vLLM's environment, which ask it something without an engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from harness import stop
from vllm_engine import HOME

SCRIPTS = Path(__file__).parent / "vllm" / "vllm_scripts.py"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CACHE_ROOT": str(HOME / "cache"),
    "VLLM_DISABLE_LOG_LOGO": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class VllmPython:
    """An interpreter of vLLM's environment that runs scripts. No engine runs in it."""

    def __init__(self, folder: Path) -> None:
        python = HOME / "venv" / "bin" / "python"
        assert python.exists(), (
            f"There is no vLLM at {python}. `make test-vllm` sets it up and runs these tests."
        )
        self.output, self.log = folder / "output", folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), str(SCRIPTS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **ENVIRONMENT},
                text=True,
            )

    def run(self, script: Path, *arguments: str) -> str:
        """What a script writes, with these arguments. Fails the test when the script fails."""
        assert self.process.stdin is not None and self.process.stdout is not None
        command = json.dumps([str(self.output), str(script), *arguments])
        print(command, file=self.process.stdin, flush=True)
        code = self.process.stdout.readline().strip()
        assert code == "0", f"It ended with {code}:\n{self.log.read_text(errors='replace')[-8000:]}"
        return self.output.read_text()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # It ends when nothing more comes.
        stop(self.process)
