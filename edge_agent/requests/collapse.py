"""Whether a model gives one label to most inputs because it prefers it: judged by its answers, without labels.

Dividing by the prior helps such tasks, and harms some others. A label that stays the most frequent one after the
division is probably right as often: then the answers stay as they are. The limits come from the measurement in
docs/tasks.md.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Self

from edge_agent.core.score_map import ScoreMap

MIN_ANSWERS = 100
# Where this many are counted, all counts are halved, so that old answers are forgotten.
_MAX_ANSWERS = 1000
# Shares of the preferred label: among the model's own answers, and among those divided by the prior. The correction
# begins where both say so, and ends where one no longer does. They differ so that it does not come and go by chance.
_BEGINS_AT, _ENDS_BELOW = 0.7, 0.6
_BEGINS_UP_TO, _ENDS_ABOVE = 0.55, 0.6


class Collapse:
    """Counts the answers of a task."""

    def __init__(self, found: str | None = None) -> None:
        """found: as an earlier process left it."""
        self.found = found
        """Why the answers are to be corrected, in words; None if they are not."""
        self._answers = self._preferred = self._still_preferred = 0

    def add(self, scores: Mapping[str, float], by_prior: ScoreMap) -> bool:
        """Takes the model's own scores of an answer; returns whether `found` has come or gone."""
        self._count(scores, by_prior)
        if self._answers < MIN_ANSWERS:
            return False
        before, (share, corrected_share) = self.found, self._shares
        if before is None and self.begins:
            label = _preferred(by_prior)
            self.found = f"{share:.0%} of {self._answers} answers were {label}, the label that the model prefers"
        elif before is not None and (share < _ENDS_BELOW or corrected_share > _ENDS_ABOVE):
            self.found = None
        if self._answers >= _MAX_ANSWERS:
            self._answers //= 2
            self._preferred //= 2
            self._still_preferred //= 2
        return (before is None) != (self.found is None)

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
        return share >= _BEGINS_AT and corrected_share <= _BEGINS_UP_TO

    @classmethod
    def of(cls, answers: Iterable[Mapping[str, float]], by_prior: ScoreMap) -> Self:
        collapse = cls()
        for scores in answers:
            collapse._count(scores, by_prior)
        return collapse


def _preferred(by_prior: ScoreMap) -> str:
    return min(zip(by_prior.biases, by_prior.labels, strict=True))[1]


def is_collapsed(answers: Collection[Mapping[str, float]], by_prior: ScoreMap) -> bool:
    """Whether a board would correct answers with such scores, once there are enough of them."""
    return bool(answers) and Collapse.of(answers, by_prior).begins
