"""The files of Rust crates, and which file names what of which other file.

What counts is what stands in `use` and in paths such as `crate::a::b`, in the code that is no test.
A path counts for the file where the thing itself is: imports and re-exports on the way are
followed. Paths within strings (serde's `with = "…"`) and methods called without a name of their
type are not seen.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from layout import rust_text

Name = tuple[str, ...]

_USE = re.compile(r"(?P<pub>\bpub(?:\s*\([^)]*\))?\s+)?\buse\s+(?P<tree>[\w:{*][^;]*);")
_VISIBILITY = re.compile(r"\bpub\s*\(\s*in\b[^)]*\)")
_PATH = re.compile(r"(?<![\w:>])(?:::\s*)?[A-Za-z_]\w*(?:\s*::\s*[A-Za-z_]\w*)+")
_INLINE_MODULE = re.compile(r"\bmod\s+(\w+)\s*\{")
_TEST_FILE = re.compile(r"\bmod\s+(\w+)\s*;\s*$")


@dataclass(frozen=True)
class Import:
    """One name that a `use` brings in; `*` stands for all names."""

    path: Name
    alias: str
    public: bool
    at: int


@dataclass(frozen=True)
class RustFile:
    path: str
    """From the root of the checkout, with `/`."""
    module: Name
    """The module that it is, within its crate."""
    text: str = field(repr=False)

    @cached_property
    def tests(self) -> list[tuple[int, int]]:
        return rust_text.test_items(self.text)

    @cached_property
    def code(self) -> str:
        """The text without comments and tests, with every line and column where it was."""
        return rust_text.without_ranges(rust_text.only_code(self.text), self.tests)

    @cached_property
    def imports(self) -> list[Import]:
        return [
            Import(path, alias, use["pub"] is not None, use.start("tree"))
            for use in _USE.finditer(self.code)
            for path, alias in use_tree(use["tree"])
        ]

    @cached_property
    def other_code(self) -> str:
        """The code without its `use` items."""
        ranges = [
            match.span() for pattern in (_USE, _VISIBILITY) for match in pattern.finditer(self.code)
        ]
        return rust_text.without_ranges(self.code, ranges)

    @cached_property
    def inline_modules(self) -> list[tuple[str, int, int]]:
        return [
            (head[1], start, end)
            for head, start, end in rust_text.blocks(self.code, _INLINE_MODULE)
        ]

    def scope(self, at: int) -> Name:
        """The module that this place belongs to: the file's, or an inline one within it."""
        return self.module + tuple(
            name for name, start, end in self.inline_modules if start < at < end
        )

    def paths(self) -> Iterator[tuple[Name, int]]:
        """Every path that is written out in the code, with where it stands."""
        for match in _PATH.finditer(self.other_code):
            yield _segments(match[0]), match.start()

    def uses(self, name: str) -> bool:
        """Does the code name it, beside its `use` items?"""
        return name != "*" and re.search(rf"\b{name}\b", self.other_code) is not None

    def defines(self, name: str) -> bool:
        keywords = "fn|struct|enum|union|trait|type|const|static|mod|macro_rules!"
        return re.search(rf"\b(?:{keywords})\s+{name}\b", self.other_code) is not None

    def test_files(self) -> set[str]:
        """The names of the modules in files of their own that are declared for tests alone."""
        texts = (self.text[start:end] for start, end in self.tests)
        return {match[1] for text in texts if (match := _TEST_FILE.search(text))}


@dataclass(frozen=True)
class Crate:
    folder: str
    """From the root of the checkout: `rust/core`."""
    name: str
    """Its name in other crates: `gpustack_fast_core`."""
    files: dict[Name, RustFile] = field(repr=False)

    @cached_property
    def modules(self) -> set[Name]:
        """Those with a file of their own, and those around them."""
        return {module[:length] for module in self.files for length in range(len(module) + 1)}

    def room(self, path: str) -> str | None:
        """The folder under `src`, or the file there, which are one room; None for the root."""
        first = path.removeprefix(f"{self.folder}/src/").split("/")[0].removesuffix(".rs")
        return None if self.files[()].path == path else first


@dataclass(frozen=True)
class Arrow:
    source: str
    target: str
    line: int


def use_tree(tree: str, prefix: Name = ()) -> Iterator[tuple[Name, str]]:
    """The paths of a `use` by their names: `a::{self, b as c}` gives `a` as a and `a::b` as c."""
    head, brace, rest = tree.partition("{")
    if brace:
        for part in rust_text.split_list(rest[: rest.rindex("}")]):
            yield from use_tree(part, prefix + _segments(head))
        return
    head, _, alias = " ".join(tree.split()).partition(" as ")
    path = _segments(head)
    path = prefix if path == ("self",) and prefix else prefix + path
    yield path, alias or path[-1]


def _segments(path: str) -> Name:
    return tuple(segment for part in path.split("::") if (segment := part.strip()))


def workspace_folders(root: Path) -> list[str]:
    manifest = tomllib.loads((root / "Cargo.toml").read_text(encoding="utf-8"))
    folders = {
        folder for member in manifest["workspace"]["members"] for folder in root.glob(member)
    }
    return sorted(folder.relative_to(root).as_posix() for folder in folders)


