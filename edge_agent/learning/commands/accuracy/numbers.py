"""How near kept answers of the kind `estimate` are to the true numbers, and how many of these their intervals hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.core.terminal import UNKNOWN, aligned, percent
from edge_agent.learning.maths.assessment import NEWEST_ANSWERS
from edge_agent.learning.maths.export import ExportedNumber, NumberExport
from edge_agent.learning.maths.groups import mean_interval
from edge_agent.learning.maths.numbers import MAX_AUDITS, JudgedNumber, count_held, falls_short, mean_error
from edge_agent.learning.maths.shares import CONFIDENCE, interval


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near answers with a true number are to it; None where they are too few."""

    total: int
    mean_error: float | None
    low: float | None
    """The ends of the 95 % interval of the mean error."""
    high: float | None
    held: int
    """How many intervals hold the true number."""
    held_low: float | None
    """The ends of the 95 % interval of the share of such intervals."""
    held_high: float | None


@dataclass(frozen=True, slots=True)
class NumberMeasures:
    answers: int
    given: float
    """The share of the newest readings that got a number."""
    confidence: float
    unit: str | None
    audits: Nearness
    recent: Nearness
    """Of the newest audits, by which the board raises an alarm."""
    feedback: Nearness
    refused: int
    """How many answered audits are of readings that got no number, and so are in no other figure."""
    falls_short: bool
    """Whether the board raises an alarm, because intervals hold too few of the audits' true numbers."""


def measure_numbers(export: NumberExport) -> NumberMeasures:
    """What an export with answers says."""
    newest = export.answers[-NEWEST_ANSWERS:]
    marked = [answer for answer in export.answers if answer.is_marked]
    answered = [answer for answer in marked if answer.is_audit]
    audits = _judged(answered)
    return NumberMeasures(
        answers=len(export.answers),
        given=sum(answer.output is not None for answer in newest) / len(newest),
        confidence=export.confidence,
        unit=export.unit,
        audits=_nearness(audits),
        recent=_nearness(audits[-MAX_AUDITS:]),
        feedback=_nearness(_judged(marked)),
        refused=sum(answer.output is None for answer in answered),
        falls_short=falls_short(audits, export.confidence),
    )


def number_lines(export: NumberExport, measures: NumberMeasures) -> list[str]:
    unit = f" {measures.unit}" if measures.unit else ""

    def number(value: float | None) -> str:
        return UNKNOWN if value is None else f"{value:.4g}{unit}"

    rows = [
        (
            *(name, str(part.total), number(part.mean_error), _between(number(part.low), number(part.high))),
            *(str(part.held), percent(part.held / part.total if part.total else None)),
            _between(percent(part.held_low), percent(part.held_high)),
        )
        for name, part in (
            ("audits", measures.audits),
            *([(f"newest {MAX_AUDITS}", measures.recent)] if measures.audits.total > MAX_AUDITS else []),
            ("all feedback", measures.feedback),
        )
    ]
    head = ("", "of", "mean error", "95 % interval", "held", "share", "95 % interval")
    short = f"The intervals hold clearly fewer of the audits than {percent(measures.confidence, '.0f')}."
    refused = f"Answered audits of readings that got no number, not counted in these figures: {measures.refused}"
    kept = f"{export.task} of {export.board}: {measures.answers} answers kept"
    return [
        f"{kept}; {percent(measures.given)} of the newest readings got a number",
        f"How near answers are, and how many intervals at {percent(measures.confidence, '.0f')} hold the true number",
        *aligned([head, *rows]),
        *([refused] if measures.refused else []),
        *([short] if measures.falls_short else []),
        "",
        f"Bounds are at {100 * CONFIDENCE:g} % confidence. Only audits are a fair sample.",
    ]


def _judged(answers: Sequence[ExportedNumber]) -> list[JudgedNumber]:
    return [
        JudgedNumber.of(answer.output, answer.label, *answer.interval)
        for answer in answers
        if answer.output is not None and answer.label is not None and answer.interval is not None
    ]


def _nearness(judged: Sequence[JudgedNumber]) -> Nearness:
    if not judged:
        return Nearness(0, None, None, None, 0, None, None)
    low, high = mean_interval([(number.error, 1) for number in judged])
    held = count_held(judged)
    is_known = math.isfinite(high)
    return Nearness(
        len(judged),
        mean_error(judged),
        max(low, 0.0) if is_known else None,
        high if is_known else None,
        held,
        *interval(held, len(judged)),
    )


def _between(low: str, high: str) -> str:
    return UNKNOWN if low == UNKNOWN else f"{low} to {high}"
