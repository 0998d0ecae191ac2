"""Keys, made and revoked by command while the server runs: the next request sees it."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

import pytest

from harness import KEY, FakeEngine, ServedRouter, external, serving
from raw_http import build, chat

MODEL_KEY = re.compile(r"gpustack_[0-9a-f]{16}_[0-9a-f]{32}")


@pytest.fixture(scope="module")
def server() -> Iterator[ServedRouter]:
    engine = FakeEngine("keys", "--port", "0")
    try:
        with serving(external([engine]), "--workers", "2") as one:
            yield one
    finally:
        engine.kill()


def create(server: ServedRouter, name: str, *more: str) -> str:
    """A new key; standard output holds the key alone."""
    made = server.keys("create", name, *more)
    assert made.returncode == 0, made.stderr
    key = made.stdout.removesuffix("\n")
    assert MODEL_KEY.fullmatch(key), made.stdout
    return key


def revoke(server: ServedRouter, name: str) -> None:
    done = server.keys("revoke", name)
    assert done.returncode == 0, done.stderr


def test_the_bootstrap_key_works(server: ServedRouter) -> None:
    assert server.chat(chat(), key=KEY).status == 200


def test_a_new_key_works_at_once_and_a_revoked_one_is_rejected_by_the_next_request(
    server: ServedRouter,
) -> None:
    for number in range(3):
        key = create(server, f"round-{number}")
        with server.client() as client:
            for _ in range(5):
                assert client.request("POST", "/v1/chat/completions", chat(), key=key).status == 200
            revoke(server, f"round-{number}")
            client.send(build("POST", "/v1/chat/completions", chat(), key=key))
            assert client.read_response().status == 401
        for _ in range(10):
            assert server.chat(chat(), key=key).status == 401, "a worker has not heard of it"


def test_a_key_may_be_bound_to_models(server: ServedRouter) -> None:
    key = create(server, "bound", "--allowed-models", "default,another")
    assert server.chat(chat("default"), key=key).status == 200
    assert server.chat(chat("m"), key=key).status == 403
    assert [one["id"] for one in server.request("GET", "/v1/models", key=key).json()["data"]] == [
        "default"
    ]
    for path in ("/v2/models", "/v2/model-routes"):
        managing = server.request("GET", path, key=key)
        assert managing.status == 403, "engines and their addresses are for who may manage"
        assert managing.json()["reason"] == "Forbidden"


def test_the_list_shows_names_and_never_a_key(server: ServedRouter) -> None:
    key = create(server, "listed", "--allowed-models", "default")
    shown = server.keys("list")
    assert shown.returncode == 0, shown.stderr
    assert "listed" in shown.stdout
    assert "default" in shown.stdout
    assert key.split("_")[1] in shown.stdout
    assert key.split("_")[2] not in shown.stdout
    revoke(server, "listed")
    assert "listed" not in server.keys("list").stdout


def test_mistakes_are_told_in_a_sentence_and_change_nothing(server: ServedRouter) -> None:
    create(server, "taken")
    for arguments in (("create", "taken"), ("revoke", "nobody")):
        refused = server.keys(*arguments)
        assert refused.returncode != 0
        assert refused.stdout == ""
        assert refused.stderr.strip().endswith(".")
        assert "Traceback" not in refused.stderr


def test_no_key_is_written_anywhere_in_the_clear(server: ServedRouter) -> None:
    key = create(server, "secret")
    server.chat(chat(), key=key)
    server.chat(chat(), key=key[:-1])
    secret = key.split("_")[2].encode()
    for path in server.folder.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
            assert KEY.encode() not in path.read_bytes(), path


def test_the_store_is_readable_by_its_owner_alone(server: ServedRouter) -> None:
    private = [
        path for path in server.data_dir.rglob("*") if "key" in path.name or path.is_socket()
    ]
    assert private
    for path in private:
        assert (
            stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
            or stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
        )


def test_a_key_made_without_a_server_works_with_the_next_one() -> None:
    engine = FakeEngine("keys", "--port", "0")
    try:
        with serving(external([engine])) as server:
            revoked = create(server, "revoked-while-stopped")
            server.stop()
            key = create(server, "made-while-stopped")
            revoke(server, "revoked-while-stopped")
            server.start()
            server.wait_until_ready()
            assert server.chat(chat(), key=key).status == 200
            assert server.chat(chat(), key=KEY).status == 200
            assert server.chat(chat(), key=revoked).status == 401
    finally:
        engine.kill()
