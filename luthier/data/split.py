"""Which side a row falls on: decided by what it says, so it stays there when other rows are added or reordered."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from luthier.data.clean.base import said
from luthier.data.clean.near import Index
from luthier.data.conversation import Content, Conversation, Labelled, Preference, Task, Text
from luthier.data.language import language

Together = Literal["near-duplicates", "conversations"]
Strata = Literal["source", "language", "label"]
ALIKE = 0.8
"""Share of shingles that near-duplicates have in common."""
BATCH = 1000
"""Rows that are compared at once."""
FEW = 5
"""Rows of a kind below which it is no stratum of its own."""


def held_out(
    identities: Iterable[str], *, share: float, seed: int = 0, strata: Sequence[str] | None = None
) -> NDArray[np.bool_]:
    """Whether each row is held out. Equal identities share a side.

    A row is held out when a hash of its identity, read as a fraction of 1, is below `share`; from 1 on that is a
    number of rows, those of lowest hash. Where a share takes no row or every row of a small set, the one with the
    lowest (highest) hash is moved, so that both sides exist. With `strata` this is done in each of them.
    """
    places = np.fromiter((place_for(seed, identity) for identity in identities), dtype=np.float64)
    count = round(share) if share >= 1 else None
    share = share / max(len(places), 1) if share >= 1 else share
    if strata is None:
        return _chosen(places, share, count)
    chosen, kinds = np.zeros(len(places), dtype=bool), np.asarray(strata, dtype=object)
    for kind in dict.fromkeys(strata):
        inside = kinds == kind
        chosen[inside] = _chosen(places[inside], share, None if count is None else round(share * int(inside.sum())))
    return chosen


def _chosen(places: NDArray[np.float64], share: float, count: int | None) -> NDArray[np.bool_]:
    """Which places are held out: those below a share, or of so many rows."""
    distinct = np.unique(places)
    if share == 0 or len(distinct) < 2:
        return np.zeros(len(places), dtype=bool)
    if count is not None:
        last = np.sort(places)[min(count, len(places) - 1) - 1] if count else -1.0
        chosen: NDArray[np.bool_] = (places <= last) & (places < distinct[-1])
        return chosen
    chosen = places < min(share, distinct[-1])
    return chosen if chosen.any() else places == distinct[0]


def place(identity: str, purpose: str = "") -> float:
    """A number in [0, 1) that a row always has, independent of the one it has for another purpose."""
    return int.from_bytes(hashlib.blake2b((purpose + identity).encode(), digest_size=8).digest()) / 2**64


def place_for(seed: int, identity: str) -> float:
    """The place by which a split of this seed decides."""
    return place(identity, "" if seed == 0 else f"{seed}:")


def times(identity: str, weight: float) -> int:
    """How often a row is seen in an epoch: its source's weight, the fraction rounded up for that share of the rows."""
    return int(weight) + (place(identity, "weight") < weight % 1)


# ---- which rows belong together, and of which kind a row is ---------------------------------------------------------


def identities(contents: Sequence[Content], together: Iterable[Together]) -> list[str]:
    """What decides the side of each row: its own content, or that of the first row which it belongs to."""
    result = [content.content_id for content in contents]
    first: dict[str, str] = {}

    def join(own: str, other: str) -> None:
        own, other = _root(first, own), _root(first, other)
        if own != other:
            first[own] = other

    for kind in together:
        if kind == "conversations":
            begun: dict[str, str] = {}
            for content, own in zip(contents, result, strict=True):
                join(own, begun.setdefault(_beginning(content) or own, own))
        else:
            index = Index(ALIKE)
            for start in range(0, len(contents), BATCH):
                texts = [said(content, "").text for content in contents[start : start + BATCH]]
                for own, sketch in zip(result[start : start + BATCH], index.sketches(texts), strict=True):
                    _, other = index.match(sketch)
                    join(own, other or own)
                    index.add(own, sketch)
    return [_root(first, own) for own in result]


def _root(first: dict[str, str], own: str) -> str:
    while own in first:
        own = first[own]
    return own


def _beginning(content: Content) -> str | None:
    """What a conversation of several turns begins with: pieces of one conversation begin alike."""
    talks = (content.chosen,) if isinstance(content, Preference) else (content,)
    talk = talks[0].answer if isinstance(talks[0], Labelled) else talks[0]
    if not isinstance(talk, Conversation):
        return None
    users = [number for number, turn in enumerate(talk.messages) if turn.role == "user"]
    return Conversation(talk.messages[: users[0] + 1]).content_id if users else None


def strata(contents: Sequence[Content], sources: Sequence[str], by: Strata) -> list[str]:
    """The kind of each row, so that both sides have as much of each."""
    kind: Callable[[Content], str] = _label if by == "label" else lambda content: language(said(content, "").text)[0]
    kinds = list(sources) if by == "source" else [kind(content) for content in contents]
    counts = Counter(kinds)
    return [kind if counts[kind] >= FEW else "" for kind in kinds]


def _label(content: Content) -> str:
    """A verdict, the right answer, or a short answer: what a classification would learn."""
    if isinstance(content, Labelled):
        return str(content.wanted)
    if isinstance(content, Task):
        return content.answer or ""
    if isinstance(content, Text | Preference):
        return ""
    return content.messages[-1].content
