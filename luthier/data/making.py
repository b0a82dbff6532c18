"""What rows are rendered to for an objective under the settings of a run; by other processes, where there are some."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import ClassVar, Protocol

from luthier.config import DataConfig
from luthier.data.conversation import Content
from luthier.data.ledger import Outcome
from luthier.data.render import Renderer, Tokens
from luthier.data.store import RenderedRow, Store
from luthier.errors import RowError

BATCH = 256
"""Rows that are rendered together, and kept."""
AHEAD = 4
"""Batches of each worker that are under way."""


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
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Making:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def rendered(self, store: Store, rows: Iterable[int | None]) -> Iterator[RenderedRow | None]:
        """What each of a store's rows is rendered to, in their order; what is not there yet is made, and kept."""
        rows, waiting = iter(rows), deque[tuple[list[int | None], dict[int, RenderedRow], Future[list[RenderedRow]]]]()
        most = AHEAD * self.work[2].workers
        for batch in iter(lambda: list(islice(rows, BATCH)), []):
            there = {row: found for row in batch if row is not None and (found := store.rendered(row)) is not None}
            missing = [row for row in dict.fromkeys(batch) if row is not None and row not in there]
            waiting.append((batch, there, self._made([store.content(row) for row in missing])))
            there |= dict.fromkeys(missing, NOT_YET)
            while len(waiting) > most:
                yield from _kept(store, *waiting.popleft())
        while waiting:
            yield from _kept(store, *waiting.popleft())

    def _made(self, contents: list[Content]) -> Future[list[RenderedRow]]:
        if contents and self.work[2].workers:
            self.pool = self.pool or ProcessPoolExecutor(
                self.work[2].workers, mp_context=get_context("spawn"), initializer=_begin, initargs=self.work
            )
            return self.pool.submit(_work, contents)
        here: Future[list[RenderedRow]] = Future()
        here.set_result([made(content, *self.work) for content in contents])
        return here


NOT_YET = RenderedRow((), "dropped")
"""Stands for what is being made."""


def _kept(
    store: Store, batch: Sequence[int | None], there: dict[int, RenderedRow], making: Future[list[RenderedRow]]
) -> Iterator[RenderedRow | None]:
    """What the rows of a batch are rendered to; what was just made is written."""
    new = making.result()
    if new:
        with store.writing():
            for row, rendered in zip([row for row, one in there.items() if one is NOT_YET], new, strict=True):
                store.put(row, rendered)
                there[row] = rendered
    yield from (None if row is None else there[row] for row in batch)


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
