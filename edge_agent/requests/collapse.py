"""Judges without right answers whether a model gives most inputs one label only because it prefers that label.

Dividing the scores by the prior helps such a task, and harms some others. If most answers remain that label after the
division, it is probably right that often, so the scores stay as they are. `python -m rigs.priors` measures it.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Self

from edge_agent.core.score_map import ScoreMap

MIN_ANSWERS = 100
# At this many, all counts are halved, so that old answers are gradually forgotten.
_MAX_ANSWERS = 1000
# Limits for how many answers are the preferred label: of the model's own, and of the same ones divided by the prior.
# Beginning to correct takes more than continuing, so that the correction does not come and go by chance.
_MIN_SHARE, _MIN_SHARE_TO_CONTINUE = 0.7, 0.6
_MAX_CORRECTED_SHARE, _MAX_CORRECTED_SHARE_TO_CONTINUE = 0.55, 0.6


class Collapse:
    """Counts the answers of a task."""

    def __init__(self, reason: str | None = None) -> None:
        """reason: as an earlier process left it."""
        self.reason = reason
        """Why scores are to be divided by the prior, in words; None if they are not."""
        self._answers = self._preferred = self._still_preferred = 0

    def add(self, scores: Mapping[str, float], by_prior: ScoreMap) -> bool:
        """Counts an answer, by the model's own scores; returns whether the correction has just begun or ended."""
        self._count(scores, by_prior)
        if self._answers < MIN_ANSWERS:
            return False
        was_corrected, (share, corrected_share) = self.reason is not None, self._shares
        if not was_corrected and self.begins:
            label = _preferred(by_prior)
            self.reason = f"{share:.0%} of {self._answers} answers were {label}, which the model prefers for any input"
        elif share < _MIN_SHARE_TO_CONTINUE or corrected_share > _MAX_CORRECTED_SHARE_TO_CONTINUE:
            self.reason = None
        if self._answers >= _MAX_ANSWERS:
            self._answers //= 2
            self._preferred //= 2
            self._still_preferred //= 2
        return was_corrected != (self.reason is not None)

    def _count(self, scores: Mapping[str, float], by_prior: ScoreMap) -> None:
        label = _preferred(by_prior)
        self._answers += 1
        self._preferred += max(scores, key=scores.__getitem__) == label
        self._still_preferred += by_prior.best(scores)[0] == label

    @property
    def _shares(self) -> tuple[float, float]:
        return self._preferred / self._answers, self._still_preferred / self._answers

    @property
    def begins(self) -> bool:
        share, corrected_share = self._shares
        return share >= _MIN_SHARE and corrected_share <= _MAX_CORRECTED_SHARE

    @classmethod
    def of(cls, answers: Iterable[Mapping[str, float]], by_prior: ScoreMap) -> Self:
        collapse = cls()
        for scores in answers:
            collapse._count(scores, by_prior)
        return collapse


def _preferred(by_prior: ScoreMap) -> str:
    """The label with the highest prior, which the map lowers most."""
    return min(zip(by_prior.biases, by_prior.labels, strict=True))[1]


def is_collapsed(answers: Collection[Mapping[str, float]], by_prior: ScoreMap) -> bool:
    """Whether a board would correct such scores, once it has counted enough answers with them."""
    return bool(answers) and Collapse.of(answers, by_prior).begins
