"""`gpustack-fast`, which is also `python -m gpustack_fast`: what comes before the first import."""

import contextlib
import os
import signal
import sys
from types import FrameType

STOPS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGABRT,
    signal.SIGXCPU,
    signal.SIGPWR,
)
"""The signals that ask a server for its stop, and end everything else (`signals.ASKS`)."""


def main() -> int:
    """Runs the command line, and returns its exit status."""
    if os.getpid() == 1:
        # The kernel passes no signal to process 1 whose action is the default: a container that
        # is stopped while its server starts would go on starting, and be killed in the end.
        for number in STOPS:
            signal.signal(number, _end)
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends this process without a traceback, also in the middle of an import. A server
        # has a handler of its own from the moment there is something to stop.
        is_server = sys.argv[1:2] == ["serve"]
        signal.signal(signal.SIGINT, _end_early if is_server else signal.SIG_DFL)
    _speak_utf8()
    from gpustack_fast.commands.parser import main as run

    try:
        return run()
    except KeyboardInterrupt:
        # An event loop that has ended gives Ctrl-C back to Python.
        return 128 + signal.SIGINT


def _end(number: int, _: FrameType | None) -> None:
    """Does what the default would: ends without a word."""
    os._exit(128 + number)


def _end_early(number: int, frame: FrameType | None) -> None:
    """Ends a server that has not begun, with a line: its later end has one, too."""
    signal.signal(number, signal.SIG_DFL)  # for the line may wait for its reader
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted before the server had started; nothing runs.\n")
    _end(number, frame)


def _speak_utf8() -> None:
    """Begins anew in Python's UTF-8 mode, where the locale has another encoding.

    The configuration and whatever crosses to the data plane are UTF-8, and so are the names of
    files in practically every file system, whatever the locale says.
    """
    if sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"  # for engines, too
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
