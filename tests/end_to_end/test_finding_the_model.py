"""The model is found wherever a client may write it.

In forms of any shape, behind large files, in queries, in compressed bodies; and a large upload
waits on the disk, not in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from harness import (
    ENDED_WITHIN,
    KEY,
    DataPlaneRouter,
    FakeEngine,
    ServedRouter,
    external,
    serving,
)
from raw_http import Client, chat

Routers = Callable[..., DataPlaneRouter]

TRANSCRIBE = "/v1/audio/transcriptions"
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\nm'
FILE = (
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: '
    b"audio/wav\r\n\r\nRIFF"
)
MEGABYTE = 1 << 20


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    return shared_engine


@pytest.fixture
def plane(engine: FakeEngine, router: Routers, tmp_path: Path) -> DataPlaneRouter:
    return router([engine], spool=tmp_path)


def form(*parts: bytes, boundary: bytes = b"edge") -> bytes:
    return (
        b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
        + b"--"
        + boundary
        + b"--\r\n"
    )


def send_form(
    plane: DataPlaneRouter,
    body: bytes,
    kind: str = "multipart/form-data; boundary=edge",
    **more: Any,
) -> Any:
    return plane.request("POST", TRANSCRIBE, body, headers=[("Content-Type", kind)], **more)


# --- forms ---

FORMS = {
    "model first": form(MODEL, FILE),
    "model last": form(FILE, MODEL),
    "model between files": form(FILE, MODEL, FILE),
    "token for a name": form(MODEL.replace(b'"model"', b"model"), FILE),
    "filename before the name": form(
        b'content-disposition: FORM-DATA; FileName="a; name=\\"model\\""; NAME="file"\r\n\r\nRIFF',
        MODEL,
    ),
    "a filename that looks like a name": form(
        b'Content-Disposition: form-data; name="file"; filename="x; name=\\"model\\""\r\n\r\nother',
        MODEL,
    ),
    "an extended filename": form(
        b'Content-Disposition: form-data; name="file"; '
        b"filename*=UTF-8''na%C3%AFve.wav\r\n\r\nRIFF",
        MODEL,
    ),
    "more headers in the part": form(
        b"X-Odd: 1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; "
        b'name="model"\r\n\r\nm',
        FILE,
    ),
    "a file that holds a whole part": form(
        FILE + b'\r\n--edg\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n--edgy',
        MODEL,
    ),
    "a preamble, and line ends behind the form": b"to be ignored\r\n" + form(FILE, MODEL) + b"\r\n",
    "white space behind a boundary": form(FILE, MODEL)[::-1].replace(
        b"\n\regde--", b"\n\r\t egde--", 1
    )[::-1],
}


@pytest.mark.parametrize("chunk", [None, 1, 5])
@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS.keys())
def test_the_field_is_found_wherever_it_stands(
    engine: FakeEngine, plane: DataPlaneRouter, body: bytes, chunk: int | None
) -> None:
    response = send_form(plane, body, chunk=chunk)
    assert response.status == 200, response.body
    assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ('multipart/form-data; boundary="edge"', b"edge"),
        ("Multipart/Form-Data; charset=utf-8; BOUNDARY=edge", b"edge"),
        ('multipart/form-data; boundary="it\'s (a) b+o_u,n-d./:=?"', b"it's (a) b+o_u,n-d./:=?"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4", b"----WebKitFormBoundary7MA4"),
    ],
)
def test_boundaries_of_every_legal_kind_are_known(
    plane: DataPlaneRouter, engine: FakeEngine, kind: str, boundary: bytes
) -> None:
    response = send_form(plane, form(FILE, MODEL, boundary=boundary), kind)
    assert response.status == 200, response.body
    assert engine.last()["model"] == "m"


BROKEN = {
    "no boundary": ("multipart/form-data", form(MODEL)),
    "an empty boundary": ('multipart/form-data; boundary=""', form(MODEL)),
    "no end": (
        "multipart/form-data; boundary=edge",
        form(MODEL, FILE).removesuffix(b"--edge--\r\n"),
    ),
    "an end without its dashes": ("multipart/form-data; boundary=edge", form(MODEL, FILE)[:-4]),
    "empty": ("multipart/form-data; boundary=edge", b""),
    "another boundary": ("multipart/form-data; boundary=edge", form(MODEL, boundary=b"other")),
    "another form behind its end": (
        "multipart/form-data; boundary=edge",
        form(FILE, MODEL) + form(MODEL),
    ),
    "two models": ("multipart/form-data; boundary=edge", form(MODEL, FILE, MODEL)),
    "two different models": (
        "multipart/form-data; boundary=edge",
        form(MODEL, MODEL.replace(b"\nm", b"\ndefault")),
    ),
    "no model": ("multipart/form-data; boundary=edge", form(FILE)),
    "an empty model": ("multipart/form-data; boundary=edge", form(MODEL[:-1])),
    "a model that is a file": (
        "multipart/form-data; boundary=edge",
        form(MODEL.replace(b'"model"', b'"model"; filename="x"')),
    ),
}


@pytest.mark.parametrize(("kind", "body"), BROKEN.values(), ids=BROKEN.keys())
def test_a_form_that_could_be_read_otherwise_by_the_engine_never_reaches_it_whole(
    engine: FakeEngine, plane: DataPlaneRouter, kind: str, body: bytes
) -> None:
    response = send_form(plane, body, kind)
    assert response.status == 400, response.body
    assert response.json()["error"]["message"].endswith(".")
    assert not any(entry["complete"] for entry in engine.inference())


def test_a_form_gets_the_served_name_and_nothing_else_changes(
    engine: FakeEngine, router: Routers
) -> None:
    plane = router([engine], served_name="org/Served-1B")
    for parts in ([MODEL, FILE], [FILE, MODEL]):
        for chunk in (None, 3):
            assert send_form(plane, form(*parts), chunk=chunk).status == 200
            expected = form(*parts).replace(b"\r\n\r\nm\r\n", b"\r\n\r\norg/Served-1B\r\n")
            assert engine.last()["sha256"] == hashlib.sha256(expected).hexdigest()


def test_repeated_fields_keep_their_order_and_number(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    repeated = [
        b'Content-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\n' + word
        for word in (b"word", b"segment")
    ]
    body = form(*repeated, FILE, MODEL, FILE)
    assert send_form(plane, body).status == 200
    assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("path", ["/v1/images/edits", TRANSCRIBE])
def test_a_row_of_forms_takes_json_when_the_content_type_says_so(
    engine: FakeEngine, plane: DataPlaneRouter, path: str
) -> None:
    assert plane.request("POST", path, {"model": "m", "prompt": "a dog"}).status == 200
    assert engine.last()["model"] == "m"


# --- large uploads ---


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ServedRouter, FakeEngine]]:
    engine = FakeEngine("uploads", "--port", "0")
    try:
        with serving(external([engine]), "--workers", "1") as server:
            engine.control("keep_journal", True)
            yield server, engine
    finally:
        engine.kill()


def peak_memory(pid: int) -> int:
    """The most memory that a process has held so far, in bytes."""
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def upload(server: ServedRouter, parts: list[bytes | None], size: int) -> tuple[int, str]:
    """Sends a form in pieces; None is a file of that size. Returns status and the body's hash."""
    digest = hashlib.sha256()
    piece = os.urandom(MEGABYTE)
    with Client(server.address, timeout=ENDED_WITHIN) as client:

        def send(data: bytes) -> None:
            digest.update(data)
            client.send(b"%x\r\n%s\r\n" % (len(data), data))

        head = [f"POST {TRANSCRIBE} HTTP/1.1", "Host: a", f"Authorization: Bearer {KEY}"]
        head += ["Content-Type: multipart/form-data; boundary=edge", "Transfer-Encoding: chunked"]
        client.send("\r\n".join(head).encode() + b"\r\n\r\n")
        for part in parts:
            send(b"--edge\r\n" + (part or FILE))
            for _ in range(0 if part else size // MEGABYTE):
                send(piece)
            send(b"\r\n")
        send(b"--edge--\r\n")
        client.send(b"0\r\n\r\n")
        return client.read_response().status, digest.hexdigest()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("parts", [[MODEL, None], [None, MODEL]], ids=["model first", "file first"])
def test_an_upload_of_200_megabytes_is_not_held_in_memory(
    served: tuple[ServedRouter, FakeEngine], parts: list[bytes | None]
) -> None:
    server, engine = served
    assert upload(server, parts, MEGABYTE)[0] == 200
    before = peak_memory(server.process.pid)
    status, digest = upload(server, parts, 200 * MEGABYTE)
    assert status == 200
    assert engine.last()["sha256"] == digest
    grown = peak_memory(server.process.pid) - before
    assert grown < 40 * MEGABYTE, f"the process grew by {grown >> 20} MB"
    engine.reset()


def test_nothing_is_left_of_an_upload_that_waited_on_the_disk(
    served: tuple[ServedRouter, FakeEngine],
) -> None:
    server, _ = served
    assert upload(server, [None, MODEL], 10 * MEGABYTE)[0] == 200
    held = [
        os.readlink(path)
        for path in Path(f"/proc/{server.process.pid}/fd").iterdir()
        if path.is_symlink()
    ]
    assert not [path for path in held if "spool" in path]
    assert not [
        path
        for path in server.data_dir.rglob("*")
        if path.is_file() and path.stat().st_size > MEGABYTE
    ]


def test_a_body_whose_model_comes_after_a_large_text_is_found(
    engine: FakeEngine, plane: DataPlaneRouter
) -> None:
    body = (
        b'{"messages":[{"role":"user","content":"'
        + b"A" * (30 * MEGABYTE)
        + b'"}],"fake":{"nonce":"n"},"model":"m"}'
    )
    response = plane.chat(body)
    assert response.status == 200, response.body
    assert engine.last()["sha256"] == hashlib.sha256(body).hexdigest()


# --- compressed bodies ---


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "GZIP": ("GZIP", gzip.compress),
    "two gzip members": ("gzip", lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:])),
    "deflate": ("deflate", zlib.compress),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress),
    "identity": ("identity", bytes),
}


