"""PURE. Measured values, one per round -> rows of the table, each with its target."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Of all rounds: median, lowest and highest. at_least, at_most: the target, if there is one."""

    name: str
    value: float
    lowest: float
    highest: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool | None:
        """None = there is no target."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.value,
            "lowest": self.lowest,
            "highest": self.highest,
            "target": self.target or None,
            "is_met": self.is_met,
        }


def row(
    name: str, values: Sequence[float], unit: str = "", *, at_least: float | None = None, at_most: float | None = None
) -> Row:
    """Raises statistics.StatisticsError without values."""
    return Row(name, statistics.median(values), min(values), max(values), unit, at_least, at_most)


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round: what else the machine does differs less within one. Raises ValueError for unequal lengths."""
    return [one / other for one, other in zip(mine, theirs, strict=True)]


def at_equal_text(
    ratio: Sequence[float],
    *,
    my_rate: Sequence[float],
    my_tokens: Sequence[float],
    their_tokens: Sequence[float],
    my_tokens_per_s: Sequence[float],
) -> list[float]:
    """Ratios of rates where both may word a text as they like: lower by the time that as much text as theirs would have
    taken me, never higher.

    my_tokens_per_s: at which I write texts under the same load, prompts included: that makes them dearer than they are.
    """
    rounds = zip(ratio, my_rate, my_tokens, their_tokens, my_tokens_per_s, strict=True)
    return [value / (1 + max(0.0, theirs - mine) * rate / speed) for value, rate, mine, theirs, speed in rounds]


def table(rows: Sequence[Row]) -> str:
    """One line per row."""
    width = max(len(one.name) for one in rows)
    lines = [f"{'':{width}} {'median':>9}  {'spread':15} {'target':>8}"]
    for one in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[one.is_met]
        spread = f"{_short(one.lowest)}–{_short(one.highest)}"
        lines.append(
            f"{one.name:{width}} {_short(one.value):>9}  {spread:15} {one.target:>8} {one.unit:9} {verdict}".rstrip()
        )
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
