"""What rows are rendered to for an objective under the settings of a run; by other processes, where there are some."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar, Protocol

from luthier.config import DataConfig
from luthier.data.conversation import Content
from luthier.data.ledger import Outcome
from luthier.data.render import Renderer, Tokens
from luthier.data.store import RenderedRow, Store
from luthier.errors import RowError
from luthier.system.workers import Workers

BATCH = 256
"""Rows that are rendered together, and kept."""


class Renders(Protocol):
    """What the data processor sees of an objective."""

    joint: ClassVar[bool]
    """Whether the sequences of a row belong together, so that none can be cut away."""
    online: ClassVar[bool]
    """Whether a row's sequence is a prompt, so that nothing of it is supervised and it cannot be cut."""

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The sequences a row gives; raises RowError for a row that cannot be learnt from."""


class Making:
    """Rows being rendered."""

    def __init__(self, renderer: Renderer, objective: Renders, config: DataConfig) -> None:
        self.work = (renderer, objective, config)
        self.workers = Workers(config.workers, _begin, self.work)

    def __enter__(self) -> Making:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.__exit__()

    def rendered(self, store: Store, rows: Iterable[int | None]) -> Iterator[RenderedRow | None]:
        """What each of a store's rows is rendered to, in their order; what is not there yet is made, and kept."""
        rows, waiting = iter(rows), deque[tuple[list[int | None], dict[int, RenderedRow], list[int]]]()

        def missing() -> Iterator[list[Content]]:
            for batch in iter(lambda: list(islice(rows, BATCH)), []):
                there = {row: found for row in set(batch) if row is not None and (found := store.rendered(row))}
                new = [row for row in dict.fromkeys(batch) if row is not None and row not in there]
                waiting.append((batch, there, new))
                yield [store.content(row) for row in new]

        for found in self.workers.results(_work if self.workers.count else self._here, missing()):
            batch, there, new = waiting.popleft()
            there |= zip(new, found, strict=True)
            if new:
                with store.writing():
                    for row in new:
                        store.put(row, there[row])
            yield from (None if row is None else there[row] for row in batch)

    def _here(self, contents: list[Content]) -> list[RenderedRow]:
        return [made(content, *self.work) for content in contents]


_WORK: list[tuple[Renderer, Renders, DataConfig]] = []
"""Of a process that renders."""


def _begin(*work: object) -> None:
    _WORK.append(work)  # type: ignore[arg-type]


def _work(contents: list[Content]) -> list[RenderedRow]:
    return [made(content, *_WORK[0]) for content in contents]


def made(content: Content, renderer: Renderer, objective: Renders, config: DataConfig) -> RenderedRow:
    """What one row is rendered to."""
    try:
        sequences = objective.sequences(content, renderer)
        kept, outcome = fit(sequences, config, joint=objective.joint, asked=objective.online)
    except RowError as error:
        return RenderedRow((), "dropped", error.reason, error.detail)
    if outcome == "kept":
        return RenderedRow(tuple(kept), outcome)
    return RenderedRow(tuple(kept), outcome, "over-length", _lost(sequences, kept))


def _lost(rendered: Sequence[Tokens], kept: Sequence[Tokens]) -> str:
    """What `over_length` cut off from a row."""
    tokens, supervised = sum(map(len, rendered)), sum(sequence.supervised for sequence in rendered)
    return (
        f"{tokens - sum(map(len, kept))} of {tokens} tokens were left out, "
        f"{supervised - sum(sequence.supervised for sequence in kept)} of {supervised} supervised ones among them"
    )


def fit(
    sequences: Sequence[Tokens], config: DataConfig, *, joint: bool = False, asked: bool = False
) -> tuple[list[Tokens], Outcome]:
    """Apply `over_length`. With `error`, long sequences pass, and the check before training refuses the run.

    `joint` sequences stay together, `asked` are prompts.

    Raises:
        RowError: `over-length` when dropping, `no-supervised-token` when nothing to learn is left.
    """
    limit, longest = config.max_length, max(map(len, sequences), default=0)
    outcome: Outcome = "kept"
    kept = list(sequences)
    if longest > limit and config.over_length != "error":
        if config.over_length == "drop":
            raise RowError("", "over-length", f"{longest} tokens, data.max_length is {limit}")
        if config.over_length == "split" and joint:
            raise RowError("", "over-length", f"{longest} tokens, and answers that are compared cannot be split")
        if asked:
            raise RowError("", "over-length", f"{longest} tokens, and a prompt cannot be cut")
        outcome = "truncated" if config.over_length == "truncate" else "split"
        cuts = [_cut(sequence, limit) for sequence in sequences]
        kept = [piece for pieces in cuts for piece in (pieces[:1] if outcome == "truncated" else pieces)]
    learnt = [sequence for sequence in kept if sequence.supervised or asked]
    if not learnt or (joint and len(learnt) < len(kept)):
        after = f" in the first {limit} tokens (data.max_length)" if outcome != "kept" else ""
        raise RowError("", "no-supervised-token", f"no supervised token{after}")
    return learnt, outcome


def _cut(sequence: Tokens, limit: int) -> list[Tokens]:
    """Consecutive pieces of at most `limit` tokens; the first token of a piece has no predictor."""
    pieces = []
    for start in range(0, len(sequence), limit):
        weights = sequence.weights[start : start + limit].copy()
        weights[0] = 0
        pieces.append(Tokens(sequence.ids[start : start + limit], weights))
    return pieces
