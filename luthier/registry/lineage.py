"""What a version was made of, down to files of rows, and what was made of it: as a tree, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luthier.errors import ModelError
from luthier.registry.index import Registry, Version
from luthier.registry.names import SCHEME
from luthier.registry.origin import read_json
from luthier.supplies import filled
from luthier.tracking.run import INPUTS


@dataclass(frozen=True, slots=True)
class Node:
    """One thing, what is to be known of it, and what it was made of."""

    name: str
    what: str
    of: Sequence[Node] = ()


def lineage(registry: Registry, version: Version) -> Node:
    """A version with everything it was made of."""
    parents = [_parent(registry, parent) for parent in version.parents]
    if version.run:
        told = read_json(registry.folder(version) / INPUTS)
        rows = [Node(name, f"sha256 {(own['sha256'] or 'unknown')[:12]}") for name, own in told.get("data", {}).items()]
        step = f"the weights of step {version.metrics.get('final_step', 0):,.0f}"
        parents = [Node(f"run {version.run}", step, [*parents, *rows])]
    return Node(version.uri, f"{version.made}, weights {version.weights[:12]}", parents)


def _parent(registry: Registry, parent: str) -> Node:
    try:
        return (
            lineage(registry, registry.version(parent)) if parent.startswith(SCHEME) else Node(parent, "not registered")
        )
    except ModelError:
        return Node(parent, "deleted")


def made_of(registry: Registry, version: Version) -> list[Version]:
    """The versions that were made of one, and of those; the oldest first."""
    found = [version]
    for one in reversed(registry.versions()):  # parents are older than what is made of them
        if any(each.uri in one.parents for each in found):
            found.append(one)
    return found[1:]


def drawn(node: Node, below: Sequence[Version]) -> str:
    """An SVG picture of the tree: every line one thing, behind it what it was made of; above, what was made of it."""
    lines = [(0, len(below), Node(one.uri, f"{one.made} of {', '.join(one.parents)}")) for one in below]

    def grow(one: Node, depth: int, parent: int) -> None:
        row = len(lines)
        lines.append((depth, parent, one))
        for source in one.of:
            grow(source, depth + 1, row)

    grow(node, 1 if below else 0, len(below))
    return filled("luthier.registry", "lineage.svg.jinja", escape=True, lines=lines)
