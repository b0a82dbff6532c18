"""The report of a comparison: what changed and how surely, in which slices, and in which rows most."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from luthier.curate.writer import Writer, forget
from luthier.evaluate.compare import LOWER, Comparison, judged, measured, pairs, scores_of
from luthier.evaluate.judge import preferred
from luthier.evaluate.measure import Measured
from luthier.evaluate.records import Record, by_slice
from luthier.supplies import filled
from luthier.system.files import write_text

MOST_CHANGED = 20
"""Rows shown side by side."""
FEWEST_IN_SLICE = 20
"""Rows of a slice that is looked at alone."""


@dataclass(frozen=True, slots=True)
class Change:
    """A row that two models do differently well; `gain` is above 0 where the tuned one is better."""

    where: str
    question: str
    reference: str
    base: str
    tuned: str
    scores: str
    gain: float


@dataclass(frozen=True, slots=True)
class Section:
    """A model against the first one, on the rows of a file.

    `worse` are slices in which a metric got worse: by what, in which group, and how far. `changes` are the rows that
    changed most, `regressions` those that got worse.
    """

    file: str
    tuned: str
    against: str
    comparisons: list[Comparison]
    worse: list[tuple[str, str, Comparison]]
    changes: list[Change]
    regressions: list[Record]

    def words(self, one: Comparison) -> str:
        """The verdict as a sentence would have it."""
        if one.verdict != "cannot tell" or one.needed is None or one.needed <= one.rows:
            return one.verdict
        return f"cannot tell: n would have to be about {one.needed:,}"


def sections(
    models: Sequence[str], found: Sequence[Sequence[Measured]], *, judge: Writer | None = None
) -> list[Section]:
    """Each model against the first, file by file; all verdicts judged together, and all of slices.

    Raises:
        UserError: the model that judges answers cannot be found, loaded or reached.
    """
    made, raw, slices = [], list[list[Comparison]](), list[list[tuple[str, str, Comparison]]]()
    for number, other in enumerate(found[1:], 1):
        for base, tuned in zip(found[0], other, strict=True):
            both = pairs(base.records, tuned.records)
            both = preferred(both, judge) if judge else both
            raw.append([measured(scores) for scores in scores_of(both)])
            slices.append(list(_sliced(both)))
            against = f", {models[number]} against {models[0]}" if len(found) > 2 else ""
            made.append((base.file, models[number], against, both))
    forget()
    told = iter(judged([one for several in raw for one in several]))
    inside = iter(judged([one for several in slices for _, _, one in several]))
    result = []
    for (file, tuned_name, against, both), several, groups in zip(made, raw, slices, strict=True):
        sliced = [(name, value, next(inside)) for name, value, _ in groups]
        worse = [one for one in sliced if one[2].verdict == "worse"]
        said = [pair for pair in both if pair[0].kind != "loss"] or both
        changed = sorted((_change(*pair) for pair in said), key=lambda change: -abs(change.gain))
        lost = [tuned for base, tuned in said if _change(base, tuned).gain < 0]
        verdicts = [next(told) for _ in several]
        result.append(Section(file, tuned_name, against, verdicts, worse, changed[:MOST_CHANGED], lost))
    return result


def _sliced(both: Sequence[tuple[Record, Record]]) -> list[tuple[str, str, Comparison]]:
    """Every metric in every slice that is large enough."""
    other = {record.key: tuned for record, tuned in both}
    found = []
    for name, groups in by_slice(record for record, _ in both).items():
        for value, records in groups.items():
            for scores in scores_of([(record, other[record.key]) for record in records]):
                if len(scores.base) >= FEWEST_IN_SLICE:
                    found.append((name, value, measured(scores)))
    return found


def _change(base: Record, tuned: Record) -> Change:
    """How two models differ in a row: by the sum of what each metric gained, losses per token."""
    gains = {
        name: (-1 if name in LOWER else 1) * (value - base.scores[name])
        for name, value in tuned.scores.items()
        if name in base.scores
    }
    told = ", ".join(f"{name} {base.scores[name]:.3g} -> {tuned.scores[name]:.3g}" for name in gains)
    words = (base.where, base.question, base.reference, base.answer, tuned.answer, told)
    return Change(*words, sum(gain for gain in gains.values() if math.isfinite(gain)))


def write(folder: Path, models: Sequence[str], found: Sequence[Section]) -> None:
    """Write report.md, report.html and regressions.jsonl."""
    told = {"models": models, "sections": found, "isfinite": math.isfinite}
    for name in ("report.md", "report.html"):
        text = filled("luthier.evaluate", f"templates/{name}.j2", escape=name.endswith("html"), **told)
        write_text(folder / name, text)
    lost = (record for section in found for record in section.regressions)
    write_text(folder / "regressions.jsonl", (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in lost))
