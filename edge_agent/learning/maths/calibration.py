"""Whether scores are true: of answers with 0.8, about 80 % should be right."""

from __future__ import annotations

from collections.abc import Sequence

BINS = 10
# Score of the best label, and whether it is right.
Judged = tuple[float, bool]


def bins(judged: Sequence[Judged]) -> list[tuple[int, float, float]]:
    """Of each bin of equal width that has answers: how many, mean score, share of right ones."""
    parts: dict[int, list[Judged]] = {}
    for score, is_right in judged:
        parts.setdefault(min(BINS - 1, int(score * BINS)), []).append((score, is_right))
    return [
        (len(part), sum(score for score, _ in part) / len(part), sum(is_right for _, is_right in part) / len(part))
        for _, part in sorted(parts.items())
    ]


def calibration_error(judged: Sequence[Judged]) -> float:
    """The expected one (arXiv 1706.04599)."""
    return sum(number * abs(score - share) for number, score, share in bins(judged)) / len(judged)
