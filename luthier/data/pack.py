"""Token sequences into micro-batches: which rows share a forward pass, and where everything stands in it.

A step is a set of rows; how they are laid out (packed in one row, or padded with rows of like length) never changes
what is computed, only how fast. Knows no objective and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.data.conversation import Content, Origin
from luthier.data.render import Tokens


@dataclass(frozen=True, slots=True)
class Example:
    """One row, rendered. Its sequences (one, or several that belong together) stay in one micro-batch."""

    origin: Origin
    content_id: str
    sequences: tuple[Tokens, ...]
    content: Content
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Further numbers for each supervised token `[N]`, such as a reference's log-probabilities."""

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(sequence) for sequence in self.sequences)

    @property
    def supervised(self) -> int:
        """Supervised tokens of all sequences."""
        return sum(sequence.supervised for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence in a batch: whose it is, and where it stands in the flattened batch."""

    example: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be predicted. A position may ask for several labels; positions without labels are never computed.

    `position` `[N]` indexes the flattened hidden states `[B*T]`, `label` `[N]` is the id to predict there, `weight`
    `[N]` its weight in the loss, `segment` `[N]` the index of its segment.
    """

    position: Tensor
    label: Tensor
    weight: Tensor
    segment: Tensor

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: `ids` and `positions` `[B, T]`, the segments, and the targets.

    `lengths` is the lengths of the segments where they are packed into one row (then `B` is 1), else None. `columns`
    are further numbers `[N]` in the order of the targets.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    targets: Targets
    lengths: tuple[int, ...] | None
    columns: Mapping[str, Tensor] = field(default_factory=dict)

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
            targets=Targets(t.position.to(device), t.label.to(device), t.weight.to(device), t.segment.to(device)),
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
        """The tokens that an example takes: its sequences, all padded to its longest where rows are padded."""
        return example.tokens if self.packing else len(example.sequences) * max(map(len, example.sequences))


def plan(lengths: Sequence[int], layout: Layout, *, ranks: int) -> list[list[list[int]]]:
    """Which examples go where: `[rank][micro-batch][index into lengths]`.

    Examples are sorted by length, filled into micro-batches under the layout's limits, and dealt to the ranks by load.
    Every rank gets the same number of micro-batches (some may be empty), so that collective calls always match.
    """
    bins = _fill(lengths, layout)
    while len(bins) < ranks and any(len(b) > 1 for b in bins):  # no rank idles while another has rows to spare
        largest = max(bins, key=lambda b: (len(b) > 1, sum(lengths[i] for i in b)))
        bins.remove(largest)
        bins += [largest[::2], largest[1::2]]
    shares: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for group in sorted(bins, key=lambda b: (-sum(lengths[i] for i in b), b[0])):
        rank = loads.index(min(loads))
        shares[rank].append(group)
        loads[rank] += sum(lengths[i] for i in group)
    count = max(len(share) for share in shares)
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
    sequences = [(index, sequence) for index, example in enumerate(examples) for sequence in example.sequences]
    if not sequences:
        blank = Tokens(np.full(1, layout.pad_id, dtype=np.int32), np.zeros(1, dtype=np.float32))
        sequences = [(0, blank)]
    lengths = [len(sequence) for _, sequence in sequences]
    width = sum(lengths) if layout.packing else max(lengths)
    rows = 1 if layout.packing else len(sequences)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if layout.packing else np.arange(rows) * width
    ids = np.full(rows * width, layout.pad_id, dtype=np.int64)
    positions = np.zeros(rows * width, dtype=np.int64)
    targets: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, ((_, sequence), start) in enumerate(zip(sequences, starts, strict=True)):
        place = slice(int(start), int(start) + len(sequence))
        ids[place] = sequence.ids
        positions[place] = np.arange(len(sequence))
        asked = np.flatnonzero(sequence.weights[1:]) + 1  # token t is predicted at position t - 1
        targets.append((start + asked - 1, sequence.ids[asked], sequence.weights[asked], np.full(len(asked), number)))
    position, label, weight, segment = (np.concatenate(column) for column in zip(*targets, strict=True))
    return Batch(
        ids=torch.from_numpy(ids).view(rows, width),
        positions=torch.from_numpy(positions).view(rows, width),
        segments=tuple(Segment(i, int(s), n) for (i, _), s, n in zip(sequences, starts, lengths, strict=True)),
        targets=Targets(
            position=torch.from_numpy(position.astype(np.int64)),
            label=torch.from_numpy(label.astype(np.int64)),
            weight=torch.from_numpy(weight.astype(np.float32)),
            segment=torch.from_numpy(segment.astype(np.int64)),
        ),
        lengths=tuple(lengths) if layout.packing else None,
        columns={
            name: torch.from_numpy(np.concatenate([example.columns[name] for example in examples]))
            for name in (examples[0].columns if examples else ())
        },
    )
