"""Whether scores are true: of answers with 0.8, about 80 % should be right."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from edge_agent.core.score_map import FLOOR, ScoreMap

BINS = 10


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer whose right label is known."""

    score: float  # Of the best label.
    is_right: bool
    label: str = ""  # The best one.
    right_score: float = 0.0  # Of the right label; 0 where it is only known that the best one is wrong.

    @classmethod
    def of(cls, scores: Mapping[str, float], right: str | None, score_map: ScoreMap | None = None) -> Self:
        """An answer with these scores, under a map if one is used."""
        mapped = scores if score_map is None else score_map.apply(scores)
        best = max(mapped, key=mapped.__getitem__)
        return cls(mapped[best], best == right, best, 0.0 if right is None else mapped[right])

    @property
    def log_loss(self) -> float:
        """The log loss in nats."""
        return -math.log(max(self.right_score, FLOOR))


def judged_counts(counts: Sequence[tuple[float, int, int]]) -> list[JudgedAnswer]:
    """From how many answers of each score are right, and how many there are in all."""
    return [JudgedAnswer(score, number < right) for score, right, count in counts for number in range(count)]


def share_right(judged: Sequence[JudgedAnswer]) -> float:
    """The share of right answers, of at least one answer."""
    return count_right(judged) / len(judged)


def count_right(judged: Sequence[JudgedAnswer]) -> int:
    return sum(answer.is_right for answer in judged)


def bins(judged: Sequence[JudgedAnswer]) -> list[tuple[int, float, float]]:
    """For each bin of equal width that has answers: their number, their mean score, and the share of right ones."""
    parts: dict[int, list[JudgedAnswer]] = {}
    for answer in judged:
        parts.setdefault(min(BINS - 1, int(answer.score * BINS)), []).append(answer)
    return [
        (len(part), sum(answer.score for answer in part) / len(part), share_right(part))
        for _, part in sorted(parts.items())
    ]


def calibration_error(judged: Sequence[JudgedAnswer]) -> float:
    """The expected calibration error (arXiv 1706.04599)."""
    return sum(number * abs(score - share) for number, score, share in bins(judged)) / len(judged)
