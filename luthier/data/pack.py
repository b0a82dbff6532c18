"""Token sequences into micro-batches: which rows share a forward pass, and where everything stands in it.

A step is a set of rows; how they are laid out (packed in one row, or padded with rows of like length) never changes
what is computed, only how fast. Knows no objective and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.data.conversation import Content, Origin
from luthier.data.render import Tokens

SHARED_TOKENS = 8
"""A prompt of fewer tokens is computed once for each answer: a piece of its own would cost more."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, rendered. Its sequences (one, or several that belong together) stay in one micro-batch."""

    origin: Origin
    content_id: str
    sequences: tuple[Tokens, ...]
    content: Content
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Further numbers for each supervised token `[N]`, such as a reference's log-probabilities."""
    companion: Example | None = None
    """Another example of which an objective takes statistics before a step."""
    row: int | str | None = None
    """Its number in the ledger; of a stream, which has none, what it says and where it stands."""

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(sequence) for sequence in self.sequences)

    @property
    def supervised(self) -> int:
        """Supervised tokens of all sequences."""
        return sum(sequence.supervised for sequence in self.sequences)

    @property
    def shared(self) -> int:
        """Tokens at the start of all its sequences that are equal and not supervised: one prompt, several answers.

        0 where there is one sequence only, or where too few are shared to be worth a piece of their own.
        """
        if len(self.sequences) < 2:
            return 0
        first, *others = self.sequences
        room = min(map(len, self.sequences)) - 1  # every answer keeps a token
        differs = np.zeros(room, dtype=bool)
        for other in others:
            differs |= (first.ids[:room] != other.ids[:room]) | (other.weights[:room] > 0)
        differs |= first.weights[:room] > 0
        length = int(differs.argmax()) if differs.any() else room
        return length if length >= SHARED_TOKENS else 0


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence in a batch: whose it is, where its last `own` tokens stand in the flattened batch, its length.

    Tokens before those are in the piece that it shares with the other sequences of its example.
    """

    example: int
    start: int
    length: int
    own: int


class Piece(NamedTuple):
    """A run of tokens in a packed row. It sees itself, and the pieces from its parent upwards."""

    length: int
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be predicted. A position may ask for several labels; positions without labels are never computed.

    `position` `[N]` indexes the flattened hidden states `[B*T]`, `label` `[N]` is the id to predict there, `weight`
    `[N]` its weight in the loss, `segment` `[N]` the index of its segment, `place` `[N]` where the label itself stands.
    """

    position: Tensor
    label: Tensor
    weight: Tensor
    segment: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: `ids` and `positions` `[B, T]`, the segments, and the targets.

    `pieces` say who sees whom where everything is packed into one row (then `B` is 1), else None. `columns` are further
    numbers `[N]` in the order of the targets, `contents` what each example says, `step` numbers that an objective took
    from the whole step.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    targets: Targets
    pieces: tuple[Piece, ...] | None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    contents: tuple[Content, ...] = ()
    step: Mapping[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        """What a model is called with."""
        packed = {} if self.pieces is None else {"pieces": self.pieces}
        return {"input_ids": self.ids, "position_ids": self.positions, **packed}

    def column(self, name: str) -> Tensor:
        """A further number for each target `[N]`; empty where nothing is asked."""
        return self.columns[name] if len(self.targets) else self.targets.weight

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        t = self.targets
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            targets=Targets(
                t.position.to(device), t.label.to(device), t.weight.to(device), t.segment.to(device), t.place.to(device)
            ),
            columns={name: column.to(device) for name, column in self.columns.items()},
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """How a step is cut: packed or padded, at most so many tokens and rows in one forward pass."""

    packing: bool
    tokens: int
    rows: int | None = None
    pad_id: int = 0

    def size(self, example: Example) -> int:
        """The tokens that an example takes: a shared prompt once, or its sequences padded to its longest."""
        if self.packing:
            return example.tokens - (len(example.sequences) - 1) * example.shared
        return len(example.sequences) * max(map(len, example.sequences))


def plan(lengths: Sequence[int], layout: Layout, *, ranks: int, multiple: int = 1) -> list[list[list[int]]]:
    """Which examples go where: `[rank][micro-batch][index into lengths]`; micro-batches in multiples of a number.

    Examples are sorted by length, filled into micro-batches under the layout's limits, and dealt to the ranks by load.
    Every rank gets the same number of micro-batches (some may be empty), so that collective calls always match.
    """
    bins = _fill(lengths, layout)
    # no rank idles while another has rows to spare
    while len(bins) < ranks * multiple and any(len(b) > 1 for b in bins):
        largest = max(bins, key=lambda b: (len(b) > 1, sum(lengths[i] for i in b)))
        bins.remove(largest)
        bins += [largest[::2], largest[1::2]]
    shares: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for group in sorted(bins, key=lambda b: (-sum(lengths[i] for i in b), b[0])):
        rank = loads.index(min(loads))
        shares[rank].append(group)
        loads[rank] += sum(lengths[i] for i in group)
    count = -(-max(len(share) for share in shares) // multiple) * multiple
    return [share + [[]] * (count - len(share)) for share in shares]


def _fill(lengths: Sequence[int], layout: Layout) -> list[list[int]]:
    """Longest first, each into the first group with room for it, else into a new one."""
    bins: list[list[int]] = []
    loads: list[int] = []
    rooms = _Rooms(len(lengths))
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        home = rooms.first(lengths[index])
        if home is None:
            home = len(bins)
            bins.append([])
            loads.append(0)
        group = bins[home]
        group.append(index)
        loads[home] += lengths[index]
        if layout.rows is not None and len(group) >= layout.rows:
            rooms.put(home, _FULL)
        elif layout.packing:
            rooms.put(home, layout.tokens - loads[home])
        else:  # the first of a group is its longest, so any later one fits where one more of that length does
            longest = lengths[group[0]]
            rooms.put(home, longest if longest * (len(group) + 1) <= layout.tokens else _FULL)
    return bins


_FULL = -1
"""Room in which not even an empty example fits."""


class _Rooms:
    """The room left in each group, as a tree of maxima: thousands of rows are planned in no time."""

    def __init__(self, groups: int) -> None:
        self.leaves = 1 << max(groups - 1, 0).bit_length()
        self.most = [_FULL] * (2 * self.leaves)

    def put(self, group: int, room: int) -> None:
        """Set the room of one group."""
        node = group + self.leaves
        self.most[node] = room
        while node > 1:
            node //= 2
            self.most[node] = max(self.most[2 * node], self.most[2 * node + 1])

    def first(self, length: int) -> int | None:
        """The first group with room for a length."""
        if self.most[1] < length:
            return None
        node = 1
        while node < self.leaves:
            node *= 2
            node += self.most[node] < length  # the left half where it has room, else the right one
        return node - self.leaves


def lay_out(examples: Sequence[Example], layout: Layout) -> Batch:
    """One micro-batch. No examples give one padding token without targets, for a rank with nothing to do."""
    rows = _Rows(layout.pad_id)
    for index, example in enumerate(examples):
        shared = example.shared if layout.packing else 0
        parent = rows.add(example.sequences[0], 0, shared) if shared else None
        for sequence in example.sequences:
            rows.sequence(index, sequence, shared, parent)
    if not examples:
        rows.sequence(0, Tokens(np.full(1, layout.pad_id, dtype=np.int32), np.zeros(1, dtype=np.float32)), 0, None)
    return rows.batch(examples, packing=layout.packing)


class _Rows:
    """Pieces of sequences, put one behind the other (or each in a row of its own) into tensors."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self.pieces: list[Piece] = []
        self.ids: list[NDArray[np.int32]] = []
        self.first: list[int] = []
        """The position of a piece's first token in its sequence."""
        self.segments: list[tuple[int, int, Tokens]] = []
        """Of each: its example, the piece it ends with, and its sequence."""

    def add(self, sequence: Tokens, start: int, end: int, parent: int | None = None) -> int:
        """A piece of a sequence; returns its number."""
        self.pieces.append(Piece(end - start, parent))
        self.ids.append(sequence.ids[start:end])
        self.first.append(start)
        return len(self.pieces) - 1

    def sequence(self, example: int, sequence: Tokens, shared: int, parent: int | None) -> None:
        """What a sequence has of its own, behind the piece it shares."""
        self.segments.append((example, self.add(sequence, shared, len(sequence), parent), sequence))

    def batch(self, examples: Sequence[Example], *, packing: bool) -> Batch:
        """Everything as tensors."""
        lengths = [piece.length for piece in self.pieces]
        width = sum(lengths) if packing else max(lengths)
        count = 1 if packing else len(lengths)
        starts = [int(s) for s in (np.cumsum([0, *lengths[:-1]]) if packing else np.arange(count) * width)]
        ids = np.full(count * width, self.pad_id, dtype=np.int64)
        positions = np.zeros(count * width, dtype=np.int64)
        for start, own, first in zip(starts, self.ids, self.first, strict=True):
            ids[start : start + len(own)] = own
            positions[start : start + len(own)] = first + np.arange(len(own))
        return Batch(
            ids=torch.from_numpy(ids).view(count, width),
            positions=torch.from_numpy(positions).view(count, width),
            segments=tuple(Segment(e, starts[p], len(s), self.pieces[p].length) for e, p, s in self.segments),
            targets=self._targets(starts),
            pieces=tuple(self.pieces) if packing else None,
            columns={
                name: torch.from_numpy(np.concatenate([example.columns[name] for example in examples]))
                for name in (examples[0].columns if examples else ())
            },
            contents=tuple(example.content for example in examples),
        )

    def _targets(self, starts: Sequence[int]) -> Targets:
        """Token t of a sequence is predicted at position t - 1, which for the first of its own is the parent's last."""
        found: list[tuple[NDArray[np.int64], ...]] = []
        weights = []
        for number, (_, piece, sequence) in enumerate(self.segments):
            asked = np.flatnonzero(sequence.weights[1:]).astype(np.int64) + 1
            place = asked - self.first[piece] + starts[piece]
            parent = self.pieces[piece].parent
            before = place - 1
            if parent is not None:
                before[asked == self.first[piece]] = starts[parent] + self.pieces[parent].length - 1
            found.append((before, sequence.ids[asked].astype(np.int64), np.full(len(asked), number), place))
            weights.append(sequence.weights[asked])
        positions, labels, segments, places = (torch.from_numpy(np.concatenate(c)) for c in zip(*found, strict=True))
        return Targets(positions, labels, torch.from_numpy(np.concatenate(weights)), segments, places)
