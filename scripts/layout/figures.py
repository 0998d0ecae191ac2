"""The figures behind scripts/house-figures: the size, the tangle and the logs of a checkout.

Every figure is counted the same way whatever the layout is, so that two commits compare:

* Rust is `src` of each crate `rust/*` but the fuzz targets, Python is `python/gpustack_fast`; not
  `bench` and `tests`.
* A Rust line under `#[cfg(test)]` is a test and is in no figure but "all lines".
* A code line is neither blank nor wholly comment or doc; of a text over several lines each line
  counts.
* A function is as long as from its `fn` or `def` to its last line.
* A room is a folder directly under `src` (or in the package), or a file there; `foo.rs` and `foo/`
  are one room, and the root (`lib.rs`, `__init__.py`) is none.
* Imports between crates count, and what is re-exported counts for the file it is in.
* Floors are the nodes on the longest way down the import graph, once every circle is drawn together
  to one node.
* A log or trace line has a macro of `log` or `tracing` or an `instrument` attribute in Rust; in
  Python it logs by `log`, `logger` or `logging` at some level, or calls `announce` or `report`
  (`tell` or `_tell` in older commits).
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from layout import rust_text
from layout.graph import floors, graph_of, tangles
from layout.python import Package
from layout.rust import Crate, RustFile, Workspace, read_crate

LONG = 60

_FUNCTION = re.compile(r"\bfn\s+(\w+)")
_STRUCT = re.compile(r"\bstruct\s+(\w+)[^;{(]*[{(]")
_PUBLIC_MODULE = re.compile(
    r"(?P<attributes>(?:#\[[^\]]*\]\s*)*)\bpub\s+mod\s+(?P<name>\w+)\s*[;{]"
)
_BOOL = re.compile(r"\b(?:bool|AtomicBool)\b")
_RUST_LOG = re.compile(
    r"\b(?:log|tracing)::\w+!"
    r"|\b(?:trace|debug|info|warn|error|event|(?:\w+_)?span)!\s*[({\[]"
    r"|#\[(?:tracing::)?instrument"
)
_RUST_DEFAULTS = re.compile(
    r"\bimpl\s+Default\s+for\b|\bderive\([^)]*\bDefault\b|#\[serde\([^]]*\bdefault\b"
)
_PYTHON_LOGGERS = {"log", "logger", "logging"}
_PYTHON_LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@dataclass(frozen=True)
class Function:
    name: str
    path: str
    line: int
    length: int
    result: str = ""
    """The type of its result, as it is written."""


@dataclass(frozen=True)
class Language:
    """The figures that both languages have."""

    files: dict[str, tuple[int, int, int]]
    """All lines, those without tests, and those of code."""
    functions: list[Function]
    file_graph: dict[str, set[str]]
    room_graph: dict[str, set[str]]
    logging: int


def rust_crates(root: Path) -> list[Crate]:
    manifests = sorted(root.glob("rust/*/Cargo.toml"))
    return [
        read_crate(root, f"rust/{path.parent.name}")
        for path in manifests
        if path.parent.name != "fuzz"
    ]


def rust_figures(crates: list[Crate]) -> Language:
    files = [file for crate in crates for file in crate.files.values()]
    rooms = {file.path: _room(crate, file) for crate in crates for file in crate.files.values()}
    arrows = [(arrow.source, arrow.target) for arrow in Workspace(crates).file_arrows()]
    return Language(
        files={file.path: _rust_lines(file) for file in files},
        functions=[function for file in files for function in rust_functions(file)],
        file_graph=graph_of(rooms, arrows),
        room_graph=_between_rooms(rooms, arrows),
        logging=sum(
            bool(_RUST_LOG.search(line)) for file in files for line in file.code.split("\n")
        ),
    )


def _room(crate: Crate, file: RustFile) -> str | None:
    room = crate.room(file.path)
    return room and f"{crate.folder.removeprefix('rust/')}/{room}"


def _between_rooms(
    rooms: dict[str, str | None], arrows: list[tuple[str, str]]
) -> dict[str, set[str]]:
    ends = [(rooms[source], rooms[target]) for source, target in arrows]
    return graph_of(
        filter(None, rooms.values()),
        [(source, target) for source, target in ends if source and target],
    )


def _rust_lines(file: RustFile) -> tuple[int, int, int]:
    tests = sum(file.text.count("\n", start, end) + 1 for start, end in file.tests)
    total = len(file.text.splitlines())
    return total, total - tests, sum(bool(line.strip()) for line in file.code.split("\n"))


def rust_functions(file: RustFile) -> Iterator[Function]:
    """Those with a body."""
    for head in _FUNCTION.finditer(file.code):
        arguments = file.code.index("(", head.end())
        after = rust_text.closing(file.code, arguments) + 1
        end = re.compile(r"[{;]").search(file.code, after)
        if end and end[0] == "{":
            first = rust_text.line_of(file.code, head.start())
            last = rust_text.line_of(file.code, rust_text.closing(file.code, end.start()))
            yield Function(
                head[1], file.path, first, last - first + 1, file.code[after : end.start()]
            )


def gives_a_text_as_error(function: Function) -> bool:
    """`Result<_, String>`, also inside of what it gives."""
    for match in re.finditer(r"\bResult\s*<", function.result):
        types = rust_text.split_list(_until_closed(function.result[match.end() :]))
        if len(types) == 2 and types[1] == "String":
            return True
    return False


def _until_closed(text: str) -> str:
    """The text before the `>` that closes an angle bracket opened just before."""
    depth = 1
    for at, character in enumerate(text.replace("->", "  ")):
        depth += (character == "<") - (character == ">")
        if depth == 0:
            return text[:at]
    return text


def bool_fields(file: RustFile) -> dict[str, int]:
    """For each struct with such fields, the number of those whose type names bool or AtomicBool."""
    found = {}
    for head, start, end in rust_text.blocks(file.code, _STRUCT):
        fields = rust_text.split_list(file.code[start + 1 : end])
        if count := sum(bool(_BOOL.search(field)) for field in fields):
            found[f"{head[1]} ({file.path}:{rust_text.line_of(file.code, head.start())})"] = count
    return found


def public_modules(crates: list[Crate]) -> tuple[list[str], int]:
    """The modules that another crate can name, with those behind a feature, and of all."""
    public: list[str] = []

    def visit(crate: Crate, file: RustFile) -> None:
        for match in _PUBLIC_MODULE.finditer(file.code):
            module = (*file.scope(match.start("name")), match["name"])
            behind = " (behind a feature)" if "feature" in match["attributes"] else ""
            public.append(f"{crate.name}::{'::'.join(module)}{behind}")
            if module in crate.files:
                visit(crate, crate.files[module])

    for crate in crates:
        visit(crate, crate.files[()])
    return public, sum(len(crate.files) - 1 for crate in crates)


def python_figures(package: Package) -> Language:
    files = list(package.files.values())
    rooms = {file.path: package.room(file.path) for file in files}
    arrows = list(package.arrows())
    sizes = {
        file.path: (len(file.text.splitlines()),) * 2 + (len(file.code_lines),) for file in files
    }
    return Language(
        files=sizes,
        functions=[
            Function(
                node.name,
                file.path,
                node.lineno,
                (node.end_lineno or node.lineno) - node.lineno + 1,
            )
            for file in files
            for node in ast.walk(file.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ],
        file_graph=graph_of(rooms, arrows),
        room_graph=_between_rooms(rooms, arrows),
        logging=sum(_logs(node) for file in files for node in ast.walk(file.tree)),
    )


def _logs(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    match node.func:
        case ast.Attribute(value=ast.Name(id=name), attr=method) if name in _PYTHON_LOGGERS:
            return method in _PYTHON_LEVELS
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name in {"announce", "report", "tell", "_tell"}
        case _:
            return False


def rust_defaults(file: RustFile) -> int:
    """The defaults in documents of the seam: `documents.rs`, or a file of the folder `seam`."""
    return len(_RUST_DEFAULTS.findall(file.code)) if _is_of_seam(file.path, "documents.rs") else 0


def python_defaults(package: Package) -> int:
    """The defaults in Python's documents: values of attributes in `dataplane.py` or `seam/`."""
    return sum(
        isinstance(statement, ast.AnnAssign) and statement.value is not None
        for file in package.files.values()
        if _is_of_seam(file.path, "dataplane.py")
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
    )


