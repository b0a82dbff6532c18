"""YAML: a list of rows, or a mapping of which one key holds them, as chatterbot's corpus has it.

Every plain value is text as it was written: `- no` and `- 007` are somebody's words here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from luthier.data.files.base import How
from luthier.data.files.opened import Opened
from luthier.data.strict import MAX_DEPTH
from luthier.errors import DataError

Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Yaml:
    """Rows as YAML values, all scalars strings."""

    suffixes = (".yaml", ".yml")

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each row with the line it starts on."""
        text = how.whole(file)
        try:
            root = yaml.compose(text, Loader=Loader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise DataError(f"{file}:{line}: not valid YAML: {error.problem}") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise DataError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from None
        if root is None:
            raise DataError(f"{file}: the file is empty")
        seen: set[int] = set()
        for node in _rows(root, str(file)):
            yield node.start_mark.line + 1, _value(node, str(file), seen, 0)


def _rows(root: Node, name: str) -> list[Node]:
    if isinstance(root, SequenceNode):
        return list(root.value)
    if isinstance(root, MappingNode):
        holders = [value for _, value in root.value if isinstance(value, SequenceNode) and _holds(value)]
        if len(holders) > 1:
            raise DataError(f"{name}: {len(holders)} keys hold lists of rows; put each in a file of its own")
        return list(holders[0].value) if holders else [root]
    return [root]


def _holds(node: SequenceNode) -> bool:
    """A list mostly of lists or mappings that are not chat messages."""
    inner = list(node.value)
    messages = any(
        isinstance(row, MappingNode) and any(key.value in ("role", "from") for key, _ in row.value) for row in inner
    )
    return not messages and 2 * sum(not isinstance(row, ScalarNode) for row in inner) > len(inner)


def _value(node: Node, name: str, seen: set[int], depth: int) -> Any:
    where = f"{name}:{node.start_mark.line + 1}"
    if depth > MAX_DEPTH:
        raise DataError(f"{where}: nested too deeply (more than {MAX_DEPTH} levels)")
    if isinstance(node, ScalarNode):
        return node.value
    if id(node) in seen:  # a few aliases can stand for more rows than any disk holds
        raise DataError(f"{where}: aliases (*) of lists and mappings are not read; write them out")
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        return [_value(child, name, seen, depth + 1) for child in node.value]
    result: dict[str, Any] = {}
    for key, child in node.value:
        if not isinstance(key, ScalarNode):
            raise DataError(f"{where}: a key must be text")
        if key.value in result:
            raise DataError(f"{name}:{key.start_mark.line + 1}: the key {key.value!r} is given twice")
        result[key.value] = _value(child, name, seen, depth + 1)
    return result
