"""The baseline on the same rows: gradient boosting on numbers, or logistic regression on TF-IDF of texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ..agent import FieldTable, number_of
from .folds import Fold
from .report import Baseline
from .training_rows import Row, by_task

_MAX_LABELS = 50


def baseline_of(folds: Sequence[Fold], task: str, table: FieldTable) -> Baseline | None:
    """How many rows that are held out it answers right; None without labels or labelled rows, or with too many."""
    sides = [(by_task(fold.train)[task], by_task(fold.held_out)[task]) for fold in folds]
    first = sides[0][0][0]
    if not first.task.config.choices or first.chances is not None:
        return None
    # Neither method can be trained on one label alone, and both take minutes for very many.
    if not all(2 <= len({row.answer for row in train}) <= _MAX_LABELS for train, _ in sides):
        return None
    numbers = [one.name for one in table.fields if one.edges is not None and one.name in table.tasks[task].fields]
    # Texts of blanks alone have no features.
    if not numbers and not any(row.text.strip() for train, _ in sides for row in train):
        return None
    right = 0
    for train, held_out in sides:
        model, features = _boosting(numbers) if numbers else _regression()
        model.fit(features(train), [row.answer for row in train])
        right += sum(model.predict(features(held_out)) == [row.answer for row in held_out])
    return Baseline(name="gradient boosting" if numbers else "logistic regression", right=int(right))


def _boosting(numbers: Sequence[str]) -> tuple[Any, Any]:
    def features(rows: Sequence[Row]) -> Any:
        """[rows, numbers], NaN where one is missing."""
        numbers_of_rows = [[number_of(row.values.get(name)) for name in numbers] for row in rows]
        return np.array(numbers_of_rows, dtype=np.float64)

    return HistGradientBoostingClassifier(early_stopping=False, random_state=0), features


def _regression() -> tuple[Any, Any]:
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\S+")  # noqa: S106 - no password
    return make_pipeline(words, LogisticRegression(C=10)), lambda rows: [row.text for row in rows]
