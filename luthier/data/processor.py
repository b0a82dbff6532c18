"""The data processor: files -> rows -> sides -> token sequences, every row accounted for.

Replaceable: `Factory(data=...)` takes any `DataProcessorLike`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Protocol

from luthier.config import DataConfig, SourceConfig
from luthier.data.conversation import Content, Origin, Row
from luthier.data.formats import base as formats
from luthier.data.ledger import Entry, Ledger, Outcome, Side
from luthier.data.pack import Example
from luthier.data.render import Renderer, Tokens
from luthier.data.sources import read_rows, with_columns
from luthier.data.split import sides
from luthier.errors import DataError, RowError
from luthier.plugins import UnknownPart, names


class Renders(Protocol):
    """What the data processor sees of an objective."""

    joint: ClassVar[bool]
    """Whether the sequences of a row belong together, so that none can be cut away."""
    online: ClassVar[bool]
    """Whether a row's sequence is a prompt, so that nothing of it is supervised and it cannot be cut."""

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The sequences a row gives; raises RowError for a row that cannot be learnt from."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was decided about one file: its format, whether it was recognised or named, and its number of rows."""

    file: str
    format: str
    recognised: bool
    rows: int

    def __str__(self) -> str:
        how = "recognised" if self.recognised else "as the config says"
        return f"{self.file}: {self.rows} rows, format {self.format} ({how})"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rendered rows of both sides, the ledger, and what was decided about each file."""

    train: list[Example]
    held_out: list[Example]
    ledger: Ledger
    readings: list[Reading]


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row and what it says."""

    origin: Origin
    content: Content


class DataProcessorLike(Protocol):
    """What `Factory(data=...)` takes."""

    def prepare(self, config: DataConfig, renderer: Renderer, objective: Renders) -> Prepared:
        """Rendered rows of both sides, every row accounted for."""


class DataProcessor:
    """The built-in data processor."""

    def prepare(self, config: DataConfig, renderer: Renderer, objective: Renders) -> Prepared:
        """Read, split and render.

        Raises:
            DataError: a file cannot be read, or no row is left to train on.
        """
        ledger, readings = Ledger(), list[Reading]()
        rows = self.read(config.train, ledger, readings)
        if isinstance(config.held_out, list):
            held = self.read(config.held_out, ledger, readings, side="held_out")
            placed = [(row, "train") for row in rows] + [(row, "held_out") for row in held]
        else:
            chosen = sides([row.content.content_id for row in rows], held_out=config.held_out)
            placed = list(zip(rows, chosen, strict=True))
        parts: dict[str, list[Example]] = {"train": [], "held_out": []}
        for row, side in placed:
            example = _render(row, "train" if side == "train" else "held_out", config, renderer, objective, ledger)
            if example is not None:
                parts[side].append(example)
        ledger.close()
        if not parts["train"]:
            why = (
                ", ".join(f"{count} x {reason}" for reason, count in ledger.reasons().items()) or "the files are empty"
            )
            first = next((e for e in ledger.entries if e.outcome == "dropped" and e.side == "train"), None)
            where = f"; first: {first.file}:{first.line}: {first.detail}" if first else ""
            raise DataError(f"no row is left to train on ({ledger.rows_read} read; {why}){where}")
        return Prepared(parts["train"], parts["held_out"], ledger, readings)

    def read(
        self,
        sources: Sequence[SourceConfig],
        ledger: Ledger,
        readings: list[Reading],
        *,
        side: Side = "train",
    ) -> list[ReadRow]:
        """The rows of some files, in their layouts; rows that cannot be used go to the ledger."""
        result = []
        for source in sources:
            rows = list(read_rows(source.path, limit=source.limit))
            if not rows:
                raise DataError(f"{source.path}: the file holds no rows")
            if source.columns:
                rows = with_columns(rows, source.columns, source.path)
            format_name = recognised(source, rows)
            readings.append(Reading(source.path, format_name, source.format == "auto", len(rows)))
            for row in rows:
                ledger.read()
                try:
                    result.append(ReadRow(row.origin, formats.named(format_name).read(row)))
                except RowError as error:
                    ledger.drop(row.origin, error, side=side)
        return result


