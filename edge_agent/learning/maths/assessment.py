"""What the kept answers of a task say together: a better map, how often it is right, and whether that has changed.

Audits are a random sample: they measure, and nothing is fitted to them. All other feedback trains. After a drop of the
accuracy the audits before it train, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile

from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.maths import drift, promise
from edge_agent.learning.maths.shares import lower_bound

# The raw scores of an answer, and the right label.
Row = tuple[Mapping[str, float], str]
BetterMap = Callable[[Sequence[Row], ScoreMap, ScoreMap], ScoreMap | None]

# A map is fitted again when there is this share more feedback, and this much at least.
_MORE, _LEAST_MORE = 1.1, 5
# Of the audits, for a promise: those that callers choose to answer are no random sample.
LEAST_ANSWERED = 0.9
# Answers that shares are compared by, the oldest with the newest.
SHIFT_ANSWERS = 200
_CONFIDENCE_BINS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """scores: the model's own. is_marked: feedback came. label: the right one, None = unknown, or not the output.

    is_audit: it is of the random sample, since the last drop. tokens: of the prompt.
    """

    scores: dict[str, float]
    output: str | None
    label: str | None = None
    is_marked: bool = False
    is_audit: bool = False
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """map: the one to use. compared_rows: of feedback, when it was last compared with a new fit.

    given: the share of answers that are given from now on, None = there are none. asked: audits up to the last one with
    feedback. audits, right: how many of them have feedback, and how many are right under the map, whatever its score.
    promise: what `min_accuracy` can be promised of; None = of nothing.
    dropped_from: the accuracy before it fell, None = it has not.
    shift: how far the newest answers are from the oldest, None = not for certain.
    """

    map: ScoreMap
    has_new_map: bool
    compared_rows: int
    given: float | None
    asked: int
    audits: int
    right: int
    lower_bound: float | None
    promise: promise.Promise | None
    dropped_from: float | None
    shift: float | None


def assess(
    answers: Sequence[Answer],
    *,
    better_map: BetterMap,
    current: ScoreMap,
    base: ScoreMap,
    compared_rows: int,
    min_accuracy: float | None,
    confidence: float,
) -> Assessment:
    """answers: in the order of time. better_map: of fit.py, or the same in another process.

    current: the map in force. base: the one that it was fitted from.
    """
    rows = [(one.scores, one.label) for one in answers if one.label is not None and not one.is_audit]
    found = None
    if is_due := len(rows) >= max(compared_rows * _MORE, compared_rows + _LEAST_MORE) and _has_confirmed(answers):
        found = better_map(rows, current, base)
    used = found or current
    # Answers with feedback are kept for longer: before the first one without, the others are gone.
    recent = list(dropwhile(lambda one: one.is_marked, answers)) or answers
    asked = [one for one in answers if one.is_audit]
    while asked and not asked[-1].is_marked:
        asked.pop()
    audits = [(*used.best(one.scores), one) for one in asked if one.is_marked]
    rights = [one.label == label for label, _, one in audits]
    promised = None
    if min_accuracy is not None and len(audits) >= LEAST_ANSWERED * len(asked):
        others = [used.best(one.scores)[1] for one in recent if not one.is_audit]
        judged = [(score, is_right) for (_, score, _), is_right in zip(audits, rights, strict=True)]
        promised = promise.find_promise(judged, others, min_accuracy, confidence)
    return Assessment(
        map=used,
        has_new_map=found is not None,
        compared_rows=len(rows) if is_due else compared_rows,
        given=_share_given(recent, promised) if min_accuracy is None or promised else 0.0,
        asked=len(asked),
        audits=len(rights),
        right=sum(rights),
        lower_bound=lower_bound(sum(rights), len(rights), confidence) if rights else None,
        promise=promised,
        dropped_from=drift.accuracy_before_drop(rights),
        shift=_shift(recent, used),
    )


def _share_given(recent: Sequence[Answer], promised: promise.Promise | None) -> float | None:
    if promised is not None:
        return promised.coverage
    return sum(one.output is not None for one in recent) / len(recent) if recent else None


def _has_confirmed(answers: Sequence[Answer]) -> bool:
    """Whether feedback confirms any answer: feedback on wrong ones alone says nothing of the others."""
    return any(one.label is not None and one.label == one.output and not one.is_audit for one in answers)


def _shift(answers: Sequence[Answer], used: ScoreMap) -> float | None:
    """How far the newest answers are from the oldest, by label, score and length of the prompt."""
    if len(answers) < 2 * SHIFT_ANSWERS:
        return None
    sides = []
    for part in (answers[:SHIFT_ANSWERS], answers[-SHIFT_ANSWERS:]):
        best = [used.best(one.scores) for one in part]
        sides.append(
            (
                Counter(label for label, _ in best),
                Counter(str(int(score * _CONFIDENCE_BINS)) for _, score in best),
                # Powers of two: a sentence more is no shift.
                Counter(str(one.tokens.bit_length()) for one in part),
            )
        )
    shifts = [drift.distribution_shift(before, after) for before, after in zip(*sides, strict=True)]
    return max((shift for shift in shifts if shift is not None), default=None)
