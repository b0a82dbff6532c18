"""Which side a row falls on: decided by what it says, so it stays there when other rows are added or reordered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from luthier.data.ledger import Side


def sides(content_ids: Sequence[str], *, held_out: float) -> list[Side]:
    """The side of each row. Equal rows share a side.

    A row is held out when a hash of its content, read as a fraction of 1, is below `held_out`. Where that takes no
    row or every row of a small set, the one with the lowest (highest) hash is moved, so that both sides exist.
    """
    places = [place(identity) for identity in content_ids]
    distinct = set(places)
    if held_out == 0 or len(distinct) < 2:
        return ["train"] * len(places)
    chosen = {place for place in distinct if place < held_out} or {min(distinct)}
    if chosen == distinct:
        chosen.discard(max(distinct))
    return ["held_out" if place in chosen else "train" for place in places]


def place(content_id: str, purpose: str = "") -> float:
    """A number in [0, 1) that a row always has, independent of the one it has for another purpose."""
    return int.from_bytes(hashlib.blake2b((purpose + content_id).encode(), digest_size=8).digest()) / 2**64
