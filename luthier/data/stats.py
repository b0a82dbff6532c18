"""What is in a source, in numbers: how long its rows are, how well they pack, who speaks, in which languages.

Every row is read and rendered; of texts only a sample is kept, to tell languages.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from luthier.config import SourceConfig
from luthier.data.clean.base import said
from luthier.data.conversation import Content
from luthier.data.formats.base import read
from luthier.data.inspect import SAMPLE
from luthier.data.mask import sequences
from luthier.data.pack import Layout, plan
from luthier.data.recognise import files
from luthier.data.render import Renderer
from luthier.errors import DataError, RowError
from luthier.tracking.plot import HELD_OUT, TRAIN, save

WIDTHS = (512, 1024, 2048, 4096)
BATCH = 8
"""Rows of a padded batch that packing is held against."""
TOGETHER = 1000
"""Rows that are packed together, as LLaMA-Factory does."""
BOTH = "#1d4ed8"


def _numbers() -> array[int]:
    return array("L")


@dataclass(slots=True)
class Stats:
    """Characters, tokens (of prompt, answer and both), turns and roles of the usable rows; the others by reason.

    A row that gives several sequences counts their tokens together; `lengths` holds each of them.
    """

    files: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    first_bad: dict[str, str] = field(default_factory=dict)
    characters: array[int] = field(default_factory=_numbers)
    prompt: array[int] = field(default_factory=_numbers)
    answer: array[int] = field(default_factory=_numbers)
    whole: array[int] = field(default_factory=_numbers)
    lengths: array[int] = field(default_factory=_numbers)
    turns: Counter[int] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    sample: list[str] = field(default_factory=list)

    def add(self, content: Content, renderer: Renderer, chance: random.Random) -> None:
        """Take a row into account; raises RowError where nothing can be learnt from it."""
        found = sequences(content, renderer)
        lengths, text, turns = [len(one.tokens) for one, _ in found], said(content, "").text, found[0][1].messages
        self.characters.append(len(text))
        self.answer.append(sum(one.tokens.supervised for one, _ in found))
        self.prompt.append(sum(lengths) - self.answer[-1])
        self.whole.append(sum(lengths))
        self.lengths.extend(lengths)
        self.turns[len(turns)] += 1
        self.roles.update(turn.role for turn in turns)
        place = len(self.sample) if len(self.sample) < SAMPLE else chance.randrange(len(self.whole))
        if place < SAMPLE:
            self.sample[place : place + 1] = [text[:2000]]


class Packing(NamedTuple):
    """Shares of tokens that are not padding, in rows of a width; `longer` sequences are cut to it."""

    width: int
    packed: float
    padded: float
    longer: int


def stats(source: SourceConfig, renderer: Renderer) -> Stats:
    """Look at all rows of a source.

    Raises:
        DataError: as reading it does, or no row can be used.
    """
    result, chance = Stats(), random.Random(0)
    for found in files(source):
        for row in found.rows:
            result.files[found.file] += 1
            try:
                result.add(read(found.format, row), renderer, chance)
            except RowError as error:
                result.bad[error.reason] += 1
                result.first_bad.setdefault(error.reason, f"{row.origin}: {error.detail}")
    if not result.whole:
        raise DataError(f"{source.path}: no row can be used; {next(iter(result.first_bad.values()), 'it is empty')}")
    return result


def packings(lengths: Sequence[int], widths: Sequence[int] = WIDTHS) -> list[Packing]:
    """How full rows of some widths are: packed, longest first into the first with room, or padded in file order."""
    found = []
    for width in widths:
        cut = [min(length, width) for length in lengths]
        groups = [cut[at : at + TOGETHER] for at in range(0, len(cut), TOGETHER)]
        rows = sum(len(plan(group, Layout(packing=True, tokens=width), ranks=1)[0]) for group in groups)
        batches = [cut[at : at + BATCH] for at in range(0, len(cut), BATCH)]
        padded = sum(len(batch) * max(batch) for batch in batches)
        longer = sum(length > width for length in lengths)
        found.append(Packing(width, sum(cut) / (rows * width), sum(cut) / padded, longer))
    return found


def draw(found: Stats, target: Path, *, max_length: int, title: str) -> None:
    """Lengths and packing as a picture; without pyplot, as the loss is drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    lengths, packed = figure.subplots(1, 2)
    beyond = sum(length > max_length for length in found.whole)
    curves = (("prompt", found.prompt, TRAIN), ("answer", found.answer, HELD_OUT), ("both", found.whole, BOTH))
    for name, tokens, color in curves:
        lengths.ecdf([max(count, 1) for count in tokens], color=color, linewidth=2, label=name)
    lengths.axvline(max_length, color="black", linewidth=1, ls="--", label=f"{max_length:,}: {beyond:,} rows above")
    lengths.set_xscale("log", base=2)
    lengths.xaxis.set_major_formatter("{x:,.0f}")
    lengths.set_title("rows with at most so many tokens", loc="left", fontsize=10)
    widths = packings(found.lengths)
    for shift, color, label, part in (
        (-0.2, BOTH, "packed", 1),
        (0.2, TRAIN, f"padded, {BATCH} rows in file order", 2),
    ):
        shares = [float(one[part]) for one in widths]
        bars = packed.bar([place + shift for place in range(len(widths))], shares, 0.38, color=color, label=label)
        packed.bar_label(bars, [f"{100 * share:.0f}" for share in shares], fontsize=9)
    packed.set_xticks(range(len(widths)), [f"{one.width:,}\n{one.longer:,} longer" for one in widths])
    packed.set_title("tokens that are not padding, by max_length", loc="left", fontsize=10)
    packed.set_ylim(0, 1.25)
    for axes in (lengths, packed):
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=1 if axes is lengths else 2)
    save(figure, target)
