"""What two finished runs, or versions of the registry, do not have in common: settings, machines, rows, weights."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

NAMED_ROWS = 5
"""Rows that a message names."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of two models: hashes of its bytes, and the norm of the difference over the norm of the first."""

    name: str
    before: str
    after: str
    distance: float


def weights(before: Path, after: Path) -> list[Weight]:
    """Every tensor of two folders; what only one has, or in another shape, is infinitely far."""
    from safetensors import safe_open

    found: list[dict[str, Any]] = []
    for folder in (before, after):
        opened = [safe_open(file, framework="pt") for file in sorted(folder.glob("*.safetensors"))]
        found.append({name: file for file in opened for name in cast(Any, file).keys()})  # noqa: SIM118 - no mapping
    weighed = []
    for name in sorted(found[0] | found[1]):
        one, other = (side[name].get_tensor(name) if name in side else None for side in found)
        first, second = _hash(one), _hash(other)
        distance = 0.0 if first == second else float("inf")
        if distance and one is not None and other is not None and one.shape == other.shape:
            distance = float((one.double() - other.double()).norm() / one.double().norm().clamp_min(1e-30))
        weighed.append(Weight(name, first, second, distance))
    return weighed


def _hash(tensor: Any) -> str:
    import torch

    if tensor is None:
        return "none"
    told = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    told.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return told.hexdigest()


def changed_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Rows of two ledgers that are not in both as they are: which, and what became of them."""
    trees = (tree.get("rows", ()) for tree in (before, after))
    had, have = (Counter((row["file"], row["line"], row.get("content_id", "")) for row in rows) for rows in trees)
    gone, new = ({row[:2] for row in part} for part in (had - have, have - had))
    fates = {(True, True): "says something else", (True, False): "is gone", (False, True): "is new"}
    return [f"{place[0]}:{place[1]} {fates[place in gone, place in new]}" for place in sorted(gone | new)]


def named(rows: Iterable[str]) -> str:
    """The first of many sentences, and how many more there are."""
    first = list(rows)
    more = f", and {len(first) - NAMED_ROWS:,} more" if len(first) > NAMED_ROWS else ""
    return ", ".join(first[:NAMED_ROWS]) + more
