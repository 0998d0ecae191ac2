"""A stand-in for a hub as Hugging Face is, on loopback: what `huggingface_hub` asks, and faults.

It was compared with what the library calls and reads: `api/models/NAME/revision/REVISION?blobs=1`,
`NAME/resolve/COMMIT/FILE` with ranges and the hub's fields, `api/models?author=…`. Large files are
redirected to another host name, as the hub does toward its storage.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["LARGE", "Asked", "Hub", "Repo", "running"]

LARGE = 4096
"""Bytes from which on a file is kept by Git LFS here."""


@dataclass
class Repo:
    """A repository."""

    files: dict[str, bytes]
    gated: bool = False
    commit: str = ""

    def __post_init__(self) -> None:
        if not self.commit:
            text = json.dumps({name: _sha256(body) for name, body in self.files.items()})
            self.commit = hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The state of a stand-in: tests change it while it runs."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "hf_right"
    """Any other is rejected."""
    asked: list[Asked] = field(default_factory=list)
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """Of a file: the bytes after which its next responses are cut, one response each."""
    damaged: set[str] = field(default_factory=set)
    """Files whose bytes are others than the hub says."""
    held: set[str] = field(default_factory=set)
    """Files that do not come to an end before they are taken out of here."""
    limited: list[str | None] = field(default_factory=list)
    """`Retry-After` of the next responses, which have status 429; None: without."""
    failing: list[int] = field(default_factory=list)
    """Statuses of the next responses."""
    says_less: set[str] = field(default_factory=set)
    """Fields of a file that it does not tell, as a mirror: `size`, `blobId`, `lfs`."""
    says_of_lfs: str = ""
    """What it says in the place of each hash of a large file; empty: the hash."""
    says_of_sizes: int | None = None
    """What it says in the place of each file's size; None: the size."""
    ignores_ranges: bool = False
    is_none: bool = False
    """Whether it responds to everything with a page, as a network does that asks for a login."""

    def downloads(self, name: str) -> list[Asked]:
        """The requests for a large file's bytes."""
        return [
            one
            for one in self.asked
            if one.path.startswith("/storage/") and one.path.endswith(f"/{name}?signature=secret")
        ]


@contextmanager
def running() -> Iterator[Hub]:
    """A stand-in that responds while the block runs."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.held.clear()
        server.shutdown()
        server.server_close()
        thread.join()


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        token = self.headers.get("Authorization")
        self.hub.asked.append(Asked(self.command, self.path, self.headers.get("Range"), token))
        path = urllib.parse.urlsplit(self.path).path
        if path.startswith("/storage/"):
            self.send_file(*self.hub_file(path.removeprefix("/storage/")))
            return
        if self.hub.is_none:
            self.send(200, b"<html>Log in</html>", {"Content-Type": "text/html"})
        elif self.hub.failing:
            self.fail(self.hub.failing.pop(0), "", "Trouble")
        elif self.hub.limited:
            after = self.hub.limited.pop(0)
            self.fail(429, "", "Too many", {} if after is None else {"Retry-After": after})
        elif token is not None and token != f"Bearer {self.hub.token}":
            self.fail(401, "", "Invalid credentials in Authorization header")
        elif path == "/api/models":
            self.send_list()
        elif found := re.fullmatch(r"/api/models/(.+)/revision/([^/]+)", path):
            self.send_info(found[1], urllib.parse.unquote(found[2]))
        elif found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self.resolve(found[1], found[2], urllib.parse.unquote(found[3]))
        else:
            self.fail(404, "", "Not here")

    def repo(self, name: str) -> Repo | None:
        """A repository that the caller may see; it is told where there is none."""
        repo = self.hub.repos.get(name)
        if repo is None:
            # Without a token the hub does not say whether a repository exists.
            status = 401 if self.headers.get("Authorization") is None else 404
            self.fail(status, "RepoNotFound", "Invalid username or password.")
        return repo

    def send_list(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        author, search = query.get("author", [""])[0], query.get("search", [""])[0]
        names = [
            name
            for name in self.hub.repos
            if name.startswith(f"{author}/" if author else "") and search in name
        ]
        self.send_json([{"id": name, "modelId": name} for name in names])

    def send_info(self, name: str, revision: str) -> None:
        repo = self.repo(name)
        if repo is None:
            return
        if revision not in ("main", repo.commit):
            self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = []
        for file, body in repo.files.items():
            one: dict[str, object] = {
                "rfilename": file,
                "size": len(body) if self.hub.says_of_sizes is None else self.hub.says_of_sizes,
                "blobId": _git_sha1(body),
            }
            if len(body) >= LARGE:
                digest = self.hub.says_of_lfs or _sha256(body)
                one["lfs"] = {"sha256": digest, "size": len(body), "pointerSize": 130}
            told = {key: value for key, value in one.items() if key not in self.hub.says_less}
            siblings.append(told)
        gated = "manual" if repo.gated else False
        self.send_json({"id": name, "sha": repo.commit, "gated": gated, "siblings": siblings})

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.repo(name)
        if repo is None:
            return
        if repo.gated:
            status = 401 if self.headers.get("Authorization") is None else 403
            self.fail(status, "GatedRepo", f"Access to model {name} is restricted.")
            return
        if revision not in ("main", repo.commit) or file not in repo.files:
            self.fail(404, "EntryNotFound", "Entry not found")
            return
        body = repo.files[file]
        fields = {"X-Repo-Commit": repo.commit, "ETag": f'"{_git_sha1(body)}"'}
        if len(body) < LARGE:
            self.send_file(file, body, fields)
            return
        fields |= {"X-Linked-Etag": f'"{_sha256(body)}"', "X-Linked-Size": str(len(body))}
        place = self.hub.url.replace("127.0.0.1", "localhost")
        fields |= {"Location": f"{place}/storage/{name}/{file}?signature=secret"}
        self.send(302, b"", fields)

    def hub_file(self, path: str) -> tuple[str, bytes]:
        for name, repo in self.hub.repos.items():
            file = urllib.parse.unquote(path.removeprefix(f"{name}/"))
            if path.startswith(f"{name}/") and file in repo.files:
                return file, repo.files[file]
        raise AssertionError(f"nobody was sent to {path}")

    def send_file(self, file: str, body: bytes, fields: dict[str, str] | None = None) -> None:
        if file in self.hub.damaged:
            body = bytes(one ^ 1 for one in body)
        status, fields, part = 200, dict(fields or {}), body
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found and not self.hub.ignores_ranges:
            begin, end = int(found[1]), int(found[2] or len(body) - 1)
            if begin >= len(body):
                self.send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            part = body[begin : end + 1]
            fields["Content-Range"] = f"bytes {begin}-{begin + len(part) - 1}/{len(body)}"
            status = 206
        cuts = self.hub.cut_after.get(file)
        self.begin(status, len(part), fields)
        if self.command == "HEAD":
            return
        if cuts:
            part = part[: cuts.pop(0)]
            self.close_connection = True
        half = len(part) // 2
        self.wfile.write(part[:half])
        while file in self.hub.held:
            time.sleep(0.01)
        self.wfile.write(part[half:])

    def send_json(self, document: object) -> None:
        self.send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def fail(
        self, status: int, code: str, message: str, fields: dict[str, str] | None = None
    ) -> None:
        said = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self.send(status, body, {**said, "X-Error-Message": message, **(fields or {})})

    def send(self, status: int, body: bytes, fields: dict[str, str]) -> None:
        self.begin(status, len(body), fields)
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, length: int, fields: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**fields, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _handler(state: Hub) -> type[_Handler]:
    class Handler(_Handler):
        hub = state

    return Handler
