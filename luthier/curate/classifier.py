"""Rows like those that the user calls bad: a logistic regression on embeddings, learnt from examples of both kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.config import SourceConfig
from luthier.curate.meaning import Encoded
from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Of, Said, said
from luthier.data.clean.run import outcomes_of
from luthier.errors import DataError
from luthier.supplies import library

FEWEST = 10
"""Examples of each kind below which nothing can be said of what was learnt."""
FOLDS = 5


class Classifier(CleanerSettings):
    """Drop rows that are like your bad examples rather than like your good ones."""

    type: Literal["classifier"] = "classifier"
    heavy: ClassVar[bool] = True
    good: str
    """A file of good rows, in any layout."""
    bad: str
    """A file of bad rows."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """How likely a row must be bad to go."""
    of: Of = "text"
    """What of a row is looked at."""
    model: str = "minilm-l6-v2"
    """The model that turns texts into vectors."""

    def build(self) -> Cleaner:
        """Learn from the examples, once in a process.

        Raises:
            MissingExtra: scikit-learn is not installed.
            DataError: there are too few examples, or what was learnt from them is no better than guessing.
        """
        return _Classifier(self, *_learnt(self.good, self.bad, self.of, self.model))


class _Classifier(Encoded):
    def __init__(self, settings: Classifier, learnt: Any, accuracy: float) -> None:
        super().__init__(settings.model)
        self.settings, self.learnt, self.accuracy = settings, learnt, accuracy

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """How likely each row is bad."""
        vectors = self.embedder.encode([getattr(row, self.settings.of) for row in rows])
        return [float(bad) for bad in self.learnt.predict_proba(vectors)[:, 1]] if len(rows) else []

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """Nothing is remembered."""
        if finding < self.settings.threshold:
            return None
        detail = f"is like the rows of {self.settings.bad} ({100 * finding:.0f} %; {self._proven()})"
        return Drop("classifier", finding, self.settings.threshold, detail)

    def notes(self) -> Sequence[str]:
        """How far it can be trusted."""
        return [f"classifier: {self._proven()}"]

    def _proven(self) -> str:
        return f"right on {100 * self.accuracy:.0f} % of examples that it did not learn from"


@cache
def _learnt(good: str, bad: str, of: Of, model: str) -> tuple[Any, float]:
    """The classifier, and its balanced accuracy on examples that were left out in turn."""
    linear = library("sklearn.linear_model", "classifier", "clean", called="scikit-learn")
    selection = library("sklearn.model_selection", "classifier", "clean", called="scikit-learn")
    from luthier.models.embed import Embedder

    texts = {file: _texts(file, of) for file in (good, bad)}
    for file, found in texts.items():
        if len(found) < FEWEST:
            raise DataError(f"classifier: {file}: {len(found)} different examples; {FEWEST} of each kind are needed")
    if len(texts) == 1:
        raise DataError(f"classifier: {good} is given as good and as bad")
    vectors = Embedder.load(model).encode([*texts[good], *texts[bad]])
    labels = [0] * len(texts[good]) + [1] * len(texts[bad])
    learner = linear.LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
    folds = selection.StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    accuracy = float(selection.cross_val_score(learner, vectors, labels, cv=folds, scoring="balanced_accuracy").mean())
    by_chance = 0.5 + 1.64 * 0.25 * math.sqrt(sum(1 / len(found) for found in texts.values()))  # 19 times out of 20
    if accuracy <= by_chance:
        raise DataError(
            f"classifier: right on {100 * accuracy:.0f} % of examples that it did not learn from, and guessing may be "
            f"right on {100 * by_chance:.0f} %: {good} and {bad} do not differ in what it sees; give more examples"
        )
    return learner.fit(vectors, labels), accuracy


def _texts(path: str, of: Of) -> list[str]:
    """What the rows of a file say, each once."""
    found = dict[str, None]()
    for one in outcomes_of(SourceConfig(path=path)):
        if one.content is None:
            raise DataError(f"classifier: {one.row.origin}: {one.drop.detail if one.drop else ''}")
        found[getattr(said(one.content, ""), of)] = None
    return list(found)
