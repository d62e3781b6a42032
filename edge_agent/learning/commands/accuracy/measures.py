"""What kept answers say about a task: how often it is right, what its scores are worth, what could be promised.

Also as tables of text, for the terminal and the page.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_agent.core.score_map import ScoreMap
from edge_agent.core.terminal import UNKNOWN, percent
from edge_agent.learning.maths.assessment import MIN_ANSWERED, Answer, Assessment, answers_needed, assess
from edge_agent.learning.maths.calibration import (
    JudgedAnswer,
    calibration_error,
    count_right,
    judged_counts,
    share_right,
)
from edge_agent.learning.maths.export import Export, ExportedAnswer
from edge_agent.learning.maths.shares import CONFIDENCE, interval, lower_bound, missing_audits

UNSURE, ANOTHER = "(unsure)", "(another)"
_SCORES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_PROMISES = (0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Share:
    """The share of right answers, with its 95 % interval; None without any answer."""

    right: int
    total: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error (arXiv 1706.04599)."""

    sample: str
    of: int  # How many answers of the sample.
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """Answers whose best label has at least this score."""

    score: float
    coverage: float | None
    audits: int
    share: float | None  # Of right audits.
    low: float | None  # The one-sided bound on that share.


@dataclass(frozen=True, slots=True)
class PossiblePromise:
    """What a promise would let through; None if the audits do not prove it."""

    min_accuracy: float
    coverage: float | None
    score: float | None
    missing: int
    """Answers to audits that would prove it of the surest answers alone, if all that count were right."""
    missing_for_all: int  # The same for a promise of all answers that are not refused.


@dataclass(frozen=True, slots=True)
class Evidence:
    """What promises rest on, as the board itself has it."""

    asked: int  # Audits up to the last answered one.
    open: int  # Audits after it.
    audits: int  # Those of `asked` that are answered.
    refused: int  # Those of them whose input is refused, so that they count for no promise.
    earlier: int  # Those of them that an earlier model was asked first.
    held_out: int  # Rows that the training held out.
    contradicted: int  # Such rows that do not count, because audits are right less often.
    before_drop: int  # Answered audits that measure nothing any more, because the accuracy fell.
    before_drop_until: str | None  # When the newest of these was asked.
    always: tuple[str, float] | None  # The most frequent label, and the promise that it alone would keep, too.


@dataclass(frozen=True, slots=True)
class Measures:
    """An answer is right if its best label under the map in force is."""

    answers: int
    given: float | None  # The share of the newest answers that would be given now, as the board itself has it.
    audits: Share
    feedback: Share
    calibration: Calibration | None
    labels: tuple[str, ...]
    audit_confusion: dict[str, tuple[int, ...]]  # Of the audits, by right label, how often each of `labels` was best.
    outputs: tuple[str, ...]
    confusion: dict[str, tuple[int, ...]]  # Of all feedback, by right label, how often callers got each of `outputs`.
    coverage: tuple[Coverage, ...]
    promises: tuple[PossiblePromise, ...]
    evidence: Evidence


