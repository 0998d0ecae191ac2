"""The check behind scripts/check-arrows: no circles between the files or the rooms of a crate,
imports go down the layers of rust/layers.toml, and the pure crates name no input or output and
publish nothing that is dead.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layout import rust_text
from layout.graph import floors, graph_of, shortest_circle, tangles
from layout.rust import Arrow, Crate, Workspace, read_crate, workspace_folders

LAYERS = "rust/layers.toml"

_PUBLISHED = re.compile(
    r"\bpub\s+(?:(?:const|async|unsafe)\s+)*"
    r"(?P<kind>fn|const|static|struct|enum|trait|type)\s+(?P<name>\w+)"
)


def problems(root: Path) -> list[str]:
    """What is wrong, a sentence each."""
    rules = tomllib.loads((root / LAYERS).read_text(encoding="utf-8"))
    workspace = Workspace([read_crate(root, folder) for folder in workspace_folders(root)])
    arrows = workspace.file_arrows()
    found = [
        f"{LAYERS} speaks of {folder}, which is no crate of the workspace. Take it out."
        for folder in sorted(
            {*rules["layers"], *rules["pure"]["crates"]}
            - {crate.folder for crate in workspace.crates}
        )
    ]
    for crate in workspace.crates:
        own = own_arrows(crate, arrows)
        found += _circles(
            "files", graph_of((file.path for file in crate.files.values()), _ends(own)), crate
        )
        found += _circles("rooms", room_graph(crate, own), crate)
        found += _layer_problems(crate, own, rules["layers"].get(crate.folder, []))
        if crate.folder in rules["pure"]["crates"]:
            found += _impure(workspace, crate, rules["pure"]["forbidden"])
            found += _dead(workspace, crate)
    return found


def own_arrows(crate: Crate, arrows: list[Arrow]) -> list[Arrow]:
    """Those that start in this crate and end there."""
    paths = {file.path for file in crate.files.values()}
    return [arrow for arrow in arrows if arrow.source in paths and arrow.target in paths]


def _ends(arrows: list[Arrow]) -> list[tuple[str, str]]:
    return [(arrow.source, arrow.target) for arrow in arrows]


def room_graph(crate: Crate, arrows: list[Arrow]) -> dict[str, set[str]]:
    """The imports between the rooms of a crate; the crate's root is no room."""
    rooms = {room for file in crate.files.values() if (room := crate.room(file.path))}
    ends = ((crate.room(arrow.source), crate.room(arrow.target)) for arrow in arrows)
    return graph_of(rooms, ((source, target) for source, target in ends if source and target))


def _circles(kind: str, graph: dict[str, set[str]], crate: Crate) -> Iterator[str]:
    for tangle in tangles(graph):
        circle = [
            node.removeprefix(f"{crate.folder}/src/") for node in shortest_circle(graph, tangle)
        ]
        more = f" ({len(tangle)} are tangled in all)" if len(tangle) >= len(circle) else ""
        yield (
            f"{crate.folder}: a circle of {kind}: {' → '.join(circle)}{more}. "
            "Move what both ends need into one that lies below them."
        )


def _layer_problems(
    crate: Crate, arrows: list[Arrow], layers: list[str | list[str]]
) -> Iterator[str]:
    height = {
        room: -number
        for number, layer in enumerate(layers)
        for room in ([layer] if isinstance(layer, str) else layer)
    }
    rooms = set(room_graph(crate, []))
    for room in sorted(rooms - set(height)):
        yield (
            f"{crate.folder}: the room {room} has no place in {LAYERS}. Enter it above all that "
            "it imports."
        )
    for room in sorted(set(height) - rooms):
        yield f"{crate.folder}: {LAYERS} lists the room {room}, which does not exist. Take it out."
    for arrow in arrows:
        source, target = crate.room(arrow.source), crate.room(arrow.target)
        if (
            source != target
            and source in height
            and target in height
            and height[source] <= height[target]
        ):
            yield (
                f"{arrow.source}:{arrow.line} imports {arrow.target}, but {target} does not lie "
                f"below {source} in "
                f"{LAYERS}. Turn the import around, or move what is needed further down."
            )


def _impure(workspace: Workspace, crate: Crate, forbidden: list[str]) -> Iterator[str]:
    for file in crate.files.values():
        told = set()
        for path, line in workspace.foreign_paths(crate, file):
            for name in forbidden:
                if (
                    path[: name.count("::") + 1] == tuple(name.split("::"))
                    and (name, line) not in told
                ):
                    told.add((name, line))
                    yield (
                        f"{file.path}:{line} names {name}: {crate.folder} is pure. Let its "
                        "caller do that part."
                    )


def _dead(workspace: Workspace, crate: Crate) -> Iterator[str]:
    """`pub` items that no other file names outside of tests. The compiler finds dead code within a
    crate only; here words are compared, so an item that shares its name with another one is not
    found. A type may also be named by the signatures of its own file alone.
    """
    files = [file for other in workspace.crates for file in other.files.values()]
    for file in crate.files.values():
        for item in _PUBLISHED.finditer(file.code):
            name = item["name"]
            of_type = item["kind"] in ("struct", "enum", "trait", "type")
            own = of_type and len(re.findall(rf"\b{name}\b", file.other_code)) > 1
            if not own and not any(other.uses(name) for other in files if other is not file):
                line = rust_text.line_of(file.text, item.start())
                yield (
                    f"{file.path}:{line} publishes {name}, which no other file names outside of "
                    "tests. Make it private, or take it out."
                )


def proposed_layers(root: Path) -> str:
    """The layers as the imports have them today, as TOML: the floors of each crate's rooms, from
    the top.
    """
    workspace = Workspace([read_crate(root, folder) for folder in workspace_folders(root)])
    arrows = workspace.file_arrows()
    lines = ["[layers]"]
    for crate in workspace.crates:
        by_floor: dict[int, list[str]] = {}
        for room, floor in sorted(floors(room_graph(crate, own_arrows(crate, arrows))).items()):
            by_floor.setdefault(floor, []).append(room)
        lines.append(f'"{crate.folder}" = [')
        lines += [f"    {_toml(by_floor[floor])}," for floor in sorted(by_floor, reverse=True)]
        lines.append("]")
    return "\n".join(lines)


def _toml(rooms: list[str]) -> str:
    quoted = [f'"{room}"' for room in rooms]
    return quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"


def main(root: Path, arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/check-arrows", description=__doc__)
    parser.add_argument(
        "--propose",
        action="store_true",
        help="print the layers that today's imports have, and stop",
    )
    if parser.parse_args(arguments).propose:
        print(proposed_layers(root))
        return 0
    found = problems(root)
    print("\n".join(found) or "Imports go one way.")
    return 1 if found else 0