def send_coded(
    plane: DataPlaneRouter,
    coding: str,
    body: bytes,
    path: str = "/v1/chat/completions",
    **more: Any,
) -> Any:
    headers = [("Content-Encoding", coding), ("Content-Type", "application/json")]
    return plane.request("POST", path, body, headers=headers, **more)


@pytest.mark.parametrize("chunk", [None, 1, 1000])
@pytest.mark.parametrize("name", CODINGS)
def test_a_compressed_body_goes_on_decoded(
    engine: FakeEngine, plane: DataPlaneRouter, name: str, chunk: int | None
) -> None:
    coding, compress = CODINGS[name]
    body = json.dumps({**chat(text="a nonce"), "pad": os.urandom(3000).hex()}).encode()
    response = send_coded(plane, coding, compress(body), chunk=chunk)
    assert response.status == 200, response.body
    entry = engine.last()
    assert entry["sha256"] == hashlib.sha256(body).hexdigest()
    names = [header.lower() for header, _ in entry["headers"]]
    assert "content-encoding" not in names or name == "identity"
    assert names.count("content-length") + names.count("transfer-encoding") == 1


def test_a_decoded_body_gets_the_served_name(engine: FakeEngine, router: Routers) -> None:
    plane = router([engine], served_name="org/Served-1B")
    assert send_coded(plane, "gzip", gzip.compress(json.dumps(chat()).encode())).status == 200
    assert engine.last()["model"] == "org/Served-1B"


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, br", "rot13", "aws-chunked"])
def test_an_unknown_coding_is_415_and_reaches_no_engine(
    engine: FakeEngine, plane: DataPlaneRouter, coding: str
) -> None:
    response = send_coded(plane, coding, json.dumps(chat()).encode())
    assert response.status == 415, response.body
    assert response.json()["error"]["message"].endswith(".")
    assert engine.inference() == []


