"""The line of each key in a TOML text."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.config.reading.toml_lines import find_line, line_numbers
from gpustack_fast.config.schema import KeyPath

LAYOUT = '''\
a = 1                     # line 1
b.c = """
not.a.key = 1 [[x]]
"""                       # b, b.c: line 2
d = [                     # line 5
  "]", '[', # a comment with ] and "
  { e = "}" },
]
"f.g" = 'x'               # line 9
[t]                       # line 10
k = "\\" # not the end"   # line 11
[[m]]                     # line 12
n = 1
[[m.sub]]                 # line 14
o = 1
[[m.sub]]                 # line 16
o = 2
[m.table]                 # line 18
p = 3
[[m]]                     # line 20
n = 2
[ m . "x" ]               # line 22
y = """a""""
z = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 1),
        (("b",), 2),
        (("b", "c"), 2),
        (("d",), 5),
        (("d", 2, "e"), 5),
        (("f.g",), 9),
        (("t",), 10),
        (("t", "k"), 11),
        (("m",), 12),
        (("m", 0), 12),
        (("m", 0, "n"), 13),
        (("m", 0, "sub"), 14),
        (("m", 0, "sub", 0, "o"), 15),
        (("m", 0, "sub", 1), 16),
        (("m", 0, "sub", 1, "o"), 17),
        (("m", 0, "table", "p"), 19),
        (("m", 1), 20),
        (("m", 1, "n"), 21),
        (("m", 1, "x"), 22),
        (("m", 1, "x", "y"), 23),
        (("m", 1, "x", "z"), 24),
        (("unknown",), None),
    ],
)
def test_each_key_is_found_on_its_line(path: KeyPath, line: int | None) -> None:
    tomllib.loads(LAYOUT)
    assert find_line(line_numbers(LAYOUT), path) == line


STRINGS = st.text(alphabet="ab\"'\\#[]{}=.\n\t ", max_size=12)


def _literal(text: str, style: int) -> str:
    """One way to write a text in TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    if style == 0 or ("'" in text and style > 1):
        return '"' + escaped.replace("\n", "\\n") + '"'
    if style == 1:
        return '"""' + escaped + '"""'
    return "'''" + text + "'''"


@given(
    st.lists(
        st.tuples(STRINGS, STRINGS, st.integers(0, 2), st.booleans()),
        max_size=6,
        unique_by=lambda item: item[0],
    )
)
def test_whatever_strings_hold_the_lines_after_them_are_right(
    rows: list[tuple[str, str, int, bool]],
) -> None:
    text, expected = "", {}
    for key, value, style, nested in rows:
        literal = _literal(value, style)
        expected[key] = text.count("\n") + 1
        text += (
            f"{_literal(key, 0)} = "
            + (f"[{literal},\n{literal}]" if nested else literal)
            + " # ] ' \" \n"
        )
    assert list(tomllib.loads(text)) == list(expected)
    assert line_numbers(text) == {(key,): line for key, line in expected.items()}
