"""What the samples of a run show, as checks with their limits, and whether each holds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rigs.soak.samples import MIB, ProcessSample, Sample

# Memory counts as settled after so many answers, and is then the median of so many samples.
SETTLED_AFTER = 1000
_MEDIAN_SAMPLES = 7
MAX_GROWTH = 1.05
# 8 MB of answers to repeat and 8 MB of other ends, with pages half full, and the write-ahead log.
MAX_STATE_MIB = 46.0
# The most per request.
MAX_LOG_BYTES = 100.0


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    value: str
    limit: str
    holds: bool | None
    """None if the value is not judged."""


def verdict(samples: Sequence[Sample], counts: Mapping[str, int]) -> list[Check]:
    """The counts are those of the ledger, and others. There is at least one sample."""
    must_be_zero = {name: count for name, count in counts.items() if name not in ("asked", "answered")}
    must_be_zero["workers lost"] = len({one.worker.pid for one in samples if one.worker}) - 1
    state_mib = max(one.state_bytes for one in samples) / MIB
    log_bytes = (samples[-1].log_bytes - samples[0].log_bytes) / max(1, counts["asked"])
    return [
        *(Check(name, str(count), "0", holds=count == 0) for name, count in must_be_zero.items()),
        *_growth("agent", samples, lambda one: one.agent),
        *_growth("worker", samples, lambda one: one.worker),
        Check("state folder", f"{state_mib:.1f} MiB", f"{MAX_STATE_MIB:.0f} MiB", holds=state_mib <= MAX_STATE_MIB),
        Check(
            "log per request", f"{log_bytes:.1f} bytes", f"{MAX_LOG_BYTES:.0f} bytes", holds=log_bytes <= MAX_LOG_BYTES
        ),
    ]


def _growth(name: str, samples: Sequence[Sample], process: Callable[[Sample], ProcessSample | None]) -> list[Check]:
    settled = [found for one in samples if one.answered >= SETTLED_AFTER and (found := process(one)) is not None]
    if len(settled) < 2 * _MEDIAN_SAMPLES:
        return [Check(f"{name}, growth", "too few requests", f"after {SETTLED_AFTER} answers", holds=None)]
    first, last = settled[:_MEDIAN_SAMPLES], settled[-_MEDIAN_SAMPLES:]
    before, after = (statistics.median(one.resident_mib for one in part) for part in (first, last))
    checks = [
        Check(
            f"{name}, resident",
            f"{before:.1f} to {after:.1f} MiB ({after / before - 1:+.1%})",
            f"{MAX_GROWTH - 1:+.0%}",
            holds=after <= before * MAX_GROWTH,
        )
    ]
    for what in ("threads", "files"):
        fewest = statistics.median_high(getattr(one, what) for one in first)
        most = statistics.median_low(getattr(one, what) for one in last)
        checks.append(Check(f"{name}, {what}", f"{fewest} to {most}", "no more", holds=most <= fewest))
    return checks
