"""The first start at a terminal, and where the server says that it listens."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

from harness import ENDED_WITHIN, STARTED_WITHIN, FakeEngine, cli, external, stop
from raw_http import Client, eventually


class Terminal:
    """`serve` with a terminal in place of standard error."""

    def __init__(self, folder: Path, config: str, *arguments: str) -> None:
        (folder / "c.toml").write_text(config)
        self.data = folder / "data"
        self._ours, theirs = pty.openpty()
        where = ["--config", str(folder / "c.toml"), "--data-dir", str(self.data)]
        command = [*cli(), "serve", *where, "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.screen = ""

    def read_until(self, words: str) -> str:
        """What the terminal shows, as soon as these words are among it."""

        def seen() -> bool:
            self.screen += os.read(self._ours, 65_536).decode().replace("\r\n", "\n")
            return words in self.screen

        eventually(seen, f"{words!r} on the terminal", STARTED_WITHIN)
        return self.screen

    def close(self) -> None:
        assert stop(self.process) == 0
        os.close(self._ours)


def test_a_first_start_at_a_terminal_shows_its_key_once_and_writes_it_to_no_file(
    shared_engine: FakeEngine, short_folder: Path
) -> None:
    terminal = Terminal(short_folder, external([shared_engine]))
    try:
        screen = terminal.read_until("Say hello.")
        [key] = re.findall(r"^YOUR_KEY=(gpustack_[0-9a-f]{16}_[0-9a-f]{32})$", screen, re.M)
        assert screen.count(key) == 1 and '"Authorization: Bearer $YOUR_KEY"' in screen
        ready = re.search(r"^Ready: (http://\S+)$", screen, re.M)
        assert ready is not None
        with Client(ready[1]) as client:
            assert client.request("GET", "/v1/models", key=key).status == 200
        files = [one for one in terminal.data.rglob("*") if one.is_file()]
        assert files and not any(key.encode() in one.read_bytes() for one in files)
    finally:
        terminal.close()


def test_a_first_start_that_fails_makes_no_key_that_nobody_has_seen(
    shared_engine: FakeEngine, short_folder: Path
) -> None:
    data = short_folder / "data"
    data.mkdir(mode=0o700)
    (data / "logs").write_text("in the way of a folder")
    terminal = Terminal(short_folder, external([shared_engine]))
    screen = terminal.read_until("error: ")
    assert terminal.process.wait(ENDED_WITHIN) == 1
    assert "YOUR_KEY=" in screen or not (data / "keys.json").exists(), screen
    (data / "logs").unlink()
    terminal = Terminal(short_folder, external([shared_engine]))
    try:
        assert "YOUR_KEY=gpustack_" in terminal.read_until("Say hello.")
    finally:
        terminal.close()


def test_a_server_on_every_address_says_so_and_warns_of_plain_http(
    shared_engine: FakeEngine, short_folder: Path
) -> None:
    """Nobody sends it anything: only its words are looked at."""
    terminal = Terminal(short_folder, external([shared_engine]), "--host", "0.0.0.0")
    try:
        screen = terminal.read_until("Say hello.")
    finally:
        terminal.close()
    found = re.search(r"Listening on http://0\.0\.0\.0:(\d+) \(every IPv4 address\)[;.]", screen)
    assert found is not None
    assert re.search(rf"WARN .*Other machines can reach http://0\.0\.0\.0:{found[1]} ", screen)
    assert f"From this machine http://127.0.0.1:{found[1]}" in screen
    assert f"curl -N http://127.0.0.1:{found[1]}/" in screen