def _is_of_seam(path: str, name: str) -> bool:
    return path.split("/")[-1] == name or "/seam/" in path


def hops(walk: str, functions: list[Function]) -> Iterator[str]:
    """The lines of a walk through `file:function`, one a line (`#`: comment).

    A hop is the first time that control enters another file.
    """
    known = {(function.path, function.name) for function in functions}
    steps = [
        line.strip() for line in walk.splitlines() if line.strip() and not line.startswith("#")
    ]
    missing = [
        step for step in steps if not any(_is_step(step, path, name) for path, name in known)
    ]
    files = [step.rpartition(":")[0] for step in steps]
    crossings = sum(one != other for one, other in itertools.pairwise(files))
    yield (
        f"hops: {len(set(files)) - 1} (files {len(set(files))}, steps {len(steps)}, changes of "
        f"file {crossings})"
    )
    seen: set[str] = set()
    for step, file in zip(steps, files, strict=True):
        yield (
            f"  {' ' if file in seen else '*'} "
            f"{step}{'  (no such function)' if step in missing else ''}"
        )
        seen.add(file)


def _is_step(step: str, path: str, name: str) -> bool:
    file, _, function = step.rpartition(":")
    return function == name and (path == file or path.endswith(f"/{file}"))


def table(rust: Language, python: Language) -> Iterator[str]:
    rows: list[tuple[str, Callable[[Language], object]]] = [
        ("files", lambda one: len(one.files)),
        ("all lines", lambda one: sum(lines for lines, _, _ in one.files.values())),
        ("lines without tests", lambda one: sum(lines for _, lines, _ in one.files.values())),
        ("code lines", lambda one: sum(lines for _, _, lines in one.files.values())),
        ("median file, longest (without tests)", lambda one: _median_and_most(one, 1)),
        ("median file, longest (code lines)", lambda one: _median_and_most(one, 2)),
        ("functions", lambda one: len(one.functions)),
        ("longest function", lambda one: max(function.length for function in one.functions)),
        (
            f"functions over {LONG} lines",
            lambda one: sum(function.length > LONG for function in one.functions),
        ),
        ("circles between files (files in them)", lambda one: _tangled(one.file_graph)),
        ("circles between rooms (rooms in them)", lambda one: _tangled(one.room_graph)),
        ("floors of files", lambda one: _highest(one.file_graph)),
        (
            "rooms, floors of rooms",
            lambda one: f"{len(one.room_graph)}, {_highest(one.room_graph)}",
        ),
        ("imports between files", lambda one: sum(map(len, one.file_graph.values()))),
        ("imports between rooms", lambda one: sum(map(len, one.room_graph.values()))),
        ("lines that log or trace", lambda one: one.logging),
    ]
    yield "| | Rust | Python |"
    yield "| --- | --- | --- |"
    for name, figure in rows:
        yield f"| {name} | {figure(rust)} | {figure(python)} |"


