"""Measures what an open stream costs the data plane in memory: KB of its resident set.

Streams are opened one after the other; each has had a frame, and then its engine is silent. The
figure is the difference of the resident set between none and all of them, divided by their number;
a first round has filled what the allocator keeps.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

from lock_step import STREAMED, TOKEN, Line, request
from plane_documents import configuration, keys, table

PLANE = Path(__file__).resolve().parent.parent / "target" / "release" / "plane"


def resident(pid: int) -> int:
    """The resident set, in KB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError("The system does not say the resident set.")


def main() -> int:
    """Prints the figure. Needs a release build of bench/plane, as `make count` makes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    count = parser.parse_args().streams
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if not PLANE.exists():
        print("There is no release build. Run `make count` first.", file=sys.stderr)
        return 2
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        settings = configuration()
        settings["limits"]["connections"] = 2 * count
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        documents = [settings, keys(), table(address)]
        process = subprocess.Popen(
            [str(PLANE), *(json.dumps(document) for document in documents)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            started = json.loads(process.stdout.readline())["addresses"][0]
            host, _, port = started.rpartition(":")
            rounds = [measured(process.pid, listener, (host, int(port)), count) for _ in range(2)]
        finally:
            process.stdin.close()
            process.wait(60)
    for name, (before, after) in zip(("first round", "second round"), rounds, strict=True):
        each = (after - before) / count
        print(f"{name}: {before} KB without a stream, {after} KB with {count}: {each:.1f} KB each")
    print(f"From the first stream on: {(rounds[1][1] - rounds[0][0]) / count:.1f} KB each")
    return 0


def measured(
    pid: int, listener: socket.socket, address: tuple[str, int], count: int
) -> tuple[int, int]:
    """The resident set before and with so many streams."""
    before = resident(pid)
    lines = []
    for _ in range(count):
        client = Line(socket.create_connection(address))
        client.send(request(stream=True))
        engine = Line(listener.accept()[0])
        engine.message()
        engine.send(STREAMED + TOKEN)
        client.until(b"}\n\n\r\n")
        lines += [client, engine]
    time.sleep(1.0)
    after = resident(pid)
    for line in lines:
        line.connection.close()
    time.sleep(1.0)
    return before, after


if __name__ == "__main__":
    sys.exit(main())
