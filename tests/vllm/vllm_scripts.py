"""Runs scripts, each in a fork of one interpreter, since vLLM's imports take ten seconds.

    .vllm/venv/bin/python tests/vllm/vllm_scripts.py

Each line of its input is a list in JSON: the file for what a script writes, and its command line.
It answers with the script's exit code.

It runs in vLLM's own environment, never in the project's.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

import vllm.engine.arg_utils
import vllm.entrypoints.launchers.cli_args  # noqa: F401  (what most of the scripts begin with)


def run(output: str, command: list[str]) -> None:
    """The script as the main program of this process."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def main() -> None:
    for line in sys.stdin:
        output, *command = json.loads(line)
        child = os.fork()
        if child == 0:
            run(output, command)
            sys.stdout.flush()
            os._exit(0)  # What an interpreter does at its end would copy all that was imported.
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
