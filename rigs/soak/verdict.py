"""PURE. What the samples of a run say: each line with its limit, and whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rigs.chaos.ledger import Verdict
from rigs.soak.load import TIMED
from rigs.soak.samples import ProcessSample, Sample

SETTLED_AFTER = 1000
_AROUND = 7
MOST_GROWTH = 1.05
# 8 MB of answers to repeat and 8 MB of other ends (duplicates.py), pages half full, and the file of changes.
MOST_STATE_BYTES = 48_000_000
# A machine that does other things, too, is not the agent's drift.
MOST_DRIFT, DRIFT_FLOOR_MS = 1.25, 5.0
MOST_LOG_BYTES_PER_REQUEST = 100
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    value: str
    limit: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is counted besides the samples. errors: lines of the agent's log that are errors."""

    ledger: Verdict
    torn_streams: int
    visits: int
    visits_without_health: int
    exit_code: int
    errors: int
    is_watched_for_drift: bool = True


def verdict(samples: Sequence[Sample], facts: Facts) -> list[Line]:
    """At least one sample."""
    told = facts.ledger
    lines = [
        _none("lost", told.lost),
        _none("wrong", told.wrong),
        _none("answered twice", told.duplicates),
        _none("inferred again", told.inferred_again),
        _none("streams unlike their answers", facts.torn_streams),
        _none(f"visitors of {facts.visits} without health", facts.visits_without_health),
        _none("errors in the log", facts.errors),
        _none("exit code", facts.exit_code),
        _none("workers lost", len({one.worker.pid for one in samples if one.worker}) - 1),
    ]
    for who, of in (("agent", _agent), ("worker", _worker)):
        lines += _growth(samples, who, of)
    lines += [
        _at_most("state folder, most", max(one.state_bytes for one in samples) / MIB, MOST_STATE_BYTES / MIB, "MiB"),
        _at_most(
            "log per request",
            (samples[-1].log_bytes - samples[0].log_bytes) / max(1, told.asked),
            MOST_LOG_BYTES_PER_REQUEST,
            "bytes",
        ),
    ]
    if facts.is_watched_for_drift:
        lines += [line for kind in TIMED if (line := _drift(samples, kind)) is not None]
    return lines


def _agent(one: Sample) -> ProcessSample:
    return one.agent


def _worker(one: Sample) -> ProcessSample | None:
    return one.worker


def _growth(samples: Sequence[Sample], who: str, of: Callable[[Sample], ProcessSample | None]) -> list[Line]:
    settled = next((at for at, one in enumerate(samples) if one.answered >= SETTLED_AFTER), None)
    if settled is None or settled + 2 * _AROUND > len(samples):
        return [Line(f"{who}, memory", "too few requests", f"{SETTLED_AFTER} and some more", holds=False)]
    then = [found for one in samples[settled : settled + _AROUND] if (found := of(one)) is not None]
    now = [found for one in samples[-_AROUND:] if (found := of(one)) is not None]
    if not then or not now:
        return [Line(f"{who}, memory", "no process", "one", holds=False)]
    lines = []
    for name, read in (
        ("resident", lambda one: one.resident_mib),
        ("anonymous", lambda one: one.anonymous_mib),
    ):
        before, after = statistics.median(map(read, then)), statistics.median(map(read, now))
        # Only what is resident has a limit: of anonymous memory it is the larger part.
        lines.append(
            Line(
                f"{who}, {name}",
                f"{before:.1f} to {after:.1f} MiB ({after / before - 1:+.1%})",
                f"{MOST_GROWTH - 1:+.0%}" if name == "resident" else "",
                holds=name != "resident" or after <= before * MOST_GROWTH,
            )
        )
    for name, count in (("threads", lambda one: one.threads), ("open files", lambda one: one.files)):
        before, after = statistics.median_high(map(count, then)), statistics.median_low(map(count, now))
        lines.append(Line(f"{who}, {name}", f"{before} to {after}", "no more", holds=after <= before))
    return lines


def _drift(samples: Sequence[Sample], kind: str) -> Line | None:
    """Of the faster quarter, which other load on the machine touches least: the last third of the run to the first."""
    third = len(samples) // 3
    first, last = (
        [ms for one in part for ms in one.latency_ms.get(kind, ())] for part in (samples[:third], samples[-third:])
    )
    if len(first) < 20 or len(last) < 20:
        return None
    before, after = statistics.quantiles(first, n=4)[0], statistics.quantiles(last, n=4)[0]
    is_steady = after <= before * MOST_DRIFT + DRIFT_FLOOR_MS
    limit = f"× {MOST_DRIFT} and {DRIFT_FLOOR_MS:.0f} ms"
    return Line(f"latency of {kind}, p25", f"{before:.1f} to {after:.1f} ms", limit, holds=is_steady)


def _none(name: str, count: int) -> Line:
    return Line(name, str(count), "0", holds=count == 0)


def _at_most(name: str, value: float, most: float, unit: str) -> Line:
    return Line(name, f"{value:.1f} {unit}", f"{most:.0f} {unit}", holds=value <= most)
