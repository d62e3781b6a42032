"""What was measured as tables of text, for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.core.terminal import UNKNOWN, percent
from edge_agent.learning.commands.accuracy.measures import Measures


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables_of(found: Measures) -> list[Table]:
    shares = [("audits", found.audits), ("all feedback", found.feedback)]
    return [
        Table(
            "How often the best label is right",
            ("", "right", "of", "share", "95 % interval"),
            [
                (name, str(one.right), str(one.total), percent(one.share), _interval(one.low, one.high))
                for name, one in shares
            ],
        ),
        Table(
            "Right labels (rows) against what callers got (columns), all feedback",
            ("right label", *found.outputs),
            [(label, *map(str, counts)) for label, counts in found.confusion.items()],
        ),
        Table(
            "Answers above a score, and how often the audits are right; a row alone is not a promise",
            ("min score", "answers", "audits", "right", "at least"),
            [
                (f"{one.score:.2f}", percent(one.coverage), str(one.audits), percent(one.share), percent(one.low))
                for one in found.coverage
            ],
        ),
        Table(
            "What could be promised",
            ("min_accuracy", "answers given", "min score", "audits missing, at least"),
            [
                (
                    f"{one.min_accuracy:.2f}",
                    percent(one.coverage),
                    UNKNOWN if one.score is None else f"{one.score:.3f}",
                    str(one.missing),
                )
                for one in found.promises
            ],
        ),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None else f"{percent(low)} to {percent(high)}"
