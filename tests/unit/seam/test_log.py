"""Python's records of `logging` become lines among the data plane's, of the same form."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from gpustack_fast.config.server import LogFormat, LogLevel

SPEAK = r"""
import asyncio, logging, sys
from gpustack_fast.seam.log import announce, flush, start_log

start_log(*sys.argv[1:])
log = logging.getLogger("gpustack_fast.engines.plan")
log.debug("one %d", 1)
log.info("two\n\x1b[31mforged \udcff", extra={"request_id": "abc"})
log.warning("three")
logging.getLogger("_granian").error("four")
log.error("wrong %d", "arguments")
try:
    raise ValueError("the cause")
except ValueError:
    logging.getLogger("asyncio").exception("five")
announce("Ready: http://x\n")
flush()
"""
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def speak(level: LogLevel, log_format: LogFormat = "text") -> list[str]:
    """The lines of a process that says something at each level, but for those that greet."""
    command = [sys.executable, "-c", SPEAK, level, log_format]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.endswith("Ready: http://x\n\n") and done.stdout == ""
    return done.stderr.removesuffix("Ready: http://x\n\n").splitlines()


def test_text_lines_have_time_level_and_subject_and_are_one_line_each() -> None:
    lines = speak("trace")
    assert all(
        re.match(rf"{TIME} (ERROR|WARN |INFO |DEBUG|TRACE) [a-z.]+ ", line) for line in lines
    )
    ours = [line.partition(" ")[2] for line in lines if "engines.plan" in line or "granian" in line]
    assert ours == [
        "DEBUG engines.plan one 1",
        r"INFO  engines.plan two\n\u{1b}[31mforged \udcff request_id=abc",
        "WARN  engines.plan three",
        "ERROR granian four",
        "ERROR engines.plan wrong %d",
    ]
    assert "ERROR asyncio five exception=" in lines[-1] and "ValueError: the cause" in lines[-1]


def test_json_lines_are_objects() -> None:
    objects = [json.loads(line) for line in speak("info", "json")]
    assert [(each["level"], each["subject"], each["message"]) for each in objects] == [
        ("INFO", "engines.plan", "two\n\x1b[31mforged \\udcff"),
        ("WARN", "engines.plan", "three"),
        ("ERROR", "granian", "four"),
        ("ERROR", "engines.plan", "wrong %d"),
        ("ERROR", "asyncio", "five"),
    ]
    assert all(re.fullmatch(TIME, each["time"]) for each in objects)
    assert objects[0]["request_id"] == "abc"
    assert objects[-1]["fields"]["exception"].endswith("ValueError: the cause")


@pytest.mark.parametrize(("level", "lines"), [("off", 0), ("error", 3), ("warn", 4), ("info", 5)])
def test_the_level_decides_what_is_written(level: LogLevel, lines: int) -> None:
    assert len(speak(level)) == lines
