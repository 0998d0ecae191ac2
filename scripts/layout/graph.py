"""Circles and floors of an import graph: for each node the nodes that it imports."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Set

Graph = Mapping[str, Set[str]]


def graph_of(nodes: Iterable[str], arrows: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """A graph of all the nodes, without arrows from a node to itself."""
    graph: dict[str, set[str]] = {node: set() for node in nodes}
    for source, target in arrows:
        if source != target:
            graph[source].add(target)
    return graph


def components(graph: Graph) -> list[list[str]]:
    """The strongly connected components (Tarjan); what a component imports comes before it."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        on_stack.add(node)
        for target in sorted(graph[node]):
            if target not in number:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in on_stack:
                lowest[node] = min(lowest[node], number[target])
        if lowest[node] == number[node]:
            cut = stack.index(node)
            found.append(sorted(stack[cut:]))
            on_stack.difference_update(stack[cut:])
            del stack[cut:]

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def tangles(graph: Graph) -> list[list[str]]:
    """The components of more than one node: each holds at least one circle."""
    return [component for component in components(graph) if len(component) > 1]


def shortest_circle(graph: Graph, tangle: list[str]) -> list[str]:
    """A shortest circle of a tangle, with its first node once more at the end."""
    circles = (_way_back(graph, node) for node in tangle)
    return min(circles, key=len)


def _way_back(graph: Graph, start: str) -> list[str]:
    ways = deque([[start]])
    seen: set[str] = set()
    while ways:
        way = ways.popleft()
        for target in sorted(graph[way[-1]]):
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    raise ValueError(f"{start} is in no circle.")


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each node: 1 for what imports nothing, else one above the highest of its
    imports.

    The nodes of a circle share a floor.
    """
    floor: dict[str, int] = {}
    for component in components(graph):
        below = [
            floor[target] for node in component for target in graph[node] if target not in component
        ]
        floor.update(dict.fromkeys(component, 1 + max(below, default=0)))
    return floor
