"""An engine of forty lines: gives 200 to its key at every path of a Unix socket, and at `/open` to
anybody; it misbehaves on order.

python small_engine.py SOCKET [--deaf] [--crash] [--never-ready] [--child] [--leave-child]
    [--escape]
"""

import os
import signal
import socket
import subprocess
import sys
import time


def main() -> None:
    path, orders = sys.argv[1], set(sys.argv[2:])
    print("small engine begins", flush=True)
    if "--crash" in orders:
        print("ValueError: the weights are torn", flush=True)
        sys.exit(0)  # as a crashed vLLM does
    if "--deaf" in orders:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if orders & {"--child", "--leave-child"}:
        # A worker as vLLM's: it ignores SIGTERM, watches nobody, and is in its parent's session.
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-S", "-c", code])
        print(f"child {child.pid}", flush=True)
    if "--escape" in orders:
        # As MPI's daemon: in a session of its own.
        code = "import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
        print(f"child {child.pid}", flush=True)
    if "--leave-child" in orders:
        sys.exit(1)
    if "--never-ready" in orders:
        time.sleep(600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                seen = connection.recv(65536)
                key = f"Bearer {os.environ['SMALL_ENGINE_KEY']}".encode()
                status = b"200 OK" if key in seen or b" /open " in seen else b"401 Unauthorized"
                connection.sendall(
                    b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )


if __name__ == "__main__":
    main()
