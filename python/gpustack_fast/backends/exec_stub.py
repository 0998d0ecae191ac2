"""Writes down who this process is, then becomes the engine.

    python -I -S exec_stub.py RECORD ENGINE [ARGUMENT …]

The server has left a draft of the record beside it (`RECORD.new`), with the engine's key, which is
in no argument list. The record is on disk before the engine runs its first instruction, so that a
server that was killed meanwhile can find it. Run by path; imports nothing of this package.
"""

import json
import os
import sys


def main() -> None:
    record, *command = sys.argv[1:]
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
        boot_id = boot.read().strip()
    # Over itself, and not anew: its place on the disk is taken, which may be full.
    with open(record + ".new", "r+", encoding="ascii") as file:
        draft = file.read()
        # Field 22 of /proc/PID/stat; two lie before the closing parenthesis.
        process = {"pid": os.getpid(), "start_time": int(fields[19]), "boot_id": boot_id}
        file.seek(0)
        whole = json.dumps(json.loads(draft) | process, separators=(",", ":"))
        file.write(whole.ljust(len(draft)))
    os.replace(record + ".new", record)
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"The engine {command[0]} cannot be run: {error.strerror}.", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