def _median_and_most(language: Language, column: int) -> str:
    most = max(language.files, key=lambda path: language.files[path][column])
    median = statistics.median(lines[column] for lines in language.files.values())
    return f"{median:g}, {language.files[most][column]} ({most.split('/')[-1]})"


def _highest(graph: dict[str, set[str]]) -> int:
    return max(floors(graph).values(), default=0)


def _tangled(graph: dict[str, set[str]]) -> str:
    found = tangles(graph)
    return f"{len(found)} ({sum(map(len, found))})"


def report(root: Path, request_path: list[str], walk: Path | None) -> Iterator[str]:
    crates = rust_crates(root)
    package = Package(root, "python/gpustack_fast")
    rust, python = rust_figures(crates), python_figures(package)
    files = [file for crate in crates for file in crate.files.values()]
    bools = {
        name: count
        for file in files
        if any(file.path.startswith(f"{folder.rstrip('/')}/") for folder in request_path)
        for name, count in bool_fields(file).items()
    }
    public, modules = public_modules(crates)
    texts = [function for function in rust.functions if gives_a_text_as_error(function)]
    yield from table(rust, python)
    yield f"| modules that another crate can name, of all | {len(public)} of {modules} | |"
    yield (
        f"| bool fields of structs ({', '.join(request_path)}) | {sum(bools.values())} in "
        f"{len(bools)} structs | |"
    )
    yield f"| functions that give Result<_, String> | {len(texts)} | |"
    yield (
        f"| defaults on the seam | {sum(map(rust_defaults, files))} | {python_defaults(package)} |"
    )
    for name, language in (("Rust", rust), ("Python", python)):
        yield from _section(
            f"{name}, circles between files", map(" ".join, tangles(language.file_graph))
        )
        yield from _section(
            f"{name}, circles between rooms", map(" ".join, tangles(language.room_graph))
        )
        longest = sorted(language.functions, key=lambda function: -function.length)
        yield from _section(
            f"{name}, functions over {LONG} lines",
            (
                f"{one.length} {one.path}:{one.line} {one.name}"
                for one in longest
                if one.length > LONG
            ),
        )
    yield from _section("Modules that another crate can name", public)
    most_first = sorted(bools.items(), key=lambda item: (-item[1], item[0]))
    yield from _section("Bool fields", (f"{count} {name}" for name, count in most_first))
    yield from _section("Result<_, String>", (f"{one.path}:{one.line} {one.name}" for one in texts))
    if walk:
        yield from ["", *hops(walk.read_text(encoding="utf-8"), rust.functions)]


def _section(title: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    yield f"\n{title}:"
    yield from [f"  {line}" for line in lines] or ["  none"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/house-figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, help="the folder of any commit's tree")
    parser.add_argument(
        "--request-path",
        nargs="+",
        metavar="FOLDER",
        help="where structs are searched for bool fields (all crates)",
    )
    parser.add_argument(
        "--walk", type=Path, metavar="FILE", help="a request's walk: `file.rs:function`, one a line"
    )
    options = parser.parse_args(arguments)
    folders = options.request_path or [crate.folder for crate in rust_crates(options.checkout)]
    print("\n".join(report(options.checkout, folders, options.walk)))
    return 0
