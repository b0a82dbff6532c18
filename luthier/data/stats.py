"""What is in a source, in numbers: how long its rows are, how well they pack, who speaks, in which languages.

Every row is read and rendered; of texts only a sample is kept, to tell languages.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.config import SourceConfig
from luthier.data.clean.base import said
from luthier.data.conversation import Content, Task, conversations
from luthier.data.formats.base import read
from luthier.data.inspect import SAMPLE
from luthier.data.language import LANGUAGES, language
from luthier.data.mask import sequences
from luthier.data.pack import Layout, plan
from luthier.data.recognise import recognised
from luthier.data.render import Renderer
from luthier.data.sources import files_of
from luthier.errors import DataError, MissingExtra, RowError
from luthier.tracking.plot import HELD_OUT, TRAIN, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTHS = (512, 1024, 2048, 4096)
BATCH = 8
"""Rows of a padded batch that packing is held against."""
TOGETHER = 1000
"""Rows that are packed together, as LLaMA-Factory does."""
BARS = 5
"""Languages, roles and files that are drawn."""
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
        found = [rendered.tokens for rendered, _ in sequences(content, renderer)]
        text, talks = said(content, "").text, conversations(content)
        talk = content.asked if isinstance(content, Task) else talks[0] if talks else None
        lengths, learnt = list(map(len, found)), sum(tokens.supervised for tokens in found)
        self.characters.append(len(text))
        self.answer.append(learnt)
        self.prompt.append(sum(lengths) - learnt)
        self.whole.append(sum(lengths))
        self.lengths.extend(lengths)
        self.turns[len(talk.messages) if talk else 0] += 1
        self.roles.update(turn.role for turn in talk.messages) if talk else None
        place = len(self.sample) if len(self.sample) < SAMPLE else chance.randrange(len(self.whole))
        if place < SAMPLE:
            self.sample[place : place + 1] = [text[:2000]]

    def languages(self) -> Counter[str]:
        """How many rows of the sample are in which language; raises MissingExtra."""
        return Counter(LANGUAGES.get(language(text)[0], "none") for text in self.sample)


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
    result, chance, left = Stats(), random.Random(0), source.limit
    for file in files_of(source):
        if left == 0:
            break
        found = recognised(source, file, limit=left)
        for row in found.rows:
            left = None if left is None else left - 1
            result.files[file] += 1
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


# ---- a picture -----------------------------------------------------------------------------------------------------


def draw(found: Stats, target: Path, *, max_length: int, title: str) -> None:
    """Lengths, packing, languages, roles and files as a picture; without pyplot, as the loss is drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    panels: dict[str, Axes] = figure.subplot_mosaic("LLLPPP;aabbcc", height_ratios=(3, 2))
    _lengths(panels["L"], found, max_length)
    _packing(panels["P"], packings(found.lengths))
    languages: Counter[str] = Counter()
    with suppress(MissingExtra):
        languages = found.languages()
    files = Counter({Path(name).name: count for name, count in found.files.items()})
    counts = {
        f"languages, of {len(found.sample):,} rows": languages,
        "turns by role": found.roles,
        "rows by file": files,
    }
    for panel, (name, count) in zip("abc", counts.items(), strict=True):
        _bars(panels[panel], count.most_common(BARS), name)
    save(figure, target)


def _lengths(axes: Axes, found: Stats, max_length: int) -> None:
    beyond = sum(length > max_length for length in found.whole)
    for name, lengths, color in (
        ("prompt", found.prompt, TRAIN),
        ("answer", found.answer, HELD_OUT),
        ("both", found.whole, BOTH),
    ):
        axes.ecdf([max(length, 1) for length in lengths], color=color, linewidth=2, label=name)
    axes.axvline(max_length, color="black", linewidth=1, linestyle="--", label=f"{max_length:,}: {beyond:,} rows above")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    _framed(axes, "rows with at most so many tokens")
    axes.legend(frameon=False, fontsize=9, loc="upper left")  # where rows of few tokens would be


def _packing(axes: Axes, found: Sequence[Packing]) -> None:
    padded = f"padded, {BATCH} rows in file order"
    for shift, color, label, shares in (
        (-0.2, BOTH, "packed", [100 * one.packed for one in found]),
        (0.2, TRAIN, padded, [100 * one.padded for one in found]),
    ):
        bars = axes.bar([place + shift for place in range(len(found))], shares, 0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize=9)
    axes.set_xticks(range(len(found)), [f"{one.width:,}\n{one.longer:,} longer" for one in found])
    axes.set_yticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    axes.set_ylim(0, 125)
    _framed(axes, "tokens that are not padding, by max_length")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")


def _bars(axes: Axes, counts: Sequence[tuple[str, int]], title: str) -> None:
    bars = axes.barh(range(len(counts)), [count for _, count in counts], 0.6, color=TRAIN)
    names = [name if len(name) <= 20 else f"{name[:18]}..." for name, _ in counts]
    axes.set_yticks(range(len(counts)), names, fontsize=9)
    axes.bar_label(bars, [f"{count:,}" for _, count in counts], padding=4, fontsize=9)
    axes.set_ylim(BARS - 0.5, -0.5)
    axes.set_xticks([])
    axes.margins(x=0.35)
    axes.tick_params(length=0)
    _framed(axes, title)
    axes.spines[["left", "bottom"]].set_visible(False)


def _framed(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_xticks().size:
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
