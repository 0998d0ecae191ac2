"""The files of a Python package and their imports, by the syntax tree, those for types included."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Name = tuple[str, ...]

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class PythonFile:
    path: str
    """From the root of the checkout, with `/`."""
    module: Name
    """With the package's name in front; a package is its `__init__.py`."""
    text: str = field(repr=False)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def code_lines(self) -> set[int]:
        """The numbers of the lines that hold code, and not only a comment or a docstring."""
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in _NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        return lines

    @cached_property
    def imports(self) -> list[tuple[Name, str]]:
        """The paths that it imports and the names that they get; `from .` is written out."""
        package = self.module if self.path.endswith("/__init__.py") else self.module[:-1]
        found: list[tuple[Name, str]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [
                    (tuple(item.name.split(".")), item.asname or item.name) for item in node.names
                ]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) + 1 - node.level] if node.level else ()
                module = base + tuple(node.module.split(".") if node.module else ())
                found += [((*module, item.name), item.asname or item.name) for item in node.names]
        return found

    def uses(self, name: str) -> bool:
        return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(self.tree))


class Package:
    def __init__(self, root: Path, folder: str) -> None:
        self.folder = folder
        base = (root / folder).parent
        self.files: dict[Name, PythonFile] = {}
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            module = parts[:-1] if parts[-1] == "__init__" else parts
            text = path.read_text(encoding="utf-8")
            self.files[module] = PythonFile(path.relative_to(root).as_posix(), module, text)

    def room(self, path: str) -> str | None:
        """The folder directly in the package, or the file there; None for its own `__init__.py`."""
        first = path.removeprefix(f"{self.folder}/").split("/")[0].removesuffix(".py")
        return None if first == "__init__" else first

    def arrows(self) -> Iterator[tuple[str, str]]:
        """The imports between files. What a package passes on of its children is none."""
        for file in self.files.values():
            for path, alias in file.imports:
                target = self._find(path)
                if target is None or target is file:
                    continue
                of_child = (
                    file.path.endswith("/__init__.py")
                    and target.module[: len(file.module)] == file.module
                )
                if not of_child or file.uses(alias):
                    yield file.path, target.path

    def _find(self, path: Name, seen: frozenset[Name] = frozenset()) -> PythonFile | None:
        """The file of an imported name; of one that an `__init__.py` has imported, its origin."""
        module = path
        while module and module not in self.files:
            module = module[:-1]
        if not module:
            return None
        file = self.files[module]
        rest = path[len(module) :]
        if rest and file.path.endswith("/__init__.py") and path not in seen:
            for origin, alias in file.imports:
                if alias == rest[0]:
                    return self._find(origin + rest[1:], seen | {path}) or file
        return file