def damaged(data: bytes) -> dict[str, tuple[str, bytes]]:
    packed = gzip.compress(data)
    return {
        "no gzip at all": ("gzip", data),
        "cut short": ("gzip", packed[:-12]),
        "without its check": ("gzip", packed[:-4]),
        "a wrong check": ("gzip", packed[:-8] + b"\0\0\0\0" + packed[-4:]),
        "a flipped bit": ("gzip", packed[:30] + bytes([packed[30] ^ 4]) + packed[31:]),
        "rubbish behind it": ("gzip", packed + b"rubbish"),
        "no zstd at all": ("zstd", data),
        "zstd cut short": ("zstd", zstandard.ZstdCompressor().compress(data)[:-3]),
        "no deflate at all": ("deflate", data),
        "empty": ("gzip", b""),
    }


@pytest.mark.parametrize("name", damaged(bytes(range(256))))
def test_a_damaged_body_is_400_and_never_reaches_an_engine_whole(
    engine: FakeEngine, plane: DataPlaneRouter, name: str
) -> None:
    coding, body = damaged(json.dumps({**chat(), "pad": os.urandom(500).hex()}).encode())[name]
    response = send_coded(plane, coding, body)
    assert response.status == 400, response.body
    assert not any(entry["complete"] for entry in engine.inference())


def bomb(size: int, *, model_first: bool = False) -> bytes:
    """A valid request that is nearly nothing but spaces."""
    filling = b" " * size
    return (
        b'{"model":"m",' + filling + b'"a":1}'
        if model_first
        else filling + json.dumps(chat()).encode()
    )


@pytest.mark.parametrize("model_first", [False, True])
@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_413(engine: FakeEngine, router: Routers, name: str, model_first: bool) -> None:
    plane = router([engine], limits={"max_body_bytes": 4 * MEGABYTE, "decoded_ratio": 65_536})
    coding, compress = CODINGS[name]
    response = send_coded(plane, coding, compress(bomb(20 * MEGABYTE, model_first=model_first)))
    assert response.status == 413, response.body
    assert not any(entry["complete"] for entry in engine.inference())


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_body_that_grows_beyond_all_reason_is_413_below_the_limit_too(
    engine: FakeEngine, plane: DataPlaneRouter, name: str
) -> None:
    coding, compress = CODINGS[name]
    response = send_coded(plane, coding, compress(bomb(50 * MEGABYTE)))
    assert response.status == 413, response.body
    assert not any(entry["complete"] for entry in engine.inference())
