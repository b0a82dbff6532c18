"""The data processor: files -> rows -> sides -> token sequences, every row accounted for.

Replaceable: `Factory(data=...)` takes any `DataProcessorLike`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

from luthier.config import DataConfig, SourceConfig
from luthier.data.clean.base import CleanerSettings, Drop
from luthier.data.clean.pipeline import Cleaning
from luthier.data.conversation import Content, Origin
from luthier.data.ledger import Entry, Ledger, Outcome, Side
from luthier.data.pack import Example
from luthier.data.recognise import Reading, recognised
from luthier.data.render import Renderer, Tokens
from luthier.data.sources import files_of, resolved
from luthier.data.split import identities, place, sides, strata
from luthier.errors import DataError, RowError


class Renders(Protocol):
    """What the data processor sees of an objective."""

    joint: ClassVar[bool]
    """Whether the sequences of a row belong together, so that none can be cut away."""
    online: ClassVar[bool]
    """Whether a row's sequence is a prompt, so that nothing of it is supervised and it cannot be cut."""

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The sequences a row gives; raises RowError for a row that cannot be learnt from."""


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
    weight: float = 1.0
    mended: str = ""


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
        cleaning = Cleaning(cast(list[CleanerSettings], config.clean))
        held: list[ReadRow] = []
        if isinstance(config.held_out, list):  # first, so that training rows which repeat them are the ones to go
            held = self.read(config.held_out, ledger, readings, side="held_out", cleaning=cleaning.reading())
        rows = self.read(config.train, ledger, readings, cleaning=cleaning)
        if isinstance(config.held_out, list):
            placed = [(row, "train") for row in rows] + [(row, "held_out") for row in held]
        else:
            contents = [row.content for row in rows]
            kinds = strata(contents, [row.origin.file for row in rows], config.stratify) if config.stratify else None
            together = identities(contents, config.keep_together)
            chosen = sides(together, held_out=config.held_out, seed=config.split_seed, strata=kinds)
            placed = list(zip(rows, chosen, strict=True))
        parts: dict[str, list[Example]] = {"train": [], "held_out": []}
        for row, side in placed:
            seen = times(row.content.content_id, row.weight) if side == "train" else 1
            if not seen:
                drop = Drop("weight", row.weight, 1.0, f"the weight of its source, {row.weight:g}, leaves it out")
                ledger.judge(row.origin, drop, side="train", content_id=row.content.content_id)
                continue
            example = _render(row, "train" if side == "train" else "held_out", config, renderer, objective, ledger)
            if example is not None:
                parts[side] += [example] * seen
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
        cleaning: Cleaning | None = None,
    ) -> list[ReadRow]:
        """The rows of some files, in their layouts and cleaned; rows that cannot be used go to the ledger."""
        result = []
        for given in sources:
            source = resolved(given)
            left = source.limit
            for file in files_of(source):
                found = recognised(source, file, limit=left)
                before = ledger.rows_read
                for outcome in (cleaning or Cleaning(())).rows(found.rows, found.format):
                    ledger.read()
                    origin, drop = outcome.row.origin, outcome.drop
                    if outcome.content is not None:
                        mended = ", ".join(outcome.mended)
                        result.append(ReadRow(origin, outcome.content, source.weight, mended))
                    elif drop is not None:
                        ledger.judge(origin, drop, side=side)
                count = ledger.rows_read - before
                readings.append(found.reading(count))
                left = None if left is None else left - count
                if left == 0:
                    break
        return result


def times(content_id: str, weight: float) -> int:
    """How often a row is seen in an epoch: its source's weight, the fraction rounded up for that share of the rows."""
    return int(weight) + (place(content_id, "weight") < weight % 1)


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
            mended=row.mended,
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
