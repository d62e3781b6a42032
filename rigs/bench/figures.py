"""Figures of a benchmark have one value per round, a median with its spread, and a target that they meet or miss."""

import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.core.terminal import aligned


@dataclass(slots=True)
class Figure:
    unit: str
    at_least: float | None
    """The least that the median may be, if that is a target."""
    at_most: float | None
    """The most that it may be."""
    values: list[float] = field(default_factory=list)
    """One value from each round."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the targets are met; None if there are none."""
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"


class Figures:
    """Figures by name, in the order in which they were first noted.

    Absolute figures mean little on a shared machine, so ratios are taken within a round, in which it changes less.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Figure] = {}

    def note(
        self, name: str, value: float, unit: str = "", *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        self.by_name.setdefault(name, Figure(unit, at_least, at_most)).values.append(value)

    @property
    def are_met(self) -> bool:
        return not any(figure.is_met is False for figure in self.by_name.values())

    def table(self) -> str:
        """One line per figure, after the name of this machine's processor."""
        rows = [("", "median", "spread", "target", "", "")]
        for name, one in self.by_name.items():
            verdict = {True: "met", False: "MISSED", None: ""}[one.is_met]
            spread = f"{_short(min(one.values))}–{_short(max(one.values))}"
            rows.append((name, _short(one.median), spread, one.target, one.unit, verdict))
        return "\n".join([processor(), *aligned(rows)])


def verdict(is_met: bool) -> str:  # noqa: FBT001 - its only argument
    return "met" if is_met else "MISSED"


def processor() -> str:
    """Name and number of this machine's processors."""
    text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    names = re.findall(r"^(?:model name|Model)\s*:\s*(.*)$", text, flags=re.MULTILINE)
    return f"{text.count('processor')} × {names[0] if names else 'unknown'}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
