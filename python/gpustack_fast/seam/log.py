"""Python's part of the log: records of `logging` become lines among the data plane's own.

They have the same form and the same writer, which no reader can hold up.
"""

from __future__ import annotations

import logging

from gpustack_fast.config.server import LogFormat, LogLevel
from gpustack_fast.seam.dataplane import flush_log, show, write_log

__all__ = ["announce", "flush", "start_log"]

LEVELS: dict[LogLevel, int] = {
    "off": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": 1,
}
FLUSH_WITHIN = 1.0
"""Seconds that the last lines may take, where nobody reads them."""

_PACKAGE = __package__.partition(".")[0] + "."


def start_log(level: LogLevel, log_format: LogFormat) -> None:
    """Lets all loggers of this process write lines, ours and asyncio's and granian's."""
    logging.basicConfig(level=LEVELS[level], handlers=[LogHandler(log_format)], force=True)


def announce(text: str) -> None:
    """Shows a text to the person at the terminal, whatever the level and the format."""
    show(_whole(text))


def flush() -> None:
    """Lets the last lines out, for a moment."""
    flush_log(FLUSH_WITHIN)


class LogHandler(logging.Handler):
    """Puts records of `logging` into the process's log."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self._json = log_format == "json"
        self._tracebacks = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments do not fit the text
            message = str(record.msg)
        exception = record.exc_info and self._tracebacks.formatException(record.exc_info)
        write_log(
            record.levelno,
            record.name.removeprefix(_PACKAGE).lstrip("_"),
            _whole(message),
            json=self._json,
            request_id=getattr(record, "request_id", None),
            exception=_whole(exception) if exception else None,
        )

    def flush(self) -> None:
        flush()


def _whole(text: str) -> str:
    """Without the halves of characters that stand for odd bytes in the names of files."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
