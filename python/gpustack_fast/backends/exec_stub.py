"""Writes down who this process is, then becomes the engine.

    python -I -S exec_stub.py RECORD SOCKET LOG ENGINE [ARGUMENT …]

The record is on disk before the engine runs its first instruction, so that a server that was killed
meanwhile can find and end it. Run by path; imports nothing of this package.
"""

import json
import os
import sys


def main() -> None:
    record, socket, log, *command = sys.argv[1:]
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
        boot_id = boot.read().strip()
    # Field 22 of /proc/PID/stat; two lie before the closing parenthesis.
    document = {
        "pid": os.getpid(),
        "start_time": int(fields[19]),
        "boot_id": boot_id,
        "socket": socket,
        "log": log,
    }
    with open(record + ".new", "w", encoding="utf-8") as file:
        json.dump(document, file)
    os.replace(record + ".new", record)
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"The engine {command[0]} cannot be run: {error.strerror}.", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
