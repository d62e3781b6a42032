"""Standard methods that a trained model is compared with: gradient boosting, and logistic regression on words."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ..agent import FieldTable, number_of
from .report import Baseline
from .study import Fold
from .training_rows import Row, by_task

# Both methods take minutes for very many labels.
_MAX_LABELS = 50
# Trees need a dense matrix of words.
_MAX_WORDS = 200


def baseline_of(folds: Sequence[Fold], task: str, table: FieldTable) -> Baseline | None:
    """How many held-out rows a standard method answers right.

    It is gradient boosting on numbers and words, or without numbers logistic regression on words. None if the task has
    no labels, no labelled rows or too many labels.
    """
    sides = [(by_task(fold.train)[task], by_task(fold.held_out)[task]) for fold in folds]
    first, is_number = sides[0][0][0], table.tasks[task].number is not None
    if not (first.task.config.choices or is_number) or first.chances is not None:
        return None
    # Neither method can be trained on one label alone.
    if not is_number and not all(2 <= len({row.answer for row in train}) <= _MAX_LABELS for train, _ in sides):
        return None
    fields = [field for field in table.fields if field.name in table.tasks[task].fields]
    numbers, texts = ([field.name for field in fields if (field.edges is None) is is_text] for is_text in (False, True))
    # Texts of blanks alone have no features.
    if not numbers and not any(row.text.strip() for train, _ in sides for row in train):
        return None
    if is_number:
        return _number_baseline(sides, numbers, texts) if numbers else None
    right = 0
    for train, held_out in sides:
        model, features = boosting(numbers, texts, train) if numbers else _regression()
        model.fit(features(train), [row.answer for row in train])
        right += sum(model.predict(features(held_out)) == [row.answer for row in held_out])
    return Baseline(name="gradient boosting" if numbers else "logistic regression", right=int(right))


def _number_baseline(
    sides: Sequence[tuple[Sequence[Row], Sequence[Row]]], numbers: Sequence[str], texts: Sequence[str]
) -> Baseline:
    """Gradient boosting with whichever of the two usual losses has the smaller mean error."""
    baselines = list[Baseline]()
    for loss in ("absolute_error", "squared_error"):
        errors, right = list[float](), 0
        for train, held_out in sides:
            features = _features(numbers, texts, train)
            model = HistGradientBoostingRegressor(loss=loss, early_stopping=False, random_state=0)
            model.fit(features(train), [row.answer for row in train])
            outputs = model.predict(features(held_out)).tolist()
            errors += (abs(output - row.answer) for output, row in zip(outputs, held_out, strict=True))
            right += sum(
                row.task.config.is_right(output, row.answer) for output, row in zip(outputs, held_out, strict=True)
            )
        baselines.append(Baseline(name="gradient boosting", right=right, mean_error=sum(errors) / len(errors)))
    return min(baselines, key=lambda baseline: baseline.mean_error or 0.0)


def boosting(numbers: Sequence[str], texts: Sequence[str], train: Sequence[Row]) -> tuple[Any, Any]:
    # Without regularization, boosting diverges on rare labels and does worse than always giving one answer.
    model = HistGradientBoostingClassifier(early_stopping=False, l2_regularization=0.3, random_state=0)
    return model, _features(numbers, texts, train)


def _features(numbers: Sequence[str], texts: Sequence[str], train: Sequence[Row]) -> Callable[[Sequence[Row]], Any]:
    """The most frequent words and pairs of words of the rows `train` are features."""

    def text_of(row: Row) -> str:
        return " ".join(str(row.values[name]) for name in texts if name in row.values)

    # Boosting cannot be trained with a number that no row has.
    known = [name for name in numbers if any(number_of(row.values.get(name)) is not None for row in train)]
    words = None
    if any(text_of(row).strip() for row in train):
        words = _words(max_features=_MAX_WORDS).fit(map(text_of, train))

    def features(rows: Sequence[Row]) -> Any:
        """[rows, numbers and words], NaN where a number is missing."""
        matrix = np.array([[number_of(row.values.get(name)) for name in known] for row in rows], dtype=np.float64)
        return matrix if words is None else np.hstack([matrix, words.transform(map(text_of, rows)).toarray()])

    return features


def _regression() -> tuple[Any, Any]:
    return make_pipeline(_words(), LogisticRegression(C=10)), lambda rows: [row.text for row in rows]


def _words(**options: Any) -> Any:
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\S+", **options)  # noqa: S106 - no password