def recognised(source: SourceConfig, rows: Sequence[Row]) -> str:
    """The format of a file: the one the config names, or the one its rows have."""
    if source.format == "auto":
        return formats.recognise(list(islice(rows, formats.SAMPLE_ROWS)), source.path)
    if source.format not in names("format"):
        raise UnknownPart("format", source.format)
    return source.format


def _render(
    row: ReadRow, side: Side, config: DataConfig, renderer: Renderer, objective: Renders, ledger: Ledger
) -> Example | None:
    identity = row.content.content_id
    try:
        rendered = objective.sequences(row.content, renderer)
        sequences, outcome = fit(rendered, config, joint=objective.joint, asked=objective.online)
    except RowError as error:
        ledger.drop(row.origin, error, side=side, content_id=identity)
        return None
    example = Example(row.origin, identity, tuple(sequences), row.content)
    ledger.record(
        Entry(
            row.origin.file,
            row.origin.line,
            side,
            outcome,
            reason="" if outcome == "kept" else "over-length",
            detail="" if outcome == "kept" else _lost(rendered, example),
            content_id=identity,
            sequences=len(sequences),
            tokens=example.tokens,
        )
    )
    return example


def _lost(rendered: Sequence[Tokens], example: Example) -> str:
    """What `over_length` cut off from a row."""
    tokens, supervised = sum(map(len, rendered)), sum(sequence.supervised for sequence in rendered)
    return (
        f"{tokens - example.tokens} of {tokens} tokens were left out, "
        f"{supervised - example.supervised} of {supervised} supervised ones among them"
    )


def fit(
    sequences: Sequence[Tokens], config: DataConfig, *, joint: bool = False, asked: bool = False
) -> tuple[list[Tokens], Outcome]:
    """Apply `over_length`. With `error`, long sequences pass, and the check before training refuses the run.

    `joint` sequences stay together, `asked` are prompts.

    Raises:
        RowError: `over-length` when dropping, `no-supervised-token` when nothing to learn is left.
    """
    limit, longest = config.max_length, max((len(sequence) for sequence in sequences), default=0)
    outcome: Outcome = "kept"
    kept = list(sequences)
    if longest > limit and config.over_length == "drop":
        raise RowError("", "over-length", f"{longest} tokens, data.max_length is {limit}")
    if longest > limit and config.over_length == "split" and joint:
        raise RowError("", "over-length", f"{longest} tokens, and answers that are compared cannot be split")
    if longest > limit and config.over_length != "error" and asked:
        raise RowError("", "over-length", f"{longest} tokens, and a prompt cannot be cut")
    if longest > limit and config.over_length in ("truncate", "split"):
        outcome = "truncated" if config.over_length == "truncate" else "split"
        cuts = [_cut(sequence, limit) for sequence in sequences]
        kept = [piece for pieces in cuts for piece in (pieces[:1] if outcome == "truncated" else pieces)]
    learnt = [sequence for sequence in kept if sequence.supervised or asked]
    kept, whole = learnt, len(learnt) == len(kept)
    if not kept or (joint and not whole):
        after = f" in the first {limit} tokens (data.max_length)" if outcome != "kept" else ""
        raise RowError("", "no-supervised-token", f"no supervised token{after}")
    return kept, outcome


def _cut(sequence: Tokens, limit: int) -> list[Tokens]:
    """Consecutive pieces of at most `limit` tokens; the first token of a piece has no predictor."""
    pieces = []
    for start in range(0, len(sequence), limit):
        weights = sequence.weights[start : start + limit].copy()
        weights[0] = 0
        pieces.append(Tokens(sequence.ids[start : start + limit], weights))
    return pieces
