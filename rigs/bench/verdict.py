"""Measured values, one per round -> rows of the table, with their targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rigs.bench.rounds import SHORT_TOKENS, WIDTHS, Measured, Run
from rigs.bench.server import LlamaServer
from rigs.bench.workload import CLIENTS, Answer, Kind

_OURS, _THEIRS = "edge-agent", LlamaServer.name


@dataclass(frozen=True)
class Row:
    """Median, lowest and highest of all rounds. at_least, at_most: the target, if there is one."""

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
    """Round by round, within which the machine changes less. Raises ValueError for unequal lengths."""
    return [one / other for one, other in zip(mine, theirs, strict=True)]


def at_equal_text(
    ratio: Sequence[float],
    *,
    my_rate: Sequence[float],
    my_tokens: Sequence[float],
    their_tokens: Sequence[float],
    my_tokens_per_s: Sequence[float],
) -> list[float]:
    """Ratios of rates where both sides word a text freely: lower by the time that their longer text would take me.

    my_tokens_per_s: at which I write texts under the same load, prompts included. A longer text of mine raises nothing.
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


def rows(measured: Measured) -> list[Row]:
    """Of the parts that were run."""
    found: list[Row] = []
    if measured.prefill_limit:
        found += _classify_rows(measured)
    if (_OURS, Kind.EXTRACT, CLIENTS) in measured.runs:
        found += _extract_rows(measured)
    if measured.generate_limit:
        found += _generate_rows(measured)
    if measured.latencies:
        answers_ms = [latency.answer_ms for latency in measured.latencies]
        queued_ms = [latency.queued_ms for latency in measured.latencies]
        found.append(row(f"classify on an idle agent, ≤ {SHORT_TOKENS} new tokens: p50", answers_ms, "ms", at_most=90))
        found.append(row("from the packet to the first step on an idle agent: p50", queued_ms, "ms", at_most=3))
    if measured.agent_mib:
        found.append(row(f"own memory beyond the weights, {CLIENTS} active", measured.agent_mib, "MiB", at_most=200))
        found.append(row("  the same of llama-server", measured.server_mib, "MiB"))
    if measured.bursts:
        name = f"cold burst of 4: requests that share the new prefix of {measured.burst_tokens} tokens"
        found.append(row(name, [burst.shared for burst in measured.bursts], at_least=3))
        computed = [burst.computed_tokens for burst in measured.bursts]
        found.append(row("  tokens of the prefix computed", computed, "tokens"))
    return found


def _classify_rows(measured: Measured) -> list[Row]:
    rates = {key: [run.requests_per_s for run in runs] for key, runs in measured.runs.items()}
    ours = rates[_OURS, Kind.CLASSIFY, CLIENTS]
    best = max(WIDTHS, key=lambda width: statistics.median(rates[_THEIRS, Kind.CLASSIFY, width]))
    alone, together = (measured.runs[_OURS, Kind.CLASSIFY, width] for width in (1, CLIENTS))
    server = measured.runs[_THEIRS, Kind.CLASSIFY, CLIENTS]
    pairs, server_pairs = _pairs(alone, together), _pairs(together, server)
    shared = [rates[side, Kind.CLASSIFY_SHARED, CLIENTS] for side in (_OURS, _THEIRS)]
    return [
        row("classify: requests/s, 8 clients", ours, "1/s"),
        row("  one client", rates[_OURS, Kind.CLASSIFY, 1], "1/s"),
        *(row(f"  llama-server, {width}", rates[_THEIRS, Kind.CLASSIFY, width], "1/s") for width in WIDTHS),
        row("  tokens computed per request", [run.computed_tokens for run in together], "tokens"),
        row("  the same of llama-server", [run.computed_tokens for run in server], "tokens"),
        row("classify: ratio at 8", ratios(ours, rates[_THEIRS, Kind.CLASSIFY, CLIENTS]), at_least=1.6),
        row(f"classify: ratio to its best, at {best}", ratios(ours, rates[_THEIRS, Kind.CLASSIFY, best]), at_least=1.4),
        row("classify: ratio at 1", ratios(rates[_OURS, Kind.CLASSIFY, 1], rates[_THEIRS, Kind.CLASSIFY, 1])),
        row("classify: of what llama-bench's prefill allows", ratios(ours, measured.prefill_limit), at_least=0.9),
        row("classify, two labels share a first token: ratio at 8", ratios(*shared)),
        row("classify: same label alone and in a batch", [_agreement(pairs)], at_least=0.99),
        row("  largest difference of a probability", [_largest_difference(pairs)], at_most=0.02),
        row("  same label as llama-server", [_agreement(server_pairs)]),
    ]


def _extract_rows(measured: Measured) -> list[Row]:
    found: list[Row] = []
    for width, at_least in ((CLIENTS, 2.0), (1, 2.2)):
        ours, theirs = (
            [run.requests_per_s for run in measured.runs[side, Kind.EXTRACT, width]] for side in (_OURS, _THEIRS)
        )
        equal = at_equal_text(
            ratios(ours, theirs),
            my_rate=ours,
            my_tokens=measured.free_tokens[_OURS, width],
            their_tokens=measured.free_tokens[_THEIRS, width],
            my_tokens_per_s=measured.text_speeds[width],
        )
        found += [
            row(f"extract: requests/s, {width}", ours, "1/s"),
            row("  tokens of free text", measured.free_tokens[_OURS, width], "tokens"),
            row("  llama-server", theirs, "1/s"),
            row("  its tokens of free text", measured.free_tokens[_THEIRS, width], "tokens"),
            row(f"extract: ratio at {width}", equal, at_least=at_least),
        ]
    return found


def _generate_rows(measured: Measured) -> list[Row]:
    runs, their_runs = (measured.runs[side, Kind.GENERATE, CLIENTS] for side in (_OURS, _THEIRS))
    ours, theirs = ([run.tokens_per_s for run in one] for one in (runs, their_runs))
    return [
        row("generate: tokens/s, 8 clients", ours, "tokens/s"),
        row("  tokens per answer", [run.written_tokens for run in runs], "tokens"),
        row("  llama-server", theirs, "tokens/s"),
        row("  its tokens per answer", [run.written_tokens for run in their_runs], "tokens"),
        row("generate: ratio at 8", ratios(ours, theirs), at_least=1.15),
        row("  llama-batched-bench", measured.generate_limit, "tokens/s"),
        row("generate: of what llama-batched-bench allows", ratios(ours, measured.generate_limit), at_least=0.95),
    ]


def _pairs(some: Sequence[Run], others: Sequence[Run]) -> list[tuple[Answer, Answer]]:
    return [
        pair for one, other in zip(some, others, strict=True) for pair in zip(one.answers, other.answers, strict=True)
    ]


def _agreement(pairs: list[tuple[Answer, Answer]]) -> float:
    return sum(one.text == other.text for one, other in pairs) / len(pairs)


def _largest_difference(pairs: list[tuple[Answer, Answer]]) -> float:
    return max(
        abs(one.scores[label] - other.scores[label])
        for one, other in pairs
        if one.scores is not None and other.scores is not None
        for label in one.scores
    )
