"""Detects without labelled rows that a model gives most inputs one label merely because it prefers that label.

Dividing the scores by the prior helps such a task and harms some others. If most answers remain that label after the
division, it is probably right that often, so the scores stay as they are. `python -m rigs.priors` measures this.
"""

from collections.abc import Iterable, Mapping

from edge_agent.core.score_map import ScoreMap

MIN_ANSWERS = 100
# At this many, all counts are halved, so that old answers are gradually forgotten.
_MAX_ANSWERS = 1000
# The correction begins if at least this share of the answers is the preferred label, and at most that share would still
# be after the division. It ends at weaker limits, so that it does not come and go by chance.
_MIN_SHARE, _MIN_SHARE_TO_CONTINUE = 0.7, 0.6
_MAX_CORRECTED_SHARE, _MAX_CORRECTED_SHARE_TO_CONTINUE = 0.55, 0.6


class CollapseDetector:
    """Counts the answers of one task."""

    def __init__(self, reason: str | None = None) -> None:
        """Takes the reason that an earlier process left."""
        self.reason = reason
        """Why scores are to be divided by the prior, in words; None if they are not."""
        self._answers = self._preferred = self._still_preferred = 0

    def add(self, scores: Mapping[str, float], prior_map: ScoreMap) -> bool:
        """Counts an answer by the model's own scores. Returns whether the correction begins or ends with it."""
        self.count(scores, prior_map)
        if self._answers < MIN_ANSWERS:
            return False
        was_corrected, (share, corrected_share) = self.reason is not None, self._shares
        if not was_corrected and self.is_collapsed:
            label = _preferred_label(prior_map)
            self.reason = f"{share:.0%} of {self._answers} answers were {label}, which the model prefers for any input"
        elif share < _MIN_SHARE_TO_CONTINUE or corrected_share > _MAX_CORRECTED_SHARE_TO_CONTINUE:
            self.reason = None
        if self._answers >= _MAX_ANSWERS:
            self._answers //= 2
            self._preferred //= 2
            self._still_preferred //= 2
        return was_corrected != (self.reason is not None)

    def count(self, scores: Mapping[str, float], prior_map: ScoreMap) -> None:
        label = _preferred_label(prior_map)
        self._answers += 1
        self._preferred += max(scores, key=scores.__getitem__) == label
        self._still_preferred += prior_map.best(scores)[0] == label

    @property
    def _shares(self) -> tuple[float, float]:
        return self._preferred / self._answers, self._still_preferred / self._answers

    @property
    def is_collapsed(self) -> bool:
        """Whether the counted answers call for the correction."""
        if not self._answers:
            return False
        share, corrected_share = self._shares
        return share >= _MIN_SHARE and corrected_share <= _MAX_CORRECTED_SHARE


def is_collapsed(answers: Iterable[Mapping[str, float]], prior_map: ScoreMap) -> bool:
    """Whether a board would correct such scores, once it has counted enough answers with them."""
    detector = CollapseDetector()
    for scores in answers:
        detector.count(scores, prior_map)
    return detector.is_collapsed


def _preferred_label(prior_map: ScoreMap) -> str:
    """The label with the highest prior, which the map lowers most."""
    return min(zip(prior_map.biases, prior_map.labels, strict=True))[1]