def measure(export: Export) -> Measures:
    """What an export says."""
    score_map = export.map_of("map")
    marked = [answer for answer in export.answers if answer.is_marked]
    audits = [answer for answer in marked if export.measures(answer)]
    before_drop = [answer for answer in marked if answer.is_audit and not export.measures(answer)]
    judged = judge(audits, score_map)
    targets = sorted({*_PROMISES, *([] if export.min_accuracy is None else [export.min_accuracy])})
    assessments = {target: _assess(export, score_map, target) for target in targets}
    assessed = assessments[_PROMISES[0]]
    held_out = judged_counts(export.held_out)
    given_audits = judge([answer for answer in audits if not answer.is_refused], score_map)
    evidence = [*(held_out if assessed.held_out else []), *given_audits]
    scores = [score_map.best(answer.scores)[1] for answer in export.answers]
    given_scores = [score for answer, score in zip(export.answers, scores, strict=True) if not answer.is_refused]
    outputs = (*export.labels, *((UNSURE,) if any(answer.output is None for answer in marked) else ()))
    return Measures(
        answers=len(export.answers),
        given=_assess(export, score_map, export.min_accuracy).given,
        audits=_share(judged),
        feedback=_share(judge(marked, score_map)),
        calibration=_calibration(audits or marked, score_map, "audits" if audits else "answers with feedback"),
        labels=export.labels,
        audit_confusion=_confusion(
            [(answer.label, score_map.best(answer.scores)[0]) for answer in audits], export.labels, export.labels
        ),
        outputs=outputs,
        confusion=_confusion([(answer.label, answer.output or UNSURE) for answer in marked], export.labels, outputs),
        coverage=tuple(_coverage(at, judged, scores) for at in _SCORES),
        promises=tuple(
            _possible_promise(target, assessments[target], evidence, given_scores or [1.0], export.confidence)
            for target in targets
        ),
        evidence=Evidence(
            asked=assessed.asked,
            open=sum(map(export.measures, export.answers)) - assessed.asked,
            audits=assessed.audits,
            refused=sum(answer.is_refused for answer in audits),
            earlier=export.earlier,
            held_out=assessed.held_out,
            contradicted=len(held_out) - assessed.held_out,
            before_drop=len(before_drop),
            before_drop_until=max((answer.at for answer in before_drop if answer.at is not None), default=None),
            always=_always([answer.label for answer in audits], assessments, export.confidence),
        ),
    )


def _always(
    labels: Sequence[str | None], assessments: Mapping[float, Assessment], confidence: float
) -> tuple[str, float] | None:
    """The most frequent label, and the highest proven promise that always giving it would keep, too."""
    for label, count in Counter(label for label in labels if label is not None).most_common(1):
        low = lower_bound(count, len(labels), confidence)
        if kept := [target for target, assessed in assessments.items() if assessed.promise and target <= low]:
            return label, max(kept)
    return None


def judge(answers: Sequence[ExportedAnswer], score_map: ScoreMap) -> list[JudgedAnswer]:
    return [JudgedAnswer.of(answer.scores, answer.label, score_map) for answer in answers]


def _share(judged: Sequence[JudgedAnswer]) -> Share:
    right, total = count_right(judged), len(judged)
    return Share(right, total, right / total, *interval(right, total)) if total else Share(0, 0, None, None, None)


