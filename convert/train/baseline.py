"""What a usual method reaches on the same rows: gradient boosting on numbers, or TF-IDF with logistic regression."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ..agent import ClassifyTask, Task, number_of, values_of
from ..report.training import Baseline
from .folds import Fold
from .rows import Row
from .table import learn_table

_BOOSTING, _REGRESSION = "gradient boosting", "logistic regression"


def baseline_of(folds: Sequence[Fold], task: Task) -> Baseline | None:
    """Its right answers to the rows that are held out; None for a task without labels."""
    if not isinstance(task.config, ClassifyTask):
        return None
    known_and_held_out = [
        tuple([row for row in rows if row.task.name == task.name] for rows in (fold.known, fold.held_out))
        for fold in folds
    ]
    # Neither method learns from one label alone.
    if any(len({row.answer for row in known}) < 2 for known, _ in known_and_held_out):
        return None
    numbers = [field.name for field in learn_table(known_and_held_out[0][0]).fields if field.limits is not None]
    right = 0
    for known, held_out in known_and_held_out:
        model = _new_model(has_numbers=bool(numbers)).fit(_features(known, numbers), [row.answer for row in known])
        right += sum(model.predict(_features(held_out, numbers)) == [row.answer for row in held_out])
    return Baseline(name=_BOOSTING if numbers else _REGRESSION, right=int(right))


def _new_model(*, has_numbers: bool) -> Any:
    if has_numbers:
        return HistGradientBoostingClassifier(early_stopping=False, random_state=0)
    return make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10))


def _features(rows: Sequence[Row], numbers: Sequence[str]) -> Any:
    """The numbers [rows, fields], NaN where one is missing; without any, the texts."""
    if not numbers:
        return [row.text for row in rows]
    return np.array([[_number(values_of(row.text).get(name)) for name in numbers] for row in rows])


def _number(value: Any) -> float:
    number = number_of(value)
    return float("nan") if number is None else number
