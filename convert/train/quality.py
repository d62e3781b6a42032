"""How right a recipe is, from the answers of models to rows that they had not seen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..agent import ClassifyTask, calibration_error, number_of, values_of
from ..evaluate.labelled import is_right
from ..report.training import Baseline, Curve, ReadField, Suspect, TaskQuality
from .rows import TIME_KEYS, Row
from .table import learn_table

# A row is suspect where the model gives its answer less than this, and another one more than that.
_UNLIKELY, _SURE = 0.05, 0.9
_MOST_SUSPECTS = 20


@dataclass(frozen=True, slots=True)
class Answered:
    """A row that the model had not seen, and its answer. scores: by label; None = the task has no labels."""

    row: Row
    output: Any
    scores: Mapping[str, float] | None

    @property
    def is_right(self) -> bool:
        return is_right(self.output, self.row.answer)


def task_quality(
    rows: Sequence[Row],
    answers: Sequence[Sequence[Answered]],
    with_half: Sequence[Answered],
    baseline: Baseline | None,
) -> TaskQuality:
    """Of one task. rows: all of it. answers: to the rows of each fold. with_half: to those of the first fold.

    with_half: of a model that has learnt from half of what the fold's model has.
    """
    task, judged = rows[0].task, [one for several in answers for one in several]
    has_labels = isinstance(task.config, ClassifyTask)
    return TaskQuality(
        name=task.name,
        kind=task.config.kind,
        rows=len(rows),
        judged=len(judged),
        right=sum(one.is_right for one in judged),
        most_frequent=Counter(one.row.answer_text for one in judged).most_common(1)[0][1],
        baseline=baseline,
        calibration_error=_calibration_error(judged) if has_labels else None,
        curve=_curve(_share_right(with_half), _share_right(answers[0])) if with_half else None,
        confusion=_confusion(judged) if has_labels else {},
        suspects=tuple(_suspects(judged)),
        fields=tuple(_fields(rows)),
    )


def _share_right(answers: Sequence[Answered]) -> float:
    return sum(one.is_right for one in answers) / len(answers)


def _calibration_error(answers: Sequence[Answered]) -> float:
    best = [(max(one.scores.values()), one.is_right) for one in answers if one.scores is not None]
    return calibration_error(best)


def _curve(half: float, full: float) -> Curve:
    """The error falls by the same factor with each doubling, as power laws have it, at most to half; it never rises."""
    before, after = 1 - half, 1 - full
    return Curve(half=half, all=full, double=1 - after * min(max(after / before, 0.5), 1.0) if before else full)


def _confusion(answers: Sequence[Answered]) -> Mapping[str, Mapping[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for one in answers:
        counts.setdefault(str(one.row.answer), Counter())[str(one.output)] += 1
    return {label: dict(counts[label]) for label in sorted(counts)}


def _suspects(answers: Sequence[Answered]) -> list[Suspect]:
    found = []
    for one in answers:
        if one.scores is None or one.is_right:
            continue
        best = max(one.scores, key=one.scores.__getitem__)
        if one.scores[one.row.answer] < _UNLIKELY and one.scores[best] > _SURE:
            found.append(
                Suspect(where=one.row.request.where, answer=one.row.answer, model=best, score=one.scores[best])
            )
    return sorted(found, key=lambda one: -one.score)[:_MOST_SUSPECTS]


def _fields(rows: Sequence[Row]) -> list[ReadField]:
    limits = {field.name: field.limits for field in learn_table(rows).fields}
    values: dict[str, list[object]] = {}
    for row in rows:
        for name, value in values_of(row.text).items():
            if name not in TIME_KEYS:
                values.setdefault(name, []).append(value)
    found = []
    for name, several in values.items():
        numbers = [number for number in map(number_of, several) if number is not None]
        is_number = limits[name] is not None
        found.append(
            ReadField(
                name=name,
                low=min(numbers) if is_number else None,
                high=max(numbers) if is_number else None,
                missing=1 - (len(numbers) if is_number else len(several)) / len(rows),
            )
        )
    return found
