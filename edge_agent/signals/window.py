"""The sliding window of one value: time-weighted features over a ring buffer.

Times are seconds on one clock that never goes back. The ring has the newest bucket, which is filling, and the
BUCKETS - 1 whole ones before it, so its size does not depend on how often values come.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence

BUCKETS = 60
_EMPTY = bytes(8 * BUCKETS)


class Window:
    __slots__ = ("_bucket_s", "_newest", "columns")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / BUCKETS
        self._newest: int | None = None  # The number of the newest bucket, counted from time 0.
        # For each bucket: seconds held, mean, sum of squared deviations from it, minimum, maximum, number of samples.
        self.columns = tuple(array("d", _EMPTY) for _ in range(6))

    def hold(self, value: float, start: float, end: float) -> None:
        """Counts that the value held from start to end."""
        newest = self._advance_to(end)
        at = max(start, (newest - BUCKETS + 1) * self._bucket_s)
        number = math.floor(at / self._bucket_s)
        while at < end:
            until = min((number + 1) * self._bucket_s, end)
            if until > at:
                self._add(number, value, until - at)
                at = until
            number += 1

    def sample(self, value: float, at: float) -> None:
        """Counts a sample. `min` and `max` include it even if the next one replaces it immediately."""
        index = self._advance_to(at) % BUCKETS
        self._widen(index, value)
        self.columns[5][index] += 1

    def coverage(self, now: float) -> float:
        """The share of the window for which a value is known."""
        newest = self._advance_to(now)
        # The newest bucket counts only up to now.
        return sum(self.columns[0]) / (now - (newest - BUCKETS + 1) * self._bucket_s)

    def features(self, now: float) -> dict[str, float | None]:
        """The features by name, up to now; None where the window has no value."""
        newest = self._advance_to(now)
        held, means, squares, minima, maxima, counts = self.columns
        known = [i for i in range(BUCKETS) if held[i] > 0 or counts[i] > 0]
        total = sum(held)
        features: dict[str, float | None] = {"mean": None, "std": None, "slope": None, "count": sum(counts)}
        features["min"] = min((minima[i] for i in known), default=None)
        features["max"] = max((maxima[i] for i in known), default=None)
        if total <= 0:
            return features
        # From a mean of the window, so that a value that does not change has no spread by rounding.
        known = [i for i in known if held[i] > 0]
        base = means[known[0]]
        mean = base + sum(held[i] * (means[i] - base) for i in known) / total
        within = sum(squares[i] + held[i] * (means[i] - mean) ** 2 for i in known)
        features["mean"], features["std"] = mean, math.sqrt(within / total)
        # A weighted linear regression over the means of the buckets.
        ages = [(newest - i) % BUCKETS for i in range(BUCKETS)]
        centre = sum(held[i] * ages[i] for i in known) / total
        spread = sum(held[i] * (ages[i] - centre) ** 2 for i in known)
        if len(known) > 1:
            rise = sum(held[i] * (centre - ages[i]) * (means[i] - mean) for i in known)
            features["slope"] = rise / spread / self._bucket_s * 60
        return features

    def as_state(self) -> tuple[int | None, tuple[bytes, ...]]:
        return self._newest, tuple(column.tobytes() for column in self.columns)

    def restore(self, newest: int | None, columns: Sequence[bytes]) -> None:
        self._newest = newest
        for column, content in zip(self.columns, columns, strict=True):
            column[:] = array("d", content)

    def _add(self, number: int, value: float, seconds: float) -> None:
        held, means, squares = self.columns[:3]
        index = number % BUCKETS
        before = held[index]
        self._widen(index, value)
        held[index] = before + seconds
        difference = value - means[index]
        means[index] += difference * (seconds / held[index])
        squares[index] += difference * difference * before * seconds / held[index]

    def _widen(self, index: int, value: float) -> None:
        held, _, _, minima, maxima, counts = self.columns
        if held[index] > 0 or counts[index] > 0:
            minima[index], maxima[index] = min(minima[index], value), max(maxima[index], value)
        else:
            minima[index] = maxima[index] = value

    def _advance_to(self, now: float) -> int:
        """Clears the buckets that have left the window; returns the number of the newest one."""
        number = math.floor(now / self._bucket_s)
        if self._newest is None or number > self._newest:
            for index in _indexes(self._newest, number):
                for column in self.columns:
                    column[index] = 0.0
            self._newest = number
        return self._newest


def _indexes(before: int | None, newest: int) -> Iterator[int]:
    first = newest - BUCKETS + 1 if before is None else max(before + 1, newest - BUCKETS + 1)
    return (number % BUCKETS for number in range(first, newest + 1))