def read_crate(root: Path, folder: str) -> Crate:
    manifest = tomllib.loads((root / folder / "Cargo.toml").read_text(encoding="utf-8"))
    name = manifest.get("lib", {}).get("name", manifest["package"]["name"]).replace("-", "_")
    src = root / folder / "src"
    top = "lib" if (src / "lib.rs").exists() else "main"
    files = {}
    for path in sorted(src.rglob("*.rs")):
        module = path.relative_to(src).with_suffix("").parts
        if module == (top,):
            module = ()
        elif module[-1] == "mod":
            module = module[:-1]
        files[module] = RustFile(
            path.relative_to(root).as_posix(), module, path.read_text(encoding="utf-8")
        )
    tests = {(*file.module, name) for file in files.values() for name in file.test_files()}
    kept = {
        m: file
        for m, file in files.items()
        if not any(m == test or _is_below(m, test) for test in tests)
    }
    return Crate(folder, name, kept)


class Workspace:
    """Crates that may name one another."""

    def __init__(self, crates: list[Crate]) -> None:
        self.crates = crates
        self._by_name = {crate.name: crate for crate in crates}

    def file_arrows(self) -> list[Arrow]:
        """The names between files: which names something of another, and in which line first.

        A module that declares or re-exports its children names nothing by that.
        """
        arrows: dict[tuple[str, str], Arrow] = {}
        for crate in self.crates:
            for file in crate.files.values():
                for path, at in [*self._imported(crate, file), *file.paths()]:
                    target = self.find(crate, file.scope(at), path)
                    if isinstance(target, RustFile) and target is not file:
                        arrow = Arrow(file.path, target.path, rust_text.line_of(file.text, at))
                        arrows.setdefault((arrow.source, arrow.target), arrow)
        return list(arrows.values())

    def _imported(self, crate: Crate, file: RustFile) -> Iterator[tuple[Name, int]]:
        """The imports of a file, without those that it only passes on from its children."""
        for item in file.imports:
            target = self.find(crate, file.scope(item.at), item.path)
            of_child = isinstance(target, RustFile) and _is_below(target.module, file.module)
            if not (item.public and of_child) or file.uses(item.alias):
                yield item.path, item.at

    def foreign_paths(self, crate: Crate, file: RustFile) -> Iterator[tuple[Name, int]]:
        """The full paths of what this file names outside the workspace: `std::fs::File`."""
        for path, at in [*((item.path, item.at) for item in file.imports), *file.paths()]:
            target = self.find(crate, file.scope(at), path)
            if isinstance(target, tuple):
                yield target, rust_text.line_of(file.text, at)

    def find(
        self, crate: Crate, scope: Name, path: Name, seen: frozenset[Import] = frozenset()
    ) -> RustFile | Name:
        """The file of a path's target in a scope; the full path of one outside the workspace."""
        path = path[:-1] if path[-1] == "*" else path
        first, rest = path[0], path[1:]
        if first == "crate":
            # A file in `bin` is a crate of its own: its `crate` is itself.
            return self._within(crate, scope[:2] if scope[:1] == ("bin",) else (), rest, seen)
        if first == "self":
            return self._within(crate, scope, rest, seen)
        if first == "super":
            return self.find(crate, scope[:-1], ("self", *rest), seen)
        if (*scope, first) in crate.modules:
            return self._within(crate, scope, path, seen)
        for item in _named(crate, scope, first):
            if item not in seen:
                return self.find(crate, scope, item.path + rest, seen | {item})
        if first in self._by_name:
            return self._within(self._by_name[first], (), rest, seen)
        return path

    def _within(
        self, crate: Crate, module: Name, rest: Name, seen: frozenset[Import]
    ) -> RustFile | Name:
        while rest[:1] == ("super",):
            module, rest = module[:-1], rest[1:]
        while rest and (*module, rest[0]) in crate.modules:
            module, rest = (*module, rest[0]), rest[1:]
        for item in _named(crate, module, rest[0]) if rest else []:
            if item not in seen:
                return self.find(crate, module, item.path + rest[1:], seen | {item})
        file = _file(crate, module)
        if rest and not file.defines(rest[0]):
            for item in _named(crate, module, "*"):
                origin = (
                    None
                    if item in seen
                    else self.find(crate, module, item.path[:-1], seen | {item})
                )
                if isinstance(origin, RustFile) and origin.defines(rest[0]):
                    return origin
        return file


def _is_below(module: Name, parent: Name) -> bool:
    return len(module) > len(parent) and module[: len(parent)] == parent


def _file(crate: Crate, module: Name) -> RustFile:
    """The file that a module is in: its own, or the one around it."""
    while module not in crate.files:
        module = module[:-1]
    return crate.files[module]


def _named(crate: Crate, scope: Name, name: str) -> list[Import]:
    """The path that this module imports by that name."""
    file = _file(crate, scope)
    return [item for item in file.imports if item.alias == name and file.scope(item.at) == scope]
