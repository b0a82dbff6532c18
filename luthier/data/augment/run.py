"""New rows, each judged by the guards: of the training side of a run, and of a source into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from luthier.config import SourceConfig
from luthier.data.augment.base import AugmenterSettings, Candidate, GuardSettings, Pair
from luthier.data.augment.rewrite import talks, value_of
from luthier.data.clean import ledger, report
from luthier.data.clean.base import Drop, Said, said
from luthier.data.clean.duplicates import digest, plain
from luthier.data.clean.ledger import Tally
from luthier.data.clean.pipeline import BATCH, Outcome
from luthier.data.clean.run import outcomes_of, require_ours
from luthier.data.conversation import Content, Row
from luthier.system.files import atomic_folder


def augmented(
    rows: Sequence[Said],
    augmenters: Sequence[AugmenterSettings],
    guards: Sequence[GuardSettings],
    *,
    apart: Sequence[Said] = (),
) -> Iterator[tuple[Candidate, Drop | None]]:
    """Candidates made of some rows, augmenter by augmenter, each with the reason for which it must not be used.

    Whatever the guards are, none says what a row says that is there, or asks what a row asks that is kept `apart`.

    Raises:
        MissingExtra: a library is not installed.
        DataError: data that an augmenter needs was not fetched.
    """
    judges = [settings.build() for settings in guards]
    for judge in judges:
        judge.know([*rows, *apart])
    seen = {digest(plain(row.text)): row.where for row in rows}
    closed = {digest(plain(text)): row.where for row in apart for text in (row.text, *asked(row.content)) if text}
    for settings in augmenters:
        made = settings.build().make([row.content for row in rows])
        while batch := list(islice(made, BATCH)):
            pairs = [_pair(one, rows, settings.type) for one in batch]
            drops = [_known(pair.candidate, seen, closed) for pair in pairs]
            for judge in judges:
                left = [place for place, drop in enumerate(drops) if drop is None]
                if not left:
                    break
                for place, drop in zip(left, judge.judge([pairs[place] for place in left]), strict=True):
                    drops[place] = drop
            yield from zip(batch, drops, strict=True)


def asked(content: Content) -> list[str]:
    """What each turn of a user says."""
    return [turn.content for talk in talks(content) for turn in talk.messages if turn.role == "user"]


def _pair(candidate: Candidate, there: Sequence[Said], name: str) -> Pair:
    """A candidate beside what all rows that it was made from say; what the system says is theirs together."""
    parent = there[candidate.parent]
    for other in (there[place] for place in candidate.others):
        question, answer = f"{parent.question}\n{other.question}", f"{parent.answer}\n{other.answer}"
        text = f"{parent.text}\n{other.question}\n{other.answer}"
        parent = replace(parent, text=text, question=question, answer=answer)
    return Pair(parent, said(candidate.content, f"a row made of {parent.where} ({name})"))


def _known(candidate: Said, seen: dict[int, str], closed: dict[int, str]) -> Drop | None:
    """Why a row must not be used whatever the guards are; remembers the others."""
    own = digest(plain(candidate.text))
    turns = (digest(plain(text)) for text in asked(candidate.content))
    if held := next(filter(None, map(closed.get, (own, *turns))), None):
        return Drop("held-out", 1.0, 1.0, f"says or asks what {held} does, which is held out")
    if own in seen:
        return Drop("duplicate", 1.0, 1.0, f"says what {seen[own]} says")
    seen[own] = candidate.where
    return None


# ---- a source into a folder ------------------------------------------------------------------------------------------

REPORT = "augmented.md"
FILES = {ledger.ROWS, ledger.DROPPED, ledger.LEDGER, REPORT}
"""What an output holds."""


def augment_source(
    source: SourceConfig,
    augmenters: Sequence[AugmenterSettings],
    guards: Sequence[GuardSettings],
    output: str | None,
    *,
    held_out: SourceConfig | None = None,
) -> tuple[int, Tally]:
    """Write new rows made of a source's rows; without an output they are only counted. Returns the rows read, too.

    Raises:
        DataError: as reading does, or data that an augmenter needs was not fetched.
        OutputError: something that no augmentation wrote stands at the output.
    """
    if output is not None:
        require_ours(Path(output), source, FILES, "augment")
    rows = _usable(source)
    there, apart = ([row.said for row in side] for side in (rows, [] if held_out is None else _usable(held_out)))
    outcomes = (_outcome(rows, one, drop) for one, drop in augmented(there, augmenters, guards, apart=apart))
    if output is None:
        return len(rows), ledger.counted(outcomes)
    with atomic_folder(Path(output)) as made:
        tally = ledger.write(outcomes, made)
        names = [one.type for one in augmenters]
        text = report.markdown(tally, source=source.path, cleaners=names, done="augmented", by="made by")
        (made / REPORT).write_text(text, encoding="utf-8")
    return len(rows), tally


def _usable(source: SourceConfig) -> list[Outcome]:
    return [one for one in outcomes_of(source) if one.content is not None]


def _outcome(rows: Sequence[Outcome], candidate: Candidate, drop: Drop | None) -> Outcome:
    """A candidate as its parent's row, made anew."""
    parent = rows[candidate.parent].row.origin
    made_of = ", ".join(str(rows[place].row.origin) for place in (candidate.parent, *candidate.others))
    value = value_of(candidate.content) | {"made_of": made_of, "method": candidate.method}
    if drop is not None:
        return Outcome(Row(parent, value), value, drop=drop)
    return Outcome(Row(parent, value), value, (candidate.method,), candidate.content)
