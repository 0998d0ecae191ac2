"""scripts/house-figures: what its figures count."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_tree import write, write_crate

from layout import figures
from layout.graph import components, floors, graph_of, shortest_circle, tangles
from layout.python import Package
from layout.rust import RustFile


def rust(text: str, path: str = "rust/core/src/a.rs") -> RustFile:
    return RustFile(path, ("a",), text)


def package(root: Path, files: dict[str, str]) -> Package:
    write(root / "python/p", {"__init__.py": "", **files})
    return Package(root, "python/p")


def test_a_circle_counts_as_one_floor() -> None:
    graph = graph_of(
        "abcde", [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("a", "d"), ("e", "e")]
    )
    assert components(graph) == [["d"], ["b", "c"], ["a"], ["e"]]
    assert tangles(graph) == [["b", "c"]]
    assert shortest_circle(graph, ["b", "c"]) == ["b", "c", "b"]
    assert floors(graph) == {"a": 3, "b": 2, "c": 2, "d": 1, "e": 1}


def test_comments_docs_blank_lines_and_tests_are_no_code_lines(tmp_path: Path) -> None:
    text = '//! doc\n\nfn f() { // why\n    /* two\n    lines */\n    g("\n  text")\n}\n\n'
    text += "#[cfg(test)]\nmod t {\n    use x;\n}\n"
    write_crate(tmp_path, "rust/core", "core", {"a.rs": text})
    language = figures.rust_figures(figures.rust_crates(tmp_path))
    assert language.files["rust/core/src/a.rs"] == (13, 9, 4)
    found = figures.python_figures(
        package(
            tmp_path,
            {
                "a.py": '"""Doc\n\ntext."""\n# why\nx: int = 1  # what\n"""Of x."""\n\ny = """a\n'
                'b"""\n'
            },
        )
    )
    assert found.files["python/p/a.py"] == (9, 9, 3)


def test_functions_are_measured_to_their_last_line() -> None:
    text = "trait T {\n    fn none(&self);\n}\nimpl X {\n    #[inline]\n"
    text += "    fn long(\n        f: fn(u8),\n    ) {\n        '{';\n    }\n}"
    assert [(one.name, one.line, one.length) for one in figures.rust_functions(rust(text))] == [
        ("long", 6, 5)
    ]


@pytest.mark.parametrize(
    ("result", "counts"),
    [
        ("Result<(), String>", True),
        ("impl Future<Output = Result<Vec<(u8, u8)>, String>>", True),
        ("Result<HashMap<u8, String>, Error>", False),
        ("Result<String>", False),
        ("(u8, String)", False),
    ],
)
def test_a_text_as_error_is_told_from_a_text_as_value(result: str, counts: bool) -> None:
    (function,) = figures.rust_functions(rust(f"fn f() -> {result} {{ x }}"))
    assert figures.gives_a_text_as_error(function) is counts


def test_bool_fields_are_counted_by_struct_whatever_holds_the_bool() -> None:
    text = (
        "pub struct A<'a> { /// bool\n x: bool, y: Rc<Cell<bool>>, z: HashMap<u8, AtomicBool>, w: "
        "Boolean }\n"
        "struct B(bool, u8);\nstruct C;\nenum D { E { f: bool } }\nfn f(x: bool) {}"
    )
    assert figures.bool_fields(rust(text)) == {
        "A (rust/core/src/a.rs:1)": 3,
        "B (rust/core/src/a.rs:3)": 1,
    }


def test_a_module_can_be_named_outside_when_every_module_around_it_is_public(
    tmp_path: Path,
) -> None:
    files = {
        "lib.rs": 'pub mod a;\nmod b;\npub(crate) mod c;\n#[cfg(feature = "x")]\npub mod d;\n',
        "a.rs": "pub mod e;",
        "a/e.rs": "",
        "b.rs": "pub mod f {}",
    }
    write_crate(tmp_path, "rust/core", "core", files)
    public, modules = figures.public_modules(figures.rust_crates(tmp_path))
    assert public == ["core::a", "core::a::e", "core::d (behind a feature)"]
    assert modules == 3


def test_defaults_are_counted_where_the_seam_is_before_and_after_it_has_a_folder(
    tmp_path: Path,
) -> None:
    text = (
        '#[derive(Clone, Default)]\nstruct A { #[serde(default = "x")] b: u8, #[serde(rename = '
        '"c", default)] c: u8 }\n'
    )
    text += "impl Default for B {}"
    paths = ["core/src/documents.rs", "core/src/seam/config.rs", "core/src/other.rs"]
    assert [figures.rust_defaults(rust(text, path)) for path in paths] == [4, 4, 0]
    text = "x: int = 1\nclass A:\n    a: int\n    b: int = 2\n    c: str | None = None\n"
    files = {"dataplane.py": text, "seam/documents.py": text, "other.py": text}
    assert figures.python_defaults(package(tmp_path, files)) == 4


def test_lines_that_log_are_told_from_what_only_looks_so(tmp_path: Path) -> None:
    text = (
        "log.warning('x')\nself._tell('y')\ntell('z')\nlog.seek(0)\nlog = "
        "logging.getLogger('a')\nself._tell = tell\n"
    )
    assert figures.python_figures(package(tmp_path, {"a.py": text})).logging == 3
    text = (
        '#[instrument]\nfn f() { tracing::debug!(x);\n warn!("y");\n error(x);\n '
        'info_span!("z") }\n// debug!(x)\n'
    )
    write_crate(tmp_path, "rust/core", "core", {"a.rs": text})
    assert figures.rust_figures(figures.rust_crates(tmp_path)).logging == 4


def test_python_imports_are_arrows_and_passing_on_is_none(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "from p.a.b import B as B\n",
        "a/b.py": "class B: ...\n",
        "c.py": "import json\nfrom p.a import B\nimport p.d\nfrom . import e\n",
        "d.py": "",
        "e.py": "from .a.b import B\n",
    }
    found = package(tmp_path, files)
    ends = {
        (source.removeprefix("python/p/"), target.removeprefix("python/p/"))
        for source, target in found.arrows()
    }
    assert ends == {("c.py", "a/b.py"), ("c.py", "d.py"), ("c.py", "e.py"), ("e.py", "a/b.py")}
    assert figures.python_figures(found).room_graph == {
        "a": set(),
        "c": {"a", "d", "e"},
        "d": set(),
        "e": {"a"},
    }


def test_a_hop_is_the_first_time_that_control_enters_another_file() -> None:
    functions = [figures.Function(name, f"rust/core/src/{name}.rs", 1, 1) for name in "ab"]
    told = list(figures.hops("# a walk\na.rs:a\nsrc/b.rs:b\na.rs:a\n\nb.rs:gone\n", functions))
    assert told[0].startswith("hops: ")
    assert "(no such function)" in told[-1]
    told = list(figures.hops("a.rs:a\nb.rs:b\na.rs:a\n", functions))
    assert told == [
        "hops: 1 (files 2, steps 3, changes of file 2)",
        "  * a.rs:a",
        "  * b.rs:b",
        "    a.rs:a",
    ]


def test_the_whole_report_is_printed_for_a_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_crate(
        tmp_path, "rust/core", "core", {"a.rs": "fn f(x: u8) -> Result<(), String> { Ok(()) }"}
    )
    write_crate(tmp_path, "rust/fuzz", "fuzz", {})
    write(tmp_path, {"python/gpustack_fast/__init__.py": "def f() -> None: ...\n"})
    assert figures.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| files | 2 | 1 |" in printed
    assert "Result<_, String>:\n  rust/core/src/a.rs:1 f" in printed
