"""What the kept answers of a task say together: a better map, how often it is right, and whether that has changed.

Audits are a random sample: they measure, and nothing is fitted to them. All other feedback trains. After a drop of the
accuracy, the audits from before it train, too.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile

from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.maths import drift, promise
from edge_agent.learning.maths.calibration import JudgedAnswer, count_right, share_right
from edge_agent.learning.maths.shares import lower_bound, upper_bound

# The model's own scores of an answer, and its right label.
LabelledScores = tuple[Mapping[str, float], str]

# A map is fitted again when feedback has grown by this factor, and by at least this many answers.
_MORE, _MIN_MORE = 1.1, 5
# A promise needs this share of the audits answered, because those that callers choose to answer are no random sample.
MIN_ANSWERED = 0.9
# Where the accuracy fell and came back, older audits are of the time between.
NEWEST_AUDITS = 100
# The share that is given is that of the newest answers, because a change hardly shows among all that are kept.
NEWEST_ANSWERS = 200
_CONFIDENCE_BINS = 5
# Instead of the score of a refused answer, because a promise is for answers that are given, from a score of 0 on.
_NEVER_GIVEN = -1.0
_LABELS = "the labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    scores: dict[str, float]  # The model's own, by label.
    tokens: int = 0  # Of the prompt.
    rare_fields: Mapping[str, str] | None = None  # See Finished.
    output: str | None  # What the caller got; None if the model was not sure enough.
    is_refused: bool = False  # There is no output whatever the scores, because of the input.
    is_audit: bool = False  # The caller was asked to check it: it is of the random sample.
    is_marked: bool = False  # Feedback came.
    label: str | None = None
    """The right one; None if it is unknown or, where the answer is marked, another than `output`."""


@dataclass(frozen=True, slots=True)
class Tested:
    """What the audits were found to prove. Other thresholds are not tested afterwards, as that would be another try."""

    evidence: str  # Identifies the judged answers and what they should prove.
    threshold: float | None  # None if they prove nothing.


@dataclass(frozen=True, slots=True)
class Shift:
    """What differs most between the newest answers and the oldest."""

    index: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    map: ScoreMap  # The one to use from now on.
    has_new_map: bool
    compared_rows: int  # How many rows of feedback there were when the map was last compared with a new fit.
    given: float | None  # The share of the newest answers that would be given now; None if it is unknown.
    asked: int  # Audits up to the last one with feedback, or all of them if they are overdue.
    audits: int  # Those of them that have feedback.
    right: int  # Audits that are right under the map, whatever its score.
    newest: Sequence[bool]  # Whether each of the newest ones is right, at most NEWEST_AUDITS, without refused inputs.
    lower_bound: float | None  # Of the share of right audits; None without any.
    held_out: int  # Rows that training held out which count for a promise like audits.
    held_out_right: int  # Those of them that were answered right.
    promise: promise.Promise | None  # The answers for which `min_accuracy` can be promised; None if there are none.
    tested: Tested | None  # The latest test of a promise.
    drop: drift.Drop | None  # How the accuracy fell, without refused inputs; None if it has not.
    shift: Shift | None  # How far the newest answers are from the oldest; None if chance may explain it.


def answers_needed(answered: int, asked: int) -> int:
    """How many more audits must be answered before any promise, whatever the answers."""
    # Rounding errors are not an audit.
    return max(0, math.ceil(round(MIN_ANSWERED * asked - answered, 6)))


def assess(
    answers: Sequence[Answer],
    *,
    current: ScoreMap,
    min_accuracy: float | None,
    confidence: float,
    better_map: Callable[[Sequence[LabelledScores]], ScoreMap | None] = lambda _rows: None,
    compared_rows: int = 0,
    held_out: Sequence[JudgedAnswer] = (),
    is_overdue: bool = False,
    min_score: float = 0.0,
    tested: Tested | None = None,
    drift_answers: int = 200,
) -> Assessment:
    """Finds what the answers say together.

    Args:
        answers: In the order of time; `is_audit` is true only for audits since the last drop in accuracy.
        current: The map in force.
        better_map: Fits a map to rows, if they prove one better than `current`.
        held_out: Rows that training did not learn from. They count for a promise unless the audits contradict them.
        min_score: Below this score, an answer is not given without a promise either.
        is_overdue: Whether the audits after the last answered one count as not answered. Else they do not count yet.
        tested: That of the assessment before, which stands while the evidence is the same.
        drift_answers: How many of the oldest answers are compared with as many of the newest, to find a shift.
    """
    rows = [(answer.scores, answer.label) for answer in answers if answer.label is not None and not answer.is_audit]
    new_map = None
    if is_due := len(rows) >= max(compared_rows * _MORE, compared_rows + _MIN_MORE) and _has_confirmed(answers):
        new_map = better_map(rows)
    score_map = new_map or current
    # Audits and answers with feedback are kept longer. At the beginning, the others of their time are gone.
    recent = list(dropwhile(lambda answer: answer.is_marked or answer.is_audit, answers)) or answers
    asked = [answer for answer in answers if answer.is_audit]
    while asked and not asked[-1].is_marked and not is_overdue:
        asked.pop()
    answered = [answer for answer in asked if answer.is_marked]
    audits = [JudgedAnswer.of(answer.scores, answer.label, score_map) for answer in answered]
    outcomes = [audit.is_right for audit in audits]
    # That people call refused inputs wrong, such as those of a new fault, says nothing about answers that are given.
    unrefused = [audit for answer, audit in zip(answered, audits, strict=True) if not answer.is_refused]
    unrefused_outcomes = [audit.is_right for audit in unrefused]
    earlier = [] if _contradict(unrefused, held_out, confidence) else held_out
    promised = None
    if min_accuracy is not None and len(audits) >= MIN_ANSWERED * len(asked):
        others = [_score(answer, score_map) for answer in recent if not answer.is_audit]
        judged = [
            *earlier,
            *(replace(audit, score=_score(answer, score_map)) for answer, audit in zip(answered, audits, strict=True)),
        ]
        evidence = hashlib.sha256(repr((judged, min_accuracy, confidence)).encode()).hexdigest()[:16]
        if tested is None or tested.evidence != evidence:
            promised = promise.find_promise(judged, others, min_accuracy, confidence)
            tested = Tested(evidence, promised.threshold if promised else None)
        elif tested.threshold is not None:
            promised = promise.Promise.at(tested.threshold, judged, others)
    if min_accuracy is not None:
        min_score = math.inf if promised is None else promised.threshold
    # Not by their outputs, which another model or an earlier promise may have decided.
    newest = [_score(answer, score_map) >= min_score for answer in answers[-NEWEST_ANSWERS:]]
    given = None if promised is None else promised.coverage
    if newest:
        given = sum(newest) / len(newest)
    return Assessment(
        map=score_map,
        has_new_map=new_map is not None,
        compared_rows=len(rows) if is_due else compared_rows,
        given=given,
        asked=len(asked),
        audits=len(outcomes),
        right=sum(outcomes),
        newest=unrefused_outcomes[-NEWEST_AUDITS:],
        lower_bound=lower_bound(sum(outcomes), len(outcomes), confidence) if outcomes else None,
        held_out=len(earlier),
        held_out_right=count_right(earlier),
        promise=promised,
        tested=tested,
        drop=drift.find_drop(unrefused_outcomes),
        shift=_shift(recent, score_map, drift_answers),
    )


def _contradict(audits: Sequence[JudgedAnswer], held_out: Sequence[JudgedAnswer], confidence: float) -> bool:
    """Whether the audits show that answers are right less often than those to held-out rows were."""
    if not audits or not held_out:
        return False
    return upper_bound(count_right(audits), len(audits), confidence) < share_right(held_out)


def _score(answer: Answer, score_map: ScoreMap) -> float:
    return _NEVER_GIVEN if answer.is_refused else score_map.best(answer.scores)[1]


def _has_confirmed(answers: Sequence[Answer]) -> bool:
    """Whether feedback confirms any answer, because feedback on wrong ones alone says nothing about the others."""
    return any(answer.label is not None and answer.label == answer.output and not answer.is_audit for answer in answers)


def _shift(answers: Sequence[Answer], score_map: ScoreMap, count: int) -> Shift | None:
    """How far the newest answers are from the oldest, by label, score, length of the prompt, and by each field.

    `count` of each are compared. The ones before the newest must differ as well, because a machine that runs in another
    regime for some hours is no shift.
    """
    if len(answers) < 3 * count:
        return None
    oldest, newest = answers[:count], answers[-count:]
    earlier = _shifts(oldest, answers[-2 * count : -count], score_map)
    current = _shifts(oldest, newest, score_map)
    lasting = {what: min(index, current[what]) for what, index in earlier.items() if what in current}
    if not lasting:
        return None
    what = max(lasting, key=lasting.__getitem__)
    if what == _LABELS:
        before, after = (Counter(score_map.best(answer.scores)[0] for answer in part) for part in (oldest, newest))
        label = max(before | after, key=lambda each: abs(after[each] - before[each]))
        return Shift(lasting[what], f"the label {label}")
    return Shift(lasting[what], what)


def _shifts(before: Sequence[Answer], after: Sequence[Answer], score_map: ScoreMap) -> dict[str, float]:
    """The stability index of whatever has shifted significantly, by its name in words."""
    parts = (before, after)
    best = [[score_map.best(answer.scores) for answer in part] for part in parts]
    sides = {
        _LABELS: [Counter(label for label, _ in side) for side in best],
        "the scores": [Counter(str(int(score * _CONFIDENCE_BINS)) for _, score in side) for side in best],
        # Powers of two, so that one more sentence is no shift.
        "the lengths of prompts": [Counter(str(answer.tokens.bit_length()) for answer in part) for part in parts],
    }
    shifts = {what: drift.distribution_shift(*pair) for what, pair in sides.items()}
    rare = [[answer.rare_fields for answer in part if answer.rare_fields is not None] for part in parts]
    # Earlier versions kept answers without it.
    if all(len(of_part) == len(part) for of_part, part in zip(rare, parts, strict=True)):
        names = {name for of_part in rare for fields in of_part for name in fields}
        for name in sorted(names):
            states = [Counter(fields.get(name, "usual") for fields in of_part) for of_part in rare]
            shifts[f"the field {name}"] = drift.distribution_shift(*states, tests=len(names))
    return {what: index for what, index in shifts.items() if index is not None}
