"""Rust source as text of the same length in which only code is left, and small steps over that
text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_STRING_OR_COMMENT = re.compile(
    r"""
    (?P<line> //[^\n]* )
  | (?P<block> /\* )
  | (?P<raw> \b[bc]?r(?P<hashes>\#*)"(?s:.*?)"(?P=hashes) )
  | (?P<text> "(?:\\(?s:.)|[^"\\])*" )
  | (?P<char> '(?:\\u\{[^}]*\}|\\x..|\\.|[^\\'\n])' )
    """,
    re.VERBOSE,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")
_CFG = re.compile(r"#\[cfg\((?P<condition>[^\]]*)\)\]")
# Conditions that hold in tests alone. A crate lends its test support to others by the feature.
_TESTS_ALONE = ("test", 'feature = "test-support"')
_OPENING, _CLOSING = "([{", ")]}"


def only_code(text: str) -> str:
    """Blanks out comments; what stands in strings becomes quotes. Every line and column stays where
    it is.
    """
    parts = []
    at = 0
    while match := _STRING_OR_COMMENT.search(text, at):
        end = _end_of_block(text, match.start()) if match["block"] else match.end()
        filler = " " if match["block"] or match["line"] else '"'
        parts += [text[at : match.start()], _blank(text[match.start() : end], filler)]
        at = end
    return "".join([*parts, text[at:]])


def _end_of_block(text: str, start: int) -> int:
    """Block comments nest."""
    depth = 0
    for edge in _BLOCK_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def _blank(text: str, filler: str = " ") -> str:
    return re.sub(r"[^\n]", filler, text)


def without_ranges(code: str, ranges: list[tuple[int, int]]) -> str:
    for start, end in ranges:
        code = code[:start] + _blank(code[start:end]) + code[end:]
    return code


def test_items(text: str) -> list[tuple[int, int]]:
    """Where the items stand that only tests have, each from its attribute to its end."""
    code = only_code(text)
    found: list[tuple[int, int]] = []
    for match in _CFG.finditer(code):
        # The names of features stand in strings, which the code has no more.
        condition = text[match.start("condition") : match.end("condition")]
        is_inside = found and match.start() < found[-1][1]
        if _holds_in_tests_alone(condition) and not is_inside:
            found.append((match.start(), _end_of_item(code, match.end())))
    return found


def _holds_in_tests_alone(condition: str) -> bool:
    operator, _, rest = condition.strip().partition("(")
    parts = [_holds_in_tests_alone(part) for part in split_list(rest.rpartition(")")[0])]
    if operator == "all":
        return any(parts)
    if operator == "any":
        return all(parts)
    return condition.strip() in _TESTS_ALONE


def _end_of_item(code: str, start: int) -> int:
    """After the first semicolon or closing brace that is in no other bracket."""
    depth = 0
    for at in range(start, len(code)):
        if code[at] in _OPENING:
            depth += 1
        elif code[at] in _CLOSING:
            depth -= 1
        if depth == 0 and code[at] in ";}":
            return at + 1
    return len(code)


def closing(code: str, opening: int) -> int:
    """Where the bracket closes that opens here."""
    depth = 0
    for at in range(opening, len(code)):
        if code[at] in _OPENING:
            depth += 1
        elif code[at] in _CLOSING:
            depth -= 1
            if depth == 0:
                return at
    return len(code)


def split_list(text: str) -> list[str]:
    """The parts between the commas that are in no bracket, `<>` included."""
    parts = [""]
    depth = 0
    for character in text.replace("->", "  "):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def blocks(code: str, head: re.Pattern[str]) -> Iterator[tuple[re.Match[str], int, int]]:
    """Each match of a head, which must end with an opening bracket, with where that bracket opens
    and closes.
    """
    for match in head.finditer(code):
        yield match, match.end() - 1, closing(code, match.end() - 1)
