"""scripts/check-arrows: which Rust file imports which, circles, layers and pure crates."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_tree import write, write_crate

from layout import arrows
from layout.rust import Workspace, read_crate, use_tree
from layout.rust_text import only_code

PURE = '[pure]\ncrates = []\nforbidden = ["tokio", "std::net"]\n'


def imports(root: Path, files: dict[str, str]) -> set[tuple[str, str]]:
    """The arrows of a crate of these files, `other` beside it, without the folder in front."""
    write_crate(root, "one", "one", files)
    write_crate(root, "other", "the-other", {"deep/mod.rs": "pub struct Thing;"})
    found = Workspace([read_crate(root, "one"), read_crate(root, "other")]).file_arrows()
    return {
        (arrow.source.replace("one/src/", ""), arrow.target.replace("one/src/", ""))
        for arrow in found
    }


def checked(root: Path, files: dict[str, str], layers: str, pure: str = PURE) -> list[str]:
    write(root, {"Cargo.toml": '[workspace]\nmembers = ["one"]\n'})
    write(root, {"rust/layers.toml": f"[layers]\none = {layers}\n{pure}"})
    write_crate(root, "one", "one", files)
    return arrows.problems(root)


@pytest.mark.parametrize(
    "text",
    [
        "use crate::b;",
        "use crate::b::Thing;",
        "use crate::{b::{self, Thing as Other}, c::d};",
        "use crate::{\n    b, // why\n};",
        "pub(crate) use super::b::*;",
        "use self::super::b::Thing;",
        "fn f() -> crate::b::Thing { x }",
        "fn f() { if x { crate :: b :: go::<u8>() } }",
        "mod inner { use super::super::b::Thing; }",
        "mod inner { fn f() { super::super::b::go() } }",
        "use crate as all;\nfn f() { all::b::go() }",
        "use crate::Passed;",
        "use one::b::Thing;",
        'const X: &str = r#""#; fn f() { crate::b::go(\'"\', "//") }',
        "#[cfg(not(test))]\nuse crate::b::Thing;",
        '#[cfg(any(unix, feature = "test-support"))]\nuse crate::b::Thing;',
    ],
)
def test_every_way_to_name_another_file_is_an_arrow(tmp_path: Path, text: str) -> None:
    files = {
        "lib.rs": "pub use b::Passed;",
        "a.rs": text,
        "b.rs": "pub struct Passed;",
        "c/d.rs": "",
    }
    assert ("a.rs", "b.rs") in imports(tmp_path, files)


@pytest.mark.parametrize(
    "text",
    [
        "// use crate::b;",
        "/* /* */ use crate::b; */",
        '/// [`crate::b::Thing`]\nconst X: &str = "crate::b::Thing";',
        "#[cfg(test)]\nmod tests {\n    use crate::b::Thing;\n}",
        "#[cfg(all(test, unix))]\n#[allow(x)]\nfn only_in_tests() { crate::b::go() }",
        '#[cfg(feature = "test-support")]\nuse crate::b::Thing;',
        '#[cfg(any(test, feature = "test-support"))]\nmod support { use crate::b::Thing; }',
        "use b::Thing;",
        "pub(in crate::b) fn f() {}",
        "fn f<'a>(x: &'a str) {}",
    ],
)
def test_what_is_no_code_or_a_test_or_another_crates_is_no_arrow(tmp_path: Path, text: str) -> None:
    assert imports(tmp_path, {"a.rs": text, "b.rs": ""}) == set()


def test_a_parent_that_declares_and_passes_on_its_children_imports_nothing(tmp_path: Path) -> None:
    files = {
        "p/mod.rs": "mod a;\nmod b;\npub use a::One;\npub(crate) use self::b::*;",
        "p/a.rs": "use super::Two;\npub struct One;",
        "p/b.rs": "pub struct Two;",
        "q.rs": "use crate::p::One;",
    }
    assert imports(tmp_path, files) == {("p/a.rs", "p/b.rs"), ("q.rs", "p/a.rs")}


def test_a_parent_that_uses_what_it_passes_on_imports_it(tmp_path: Path) -> None:
    files = {"p.rs": "mod a;\npub use a::One;\nfn f(_: One) {}", "p/a.rs": "pub struct One;"}
    assert imports(tmp_path, files) == {("p.rs", "p/a.rs")}


def test_a_file_that_is_declared_for_tests_alone_is_left_out(tmp_path: Path) -> None:
    files = {"a.rs": "#[cfg(test)]\nmod tests;", "a/tests.rs": "use crate::b::Thing;", "b.rs": ""}
    assert imports(tmp_path, files) == set()


def test_another_crate_of_the_workspace_is_known_by_its_name_and_by_an_alias(
    tmp_path: Path,
) -> None:
    files = {
        "a.rs": "use the_other as o;\nfn f() { o::deep::go() }",
        "b.rs": "use the_other::deep::Thing;",
    }
    deep = "other/src/deep/mod.rs"
    assert imports(tmp_path, files) == {
        ("a.rs", "other/src/lib.rs"),
        ("a.rs", deep),
        ("b.rs", deep),
    }


def test_a_program_beside_the_library_is_a_crate_of_its_own(tmp_path: Path) -> None:
    files = {"bin/tool.rs": "use one::a::Thing;\nfn f() { crate::a::go() }\nmod a {}", "a.rs": ""}
    assert imports(tmp_path, files) == {("bin/tool.rs", "a.rs")}


def test_a_use_tree_gives_each_path_with_its_name() -> None:
    assert list(use_tree("a::{self, b as c, d::{e, f::*}}")) == [
        (("a",), "a"),
        (("a", "b"), "c"),
        (("a", "d", "e"), "e"),
        (("a", "d", "f", "*"), "*"),
    ]


def test_only_code_keeps_every_line_and_column() -> None:
    text = "a; // b\nlet s = \"c\\\"d\n\"; '\\'' b'x' 'l: /* e\n/* */ */ f"
    blanked = only_code(text)
    assert [len(line) for line in blanked.split("\n")] == [len(line) for line in text.split("\n")]
    assert blanked.replace('"', "").split() == ["a;", "let", "s", "=", ";", "b", "'l:", "f"]


def test_a_circle_is_written_out_for_files_and_for_rooms(tmp_path: Path) -> None:
    files = {"x/a.rs": "use crate::y::b;", "y/b.rs": "use crate::x::c;", "x/c.rs": ""}
    (found,) = [line for line in checked(tmp_path, files, '["x", "y"]') if "circle" in line]
    assert "a circle of rooms: x → y → x." in found
    files["x/c.rs"] = "use super::a;"
    assert any(
        "a circle of files: x/a.rs → y/b.rs → x/c.rs → x/a.rs." in line
        for line in checked(tmp_path, files, '["x", "y"]')
    )


def test_imports_go_down_the_layers(tmp_path: Path) -> None:
    files = {
        "lib.rs": "use a::X;",
        "a.rs": "\nuse crate::b::Y;",
        "b/mod.rs": "",
        "b/c.rs": "use super::Z;",
    }
    assert checked(tmp_path, files, '["a", "b"]') == []
    for layers in ('["b", "a"]', '[["a", "b"]]'):
        (found,) = checked(tmp_path, files, layers)
        assert found.startswith(
            "one/src/a.rs:2 imports one/src/b/mod.rs, but b does not lie below a"
        )


def test_every_room_has_a_place_and_every_place_a_room(tmp_path: Path) -> None:
    missing, unknown = checked(tmp_path, {"a.rs": "", "a/b.rs": "", "c.rs": ""}, '["a", "gone"]')
    assert "the room c has no place" in missing
    assert "the room gone, which does not exist" in unknown


@pytest.mark.parametrize(
    "text",
    [
        "use tokio::net;",
        "use std::{io, net::TcpStream};",
        "use std as s;\nfn f() { s::net::x() }",
        "#[tokio::main]",
    ],
)
def test_a_pure_crate_names_no_input_or_output(tmp_path: Path, text: str) -> None:
    pure = PURE.replace("[]", '["one"]')
    (found,) = checked(tmp_path, {"a.rs": text}, '["a"]', pure)
    assert "one is pure" in found
    allowed = "use std::io; use tokio_free::net; #[cfg(test)] mod tests { use tokio::net; }"
    assert checked(tmp_path, {"a.rs": allowed}, '["a"]', pure) == []
    assert checked(tmp_path, {"a.rs": text}, '["a"]') == []


def test_a_pure_crate_publishes_nothing_that_only_tests_name(tmp_path: Path) -> None:
    files = {
        "lib.rs": "pub mod a;\nmod b;\npub use a::{dead, used};",
        "a.rs": "pub fn used() -> Made {}\npub struct Made;\npub const fn dead() {}\n"
        "#[cfg(test)]\nmod tests { fn f() { dead() } }",
        "b.rs": "use crate::a::used;\nfn f() { used() }",
    }
    (found,) = checked(tmp_path, files, '["b", "a"]', PURE.replace("[]", '["one"]'))
    assert found.startswith("one/src/a.rs:3 publishes dead,")
    assert "Make it private" in found


def test_what_a_pure_crate_publishes_for_tests_alone_is_not_dead(tmp_path: Path) -> None:
    attribute = '#[cfg(any(test, feature = "test-support"))]'
    files = {"lib.rs": f"{attribute}\npub mod support;", "support.rs": "pub fn help() {}"}
    pure = PURE.replace("[]", '["one"]')
    assert checked(tmp_path, files, "[]", pure) == []
    files["lib.rs"] = "pub mod support;"
    (found,) = checked(tmp_path, files, '["support"]', pure)
    assert "publishes help" in found


def test_a_crate_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (found,) = checked(tmp_path, {}, "[]", PURE.replace("[]", '["sans_io"]'))
    assert "sans_io, which is no crate of the workspace" in found


def test_the_proposed_layers_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"a.rs": "use crate::{b, c};", "b.rs": "use crate::d;", "c.rs": "", "d.rs": ""}
    checked(tmp_path, files, "[]")
    proposed = arrows.proposed_layers(tmp_path)
    assert proposed == '[layers]\n"one" = [\n    "a",\n    "b",\n    ["c", "d"],\n]'
    write(tmp_path, {"rust/layers.toml": f"{proposed}\n{PURE}"})
    assert arrows.main(tmp_path, []) == 0
    assert "one way" in capsys.readouterr().out
