"""The scores that callers get, where feedback has changed them."""

import math
from typing import Any

from edge_agent.core.pipe import Finished
from edge_agent.core.score_map import ScoreMap
from edge_agent.requests.score_maps import ScoreMaps, with_map
from edge_agent.requests.tasks import Task


class LearnedMaps:
    """A map fitted to feedback takes precedence over those known beforehand; a promise withholds unsure answers.

    A running request may be for a definition of its task that is gone, so what was set for that one stays.
    """

    def __init__(self, known: ScoreMaps) -> None:
        self.known = known
        self._fitted: dict[str, ScoreMap] = {}
        # The minimum score that a promise needs.
        self._min_score: dict[str, float] = {}

    def set_fitted(self, task: Task, fitted: ScoreMap | None) -> None:
        """Takes None if feedback shows no map to be better."""
        self._fitted.pop(task.definition, None)
        if fitted is not None:
            self._fitted[task.definition] = fitted

    def set_min_score(self, task: Task, min_score: float | None) -> None:
        """Answers below this score are not given; UNREACHABLE withholds all of them, None withholds none."""
        self._min_score.pop(task.definition, None)
        if min_score is not None:
            self._min_score[task.definition] = min_score

    def clear(self) -> None:
        """Drops maps and promises, because the model is another one or feedback is off."""
        self._fitted.clear()
        self._min_score.clear()

    def in_force(self, task: Task) -> ScoreMap | None:
        return self._fitted.get(task.definition) or self.known.in_force(task)

    def has_fitted(self, task: Task) -> bool:
        return task.definition in self._fitted

    def withholds_all(self, task: Task) -> bool:
        return self._min_score.get(task.definition) == math.inf

    def scored(self, task: Task, event: Finished) -> tuple[Finished, Any]:
        """The answer with the scores that callers get, and the output, which is None where no label is sure enough."""
        event = with_map(event, self.in_force(task))
        if event.scores is not None and max(event.scores.values()) < self._min_score.get(task.definition, 0.0):
            return event, None
        return event, task.output_of(event)
