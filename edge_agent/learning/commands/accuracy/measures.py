"""What kept answers say about a task: how often it is right, what its scores are worth, what could be promised.

Also as tables of text, for the terminal and the page.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.core.score_map import ScoreMap
from edge_agent.core.terminal import UNKNOWN, percent
from edge_agent.learning.maths import promise
from edge_agent.learning.maths.calibration import JudgedAnswer, calibration_error, count_right, share_right
from edge_agent.learning.maths.export import Export, ExportedAnswer
from edge_agent.learning.maths.shares import CONFIDENCE, interval, lower_bound

UNSURE, ANOTHER = "(unsure)", "(another)"
_SCORES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_PROMISES = (0.9, 0.95, 0.99)
# Far more than a board keeps. If answers are not right often enough, no number of audits proves the promise.
_MAX_MISSING = 1 << 20


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
    coverage: float
    audits: int
    share: float | None  # Of right audits.
    low: float | None  # The one-sided bound on that share.


@dataclass(frozen=True, slots=True)
class PossiblePromise:
    """What a promise would let through; None if the audits do not prove it."""

    min_accuracy: float
    coverage: float | None
    score: float | None
    missing: int  # Audits that would prove it if all of them that count were right.


@dataclass(frozen=True, slots=True)
class Measures:
    """An answer is right if its best label under the map in force is."""

    answers: int
    given: float
    audits: Share
    feedback: Share
    calibration: Calibration | None
    outputs: tuple[str, ...]
    confusion: dict[str, tuple[int, ...]]  # By right label, a count for each of `outputs`.
    coverage: tuple[Coverage, ...]
    promises: tuple[PossiblePromise, ...]


def measure(export: Export) -> Measures:
    """What an export says, which has at least one answer."""
    score_map = export.map_of("map")
    marked = [answer for answer in export.answers if answer.is_marked]
    audits = [answer for answer in marked if export.measures(answer)]
    judged = judge(audits, score_map)
    others = [score_map.best(answer.scores)[1] for answer in export.answers if not export.measures(answer)]
    scores = [score_map.best(answer.scores)[1] for answer in export.answers]
    counts = Counter((ANOTHER if answer.label is None else answer.label, answer.output or UNSURE) for answer in marked)
    outputs = (*export.labels, *((UNSURE,) if any(output == UNSURE for _, output in counts) else ()))
    labels = (*export.labels, *((ANOTHER,) if any(label == ANOTHER for label, _ in counts) else ()))
    return Measures(
        answers=len(export.answers),
        given=sum(answer.output is not None for answer in export.answers) / len(export.answers),
        audits=_share(judged),
        feedback=_share(judge(marked, score_map)),
        calibration=_calibration(audits or marked, score_map, "audits" if audits else "answers with feedback"),
        outputs=outputs,
        confusion={label: tuple(counts[label, output] for output in outputs) for label in labels},
        coverage=tuple(_coverage(at, judged, scores) for at in _SCORES),
        promises=tuple(_possible_promise(target, judged, others, scores) for target in _PROMISES),
    )


def judge(answers: Sequence[ExportedAnswer], score_map: ScoreMap) -> list[JudgedAnswer]:
    return [JudgedAnswer.of(answer.scores, answer.label, score_map) for answer in answers]


def _share(judged: Sequence[JudgedAnswer]) -> Share:
    right, total = count_right(judged), len(judged)
    return Share(right, total, right / total, *interval(right, total)) if total else Share(0, 0, None, None, None)


def _calibration(answers: Sequence[ExportedAnswer], score_map: ScoreMap, sample: str) -> Calibration | None:
    if not answers:
        return None
    before, after = (calibration_error(judge(answers, by)) for by in (ScoreMap.identity(score_map.labels), score_map))
    return Calibration(sample, len(answers), before, after)


def _coverage(at: float, judged: Sequence[JudgedAnswer], scores: Sequence[float]) -> Coverage:
    reach = [answer for answer in judged if answer.score >= at]
    share = share_right(reach) if reach else None
    low = lower_bound(count_right(reach), len(reach), CONFIDENCE) if reach else None
    return Coverage(at, sum(score >= at for score in scores) / len(scores), len(reach), share, low)


def _possible_promise(
    target: float, judged: Sequence[JudgedAnswer], others: Sequence[float], scores: Sequence[float]
) -> PossiblePromise:
    if (proven := promise.find_promise(judged, others, target, CONFIDENCE)) is not None:
        return PossiblePromise(target, proven.coverage, proven.threshold, 0)
    missing = []
    for at in _SCORES:
        reach = [answer for answer in judged if answer.score >= at]
        if share := sum(score >= at for score in scores) / len(scores):
            missing.append(math.ceil(_missing(count_right(reach), len(reach), target) / share))
    return PossiblePromise(target, None, None, max(1, min(missing)))


def _missing(right: int, total: int, target: float) -> int:
    """How many more right audits lift the lower bound to the target."""
    return bisect_left(
        range(_MAX_MISSING), target, key=lambda more: lower_bound(right + more, total + more, CONFIDENCE)
    )


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


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
        Table(
            "Right labels (rows) against what callers got (columns), all feedback",
            ("right label", *measures.outputs),
            [(label, *map(str, counts)) for label, counts in measures.confusion.items()],
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
            ("min_accuracy", "answers given", "min score", "audits missing, at least"),
            [
                (
                    f"{promised.min_accuracy:.2f}",
                    percent(promised.coverage),
                    UNKNOWN if promised.score is None else f"{promised.score:.3f}",
                    str(promised.missing),
                )
                for promised in measures.promises
            ],
        ),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None else f"{percent(low)} to {percent(high)}"