def _confusion(
    answers: Sequence[tuple[str | None, str]], labels: Sequence[str], columns: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Counts `answers`, which have the right label of each and its column."""
    counts = Counter((ANOTHER if label is None else label, column) for label, column in answers)
    rows = (*labels, *((ANOTHER,) if any(label is None for label, _ in answers) else ()))
    return {label: tuple(counts[label, column] for column in columns) for label in rows}


def _calibration(answers: Sequence[ExportedAnswer], score_map: ScoreMap, sample: str) -> Calibration | None:
    if not answers:
        return None
    before, after = (calibration_error(judge(answers, by)) for by in (ScoreMap.identity(score_map.labels), score_map))
    return Calibration(sample, len(answers), before, after)


def _coverage(at: float, judged: Sequence[JudgedAnswer], scores: Sequence[float]) -> Coverage:
    reach = [answer for answer in judged if answer.score >= at]
    share = share_right(reach) if reach else None
    low = lower_bound(count_right(reach), len(reach), CONFIDENCE) if reach else None
    coverage = sum(score >= at for score in scores) / len(scores) if scores else None
    return Coverage(at, coverage, len(reach), share, low)


def _assess(export: Export, score_map: ScoreMap, target: float | None) -> Assessment:
    """Assesses the answers as the board does."""
    answers = [
        Answer(
            scores=answer.scores,
            output=answer.output,
            is_audit=export.measures(answer),
            is_marked=answer.is_marked,
            is_refused=answer.is_refused,
            label=answer.label,
        )
        for answer in export.answers
    ]
    held_out = judged_counts(export.held_out)
    return assess(
        answers,
        current=score_map,
        min_accuracy=target,
        confidence=export.confidence,
        held_out=held_out,
        is_overdue=export.is_overdue,
        min_score=export.min_score,
    )


def _possible_promise(
    target: float, assessed: Assessment, judged: Sequence[JudgedAnswer], scores: Sequence[float], confidence: float
) -> PossiblePromise:
    """`judged` are audits and held-out rows. Neither these nor the scores are of refused answers."""
    missing = []
    for at in _SCORES:
        reach = [answer for answer in judged if answer.score >= at]
        if share := sum(score >= at for score in scores) / len(scores):
            missing.append(math.ceil(missing_audits(count_right(reach), len(reach), target, confidence) / share))
    to_answer = answers_needed(assessed.audits, assessed.asked)
    # The first score is 0, which all answers reach.
    at_least, for_all = (max(1, to_answer, number) for number in (min(missing), missing[0]))
    if (proven := assessed.promise) is not None:
        return PossiblePromise(target, proven.coverage, proven.threshold, 0, for_all if proven.threshold else 0)
    return PossiblePromise(target, None, None, at_least, for_all)


def drop_words(measures: Measures) -> str:
    """A sentence; empty if all answered audits count."""
    evidence = measures.evidence
    if not evidence.before_drop:
        return ""
    until = "" if evidence.before_drop_until is None else f", the last asked at {evidence.before_drop_until},"
    return (
        f"{evidence.before_drop} answered audits{until} no longer count, because the accuracy fell: the board learns "
        "from them instead."
    )


def evidence_words(measures: Measures) -> str:
    """A sentence."""
    evidence = measures.evidence
    audits = f"{evidence.audits} answered audits of {evidence.asked}"
    if evidence.earlier:
        audits += f", {evidence.earlier} of which an earlier model was asked first"
    comma = "," if evidence.earlier else ""
    rows = f"{comma} and {evidence.held_out} rows that the training held out" if evidence.held_out else ""
    if evidence.contradicted:
        rows = f", and no longer on {evidence.contradicted} rows that the training held out, which these contradict"
    needed = answers_needed(evidence.audits, evidence.asked)
    share = percent(MIN_ANSWERED, ".0f")
    hint = (
        f"; none without {share} of the audits answered: answer {needed} more of those {evidence.asked}"
        if needed
        else ""
    )
    refused = ""
    if evidence.refused:
        count = f"{evidence.refused} of the answered ones"
        refused = (
            f" Audits of refused inputs ({count}) count in the other tables, but not for promises, because they get no"
            " answer."
        )
    waiting = f" {evidence.open} newer audits wait for an answer." if evidence.open else ""
    note = ""
    if evidence.always is not None:
        label, target = evidence.always
        note = f" Always answering {label} would keep {target:g}, too: look at each right label by itself."
    return f"Promises rest on {audits}{rows}{hint}.{refused}{waiting}{note}"


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


_AUDITS = "Right labels (rows) against best labels under the map in force (columns), audits"
_ALL_FEEDBACK = "Right labels (rows) against what callers got at the time (columns), all feedback"


def tables_of(measures: Measures) -> list[Table]:
    shares = [("audits", measures.audits), ("all feedback", measures.feedback)]
    return [
        Table(
            "How often the best label is right",
            ("", "right", "of", "share", "95 % interval"),
            [
                (name, str(share.right), str(share.total), percent(share.share), _interval(share.low, share.high))
                for name, share in shares
            ],
        ),
        *(
            Table(title, ("right label", *columns), [(label, *map(str, counts)) for label, counts in rows.items()])
            for title, columns, rows, share in (
                (_AUDITS, measures.labels, measures.audit_confusion, measures.audits),
                (_ALL_FEEDBACK, measures.outputs, measures.confusion, measures.feedback),
            )
            if share.total
        ),
        Table(
            "Answers above a score, and how often the audits are right; a row alone is not a promise",
            ("min score", "answers", "audits", "right", "at least"),
            [
                (f"{part.score:.2f}", percent(part.coverage), str(part.audits), percent(part.share), percent(part.low))
                for part in measures.coverage
            ],
        ),
        Table(
            "What could be promised",
            ("min_accuracy", "answers given", "min score", "right audits missing, at least", "to give all answers"),
            [
                (
                    f"{promised.min_accuracy:.2f}",
                    percent(promised.coverage),
                    UNKNOWN if promised.score is None else f"{promised.score:.3f}",
                    str(promised.missing),
                    str(promised.missing_for_all),
                )
                for promised in measures.promises
            ],
        ),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None else f"{percent(low)} to {percent(high)}"
