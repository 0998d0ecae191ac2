"""Wrong values in words: msgspec's short messages → sentences that say what to write instead."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable

from gpustack_fast.errors import printable

__all__ = ["closest", "explain", "is_utf8", "listed", "not_utf8", "quoted"]

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list in [ ]",
    "object": "a table",
    "int | object": "a whole number or a table",
    "float | str": "a number or text in quotes",
    "str | float": "a number or text in quotes",
}
_HINTS = {
    "int": " Write it in digits.",
    "float": " Write it in digits.",
    "str": " Write text in quotes.",
    "bool": " Write true or false.",
    "array": " Write a list in [ ].",
    "object": " Write a table, such as { name = ... }.",
    "int | object": " Write it in digits, or a table such as { min = 1, max = 3 }.",
}
_GOT = {**_KINDS, "str": "text", "array": "a list", "bool": "a truth value"}
_EXPECTED = re.compile(r"Expected `([a-z| ]+)`, got `(\w+)`")
_BOUND = re.compile(r"Expected `[a-z| ]+` (>=|<=) (\S+)")
_LENGTH = re.compile(r"Expected `[a-z| ]+` of length >= 1")
_NEEDLESS_QUOTES = {
    "int": re.compile(r"[+-]?\d+"),
    "int | object": re.compile(r"[+-]?\d+"),
    "float": re.compile(r"[+-]?\d+(\.\d+)?"),
    "bool": re.compile("true|false"),
}
"""Texts that would be right without their quotes. (From a flag or a variable they never come here.)
"""
_WITH_UNIT = re.compile(r"\d+(\.\d+)? ?[A-Za-z]+", re.ASCII)
_ENUM = re.compile(r"Invalid enum value")
_CREDENTIALS = re.compile(r"//.*@", re.DOTALL)
"""In a URL: rather too much than half of a password."""


def explain(
    message: str,
    subject: str,
    value: object,
    choices: Iterable[str] = (),
    *,
    needed: bool = False,
) -> str:
    """The sentences for one of msgspec's messages about a value.

    `subject` begins the sentence (`` `port` ``, `--port`); `choices` are what it may be, where that
    is a fixed set; `needed`: it cannot be left out.
    """
    if found := _EXPECTED.fullmatch(message):
        return _wrong_kind(found[1], found[2], subject, value)
    if found := _BOUND.fullmatch(message):
        bound = "at least" if found[1] == ">=" else "at most"
        limit = found[2].removesuffix(".0")
        return (
            f"{subject} must be {bound} {limit}, but it is {value}. Write a number within the "
            "limit."
        )
    if _LENGTH.fullmatch(message):
        return f"{subject} must not be empty. Write a value{'' if needed else ', or leave it out'}."
    if _ENUM.match(message):
        return (
            f"{subject} cannot be {quoted(value)}. Write "
            f"{listed(choices)}.{closest(str(value), choices)}"
        )
    return f"{subject} is not right: {message}. Correct it."


def is_utf8(text: object) -> bool:
    """Whether a text or path can be written as UTF-8; the name of a file need not be."""
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True


def not_utf8(subject: str) -> str:
    """The sentences for a path that is not UTF-8."""
    return (
        f"{subject} leads through a folder or a file whose name is not UTF-8 text. Rename that, or "
        "choose another."
    )


def closest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean `…`? `` with a space in front; nothing when no known word looks like it."""
    by_lower_case = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
    return f" Did you mean `{by_lower_case[found[0]]}`?" if found else ""


def listed(words: Iterable[str]) -> str:
    """`` `a`, `b` or `c` ``"""
    marked = [f"`{word}`" for word in words]
    return " or ".join([", ".join(marked[:-1]), marked[-1]]) if len(marked) > 1 else "".join(marked)


def quoted(value: object) -> str:
    """A value as a person would point at it; a long one is cut, and nothing in it is obeyed.

    The name and the password of a URL are left out.
    """
    text = printable(_CREDENTIALS.sub("//...@", str(value)))
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _as_list(text: str) -> str:
    """A list with the text as its entry; of flags as for a shell, each of their words."""
    words = [text]
    if text.startswith("-"):
        try:
            words = shlex.split(text)
        except ValueError:
            pass  # a quote without an end: nobody knows where it belongs
    return json.dumps(words, ensure_ascii=False)


def _wrong_kind(wanted: str, got: str, subject: str, value: object) -> str:
    kind = wanted.replace("| null", "").strip()
    if got == "str" and kind in _NEEDLESS_QUOTES:
        needless = _NEEDLESS_QUOTES[kind].fullmatch(str(value))
        hint = " Write it without quotes." if needless else _HINTS[kind]
        if kind in ("int", "float") and _WITH_UNIT.fullmatch(str(value)):
            hint = " Write it in digits alone: times are in seconds, sizes in bytes."
        return f"{subject} must be {_KINDS[kind]}, but it is the text {quoted(value)}.{hint}"
    hint = _HINTS.get(kind, " Correct it.")
    if kind == "str" and got in ("int", "float", "bool"):
        hint = " Put it in quotes."
    elif kind == "array" and got == "str":
        hint = f" Write it as {_as_list(_CREDENTIALS.sub('//...@', str(value)))}."
    elif kind == "int" and got == "float":
        hint = " Write it without a fraction."
    return (
        f"{subject} must be {_KINDS.get(kind, kind)}, but it is {_GOT.get(got, 'a ' + got)}.{hint}"
    )
