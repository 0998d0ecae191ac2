"""A form reader for the fake engine: short, obvious, and of no help to the one under test."""

from __future__ import annotations

from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP


def parameters(content_type: str) -> dict[str, str]:
    """The parameters of a media type."""
    message = EmailMessage(policy=HTTP)
    message["content-type"] = content_type
    return dict(message["content-type"].params)


def read_form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, int]]:
    """The text fields of a `multipart/form-data` body, and its files' lengths by field.

    Of repeated fields the last. Raises ValueError where a strict engine responds with 400.
    """
    boundary = parameters(content_type).get("boundary", "").encode()
    if not boundary:
        raise ValueError("There is no boundary.")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if not parts or not parts[-1].startswith(b"--"):
        raise ValueError("The closing delimiter is missing.")
    fields: dict[str, str] = {}
    files: dict[str, int] = {}
    for part in parts[:-1]:
        head, _, content = part.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
        disposition = BytesParser(policy=HTTP).parsebytes(head + b"\r\n\r\n")["content-disposition"]
        name = str(disposition.params["name"])
        if "filename" in disposition.params:
            files[name] = files.get(name, 0) + len(content)
        else:
            fields[name] = content.decode("utf-8", "replace")
    return fields, files
