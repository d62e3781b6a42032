"""How right a recipe is, from the answers of its models to rows that they had not seen."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..agent import FieldTable, JudgedAnswer, calibration_error, number_of
from .outliers import code_text, outliers_of
from .report import UNSURE, Baseline, ReadField, Suspect, TaskQuality, TeacherQuality
from .runs import effective_rows
from .training_rows import Row

# A row is suspect if the model gives its answer a score below UNLIKELY, and another answer one above SURE.
UNLIKELY, SURE = 0.05, 0.9
MAX_SUSPECTS = 20
# The share of the held-out rows, all of which are ordinary, that may be taken for unlike training.
UNLIKE_SHARE = 0.02
# The greatest score of the numbers and the greatest strangeness of a task's ordinary inputs, as in TaskFields.
Limits = tuple[float | None, float | None]
# The value of TaskFields.held_out.
HeldOutCounts = tuple[tuple[float, int, int], ...]


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """A row that the model had not seen, and its answer."""

    row: Row
    output: Any  # Also None where the row is taken for unlike training.
    scores: Mapping[str, float] | None  # By label; None if the task has none.
    unlike: float | None = None  # The score of its numbers, or how far that of its numbers or texts is above a limit.
    strangeness: float | None = None  # How strange its texts are, as in TaskFields.
    is_odd: bool = False  # Whether a field is unlike those of all training rows.
    is_unlike: bool = False  # Whether the input gets no label, because it is unlike training or has an odd field.

    @property
    def is_right(self) -> bool:
        return self.row.task.config.is_right(self.output, self.row.answer)


def task_quality(
    rows: Sequence[Row],
    table: FieldTable,
    judged: Sequence[AnsweredRow],
    baseline: Baseline | None,
    *,
    teacher: TeacherQuality | None = None,
) -> TaskQuality:
    """The quality of one task, from all of its rows and the answers (`judged`) to those that were held out."""
    task = rows[0].task
    labelled = sum(row.chances is None for row in rows)
    labels, is_scored = task.config.choices, table.tasks[task.name].is_scored
    suspects = _suspects(judged) if labels else []
    groups = Counter(answered.row.group for answered, _ in suspects if answered.row.group is not None)
    most_frequent = Counter(answered.row.answer_text for answered in judged).most_common(1)[0][1]
    is_useless = sum(map(_is_best_label_right, judged)) <= most_frequent
    return TaskQuality(
        name=task.name,
        kind=task.config.kind,
        rows=labelled or len(rows),
        judged=len(judged),
        right=sum(answered.is_right for answered in judged),
        independent=_effective_rows(judged),
        most_frequent=most_frequent,
        is_useless=is_useless,
        baseline=baseline,
        unlike=sum(answered.is_unlike for answered in judged) / len(judged) if is_scored else None,
        unlike_by_label=_unlike_by_label(judged, labels),
        calibration_error=score_error(judged) if labels else None,
        confusion=_confusion(judged, labels),
        groups_by_label=_groups_by_label(judged, labels),
        suspects_total=len(suspects),
        suspects=tuple(suspect for _, suspect in suspects[:MAX_SUSPECTS]),
        suspects_by_group=dict(groups.most_common()),
        fields=tuple(_read_field(name, table, rows) for name in table.tasks[task.name].fields),
        is_agreement=not labelled,
        teacher=teacher,
    )


def _effective_rows(answers: Sequence[AnsweredRow]) -> float:
    return effective_rows([answered.row for answered in answers], [answered.is_right for answered in answers])


def _is_best_label_right(answered: AnsweredRow) -> bool:
    """Whether the best label is right, even where it was not given; without labels, whether the output is."""
    if not answered.scores:
        return answered.is_right
    return max(answered.scores, key=answered.scores.__getitem__) == answered.row.answer_text


def held_out_counts(answers: Sequence[AnsweredRow]) -> HeldOutCounts:
    """How many answers to labelled rows there are with each score of the best label, and how many of them are right.

    The highest score comes first. Rows in groups are thinned to their effective number, because a promise counts them
    as independent.
    """
    judged = [answered for answered in answers if answered.scores and answered.row.chances is None]
    if not judged:
        return ()
    judged.sort(key=lambda answered: (_best_score(answered), answered.row.request.where))
    counts: dict[float, list[int]] = {}
    for answered in judged[:: math.ceil(len(judged) / _effective_rows(judged))]:
        # Rounded down, because a promise is for answers of at least a score.
        right_and_total = counts.setdefault(math.floor(_best_score(answered) * 1000) / 1000, [0, 0])
        right_and_total[0] += _is_best_label_right(answered)
        right_and_total[1] += 1
    return tuple((score, right, count) for score, (right, count) in reversed(counts.items()))


def _best_score(answered: AnsweredRow) -> float:
    return max((answered.scores or {}).values(), default=0.0)


def score_error(answers: Sequence[AnsweredRow]) -> float | None:
    """The expected calibration error of the answers with a label; None if there are none."""
    best = [
        JudgedAnswer(max(answered.scores.values()), answered.is_right)
        for answered in answers
        if not answered.is_unlike and answered.scores is not None
    ]
    return calibration_error(best) if best else None


def _confusion(answers: Sequence[AnsweredRow], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    counts = Counter(
        (answered.row.answer_text, UNSURE if answered.output is None else answered.output)
        for answered in answers
        if labels
    )
    outputs = (*labels, *((UNSURE,) if any(output == UNSURE for _, output in counts) else ()))
    return {label: {output: counts[label, output] for output in outputs} for label in labels}


def _unlike_by_label(answers: Sequence[AnsweredRow], labels: Sequence[str]) -> dict[str, float]:
    by_label = {label: [each.is_unlike for each in answers if each.row.answer_text == label] for label in labels}
    return {label: sum(are_unlike) / len(are_unlike) for label, are_unlike in by_label.items() if are_unlike}


def _groups_by_label(answers: Sequence[AnsweredRow], labels: Sequence[str]) -> dict[str, int]:
    groups = {label: {each.row.group for each in answers if each.row.answer_text == label} for label in labels}
    return {label: len(names) for label, names in groups.items() if names and None not in names}


def _suspects(answers: Sequence[AnsweredRow]) -> list[tuple[AnsweredRow, Suspect]]:
    """The rows whose answers may be wrong, those first for which the model is surest of another one."""
    suspects = []
    for answered in answers:
        if answered.scores is None or answered.is_right or answered.row.chances is not None:
            continue
        best = max(answered.scores, key=answered.scores.__getitem__)
        if answered.scores[answered.row.answer] < UNLIKELY and answered.scores[best] > SURE:
            where, answer = answered.row.request.where, answered.row.answer
            suspect = Suspect(where=where, answer=answer, model_answer=best, score=answered.scores[best])
            suspects.append((answered, suspect))
    return sorted(suspects, key=lambda each: -each[1].score)


def _read_field(name: str, table: FieldTable, rows: Sequence[Row]) -> ReadField:
    [field] = (field for field in table.fields if field.name == name)
    values = [row.values.get(name) for row in rows]
    missing = sum(value is None if field.edges is None else number_of(value) is None for value in values)
    low, high = field.usual or (None, None)
    outliers = Counter(map(code_text, outliers_of(field, values)))
    return ReadField(name=name, low=low, high=high, missing=missing / len(rows), outliers=dict(outliers.most_common()))


def limits_of(answers: Sequence[AnsweredRow], known_strangeness: float | None = None) -> Limits:
    """The limits of one task, from answers of models without limits. With two limits, each takes half of the share.

    `known_strangeness` is that of the strangest text that several rows have, which is never unlike training.
    """
    ordinary = [answered for answered in answers if not answered.is_odd]
    scores = [answered.unlike for answered in ordinary if answered.unlike is not None]
    strangeness = [answered.strangeness for answered in ordinary if answered.strangeness is not None]
    share = UNLIKE_SHARE / (bool(scores) + bool(strangeness) or 1)
    max_strangeness = _limit(strangeness, share)
    if max_strangeness is not None and known_strangeness is not None:
        max_strangeness = max(max_strangeness, known_strangeness)
    return _limit(scores, share), max_strangeness


def with_limits(answers: Sequence[AnsweredRow], limits: Limits) -> list[AnsweredRow]:
    """What a board answers with these limits."""
    return [
        replace(answered, output=None, is_unlike=True) if answered.is_odd or _exceeds(answered, limits) else answered
        for answered in answers
    ]


def _limit(scores: Sequence[float], share: float) -> float | None:
    """The lowest score that at most this share of them exceeds."""
    return sorted(scores, reverse=True)[int(share * len(scores))] if scores else None


def _exceeds(answered: AnsweredRow, limits: Limits) -> bool:
    pairs = zip((answered.unlike, answered.strangeness), limits, strict=True)
    return any(score is not None and limit is not None and score > limit for score, limit in pairs)
