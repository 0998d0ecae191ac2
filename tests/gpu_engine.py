"""An engine that holds memory of its GPUs in the stand-in for their driver, and answers 200.

    python gpu_engine.py PORT GIB [freed-after=SECONDS] [escape]

It books so many GiB on each GPU that it was given. `freed-after`: so long after its end they are
used. `escape`: the memory is that of a child in a session of its own, as MPI's daemon has it.
The standard library alone, for it runs in no environment of ours.
"""

from __future__ import annotations

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from nvml.stand_in import book, visible

GIB = 1 << 30


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"object":"chat.completion","model":"m","choices":[]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    port, size, *orders = sys.argv[1:]
    freed_after = next((float(one.partition("=")[2]) for one in orders if "=" in one), 0.0)
    holder = None
    if "escape" in orders:
        code = "import time; time.sleep(600)"
        holder = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True).pid
    for uuid in visible():
        book(uuid, int(float(size) * GIB), pid=holder, freed_after=freed_after)
    print(f"holds {size} GiB of {visible()}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", int(port)), Answer).serve_forever()


if __name__ == "__main__":
    main()
