"""The features of a window, computed plainly from all samples, which the ring of buckets must equal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.signals.window import BUCKETS


@dataclass(frozen=True)
class Sample:
    at: float
    value: float | None  # None if it is missing from here on.


def features(samples: Sequence[Sample], now: float, *, window_s: float, max_age_s: float) -> dict[str, float | None]:
    """The features of a value that holds from each sample until the next one, or until it is too old."""
    bucket_s = window_s / BUCKETS
    start = (math.floor(now / bucket_s) - BUCKETS + 1) * bucket_s
    pieces, seen = [], []
    for number, sample in enumerate(samples):
        if sample.value is None:
            continue
        until = samples[number + 1].at if number + 1 < len(samples) else now
        begin, end = max(sample.at, start), min(until, sample.at + max_age_s, now)
        if sample.at >= start:
            seen.append(sample.value)
        while begin < end:
            edge = min(end, (math.floor(begin / bucket_s + 1e-9) + 1) * bucket_s)
            pieces.append((begin, edge, sample.value))
            begin = edge
    values = [value for _, _, value in pieces] + seen
    known: dict[str, float | None] = dict.fromkeys(("mean", "std", "slope"))
    known["min"], known["max"], known["count"] = min(values, default=None), max(values, default=None), len(seen)
    held = sum(end - begin for begin, end, _ in pieces)
    if not held:
        return known
    mean = sum((end - begin) * value for begin, end, value in pieces) / held
    known["mean"] = mean
    known["std"] = math.sqrt(sum((end - begin) * (value - mean) ** 2 for begin, end, value in pieces) / held)
    buckets: dict[int, list[tuple[float, float]]] = {}
    for begin, end, value in pieces:
        buckets.setdefault(math.floor((begin + end) / 2 / bucket_s), []).append((end - begin, value))
    points = [
        (number * bucket_s / 60, sum(d * v for d, v in parts) / sum(d for d, _ in parts), sum(d for d, _ in parts))
        for number, parts in buckets.items()
    ]
    centre = sum(weight * at for at, _, weight in points) / held
    spread = sum(weight * (at - centre) ** 2 for at, _, weight in points)
    if len(points) > 1:
        known["slope"] = sum(weight * (at - centre) * (height - mean) for at, height, weight in points) / spread
    return known
