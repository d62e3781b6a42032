"""From the scores that a model gives to the labels of a task to those that its callers get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edge_agent.accuracy.score_map import ScoreMap
from edge_agent.core.config import ClassifyTask
from edge_agent.core.pipe import Finished
from edge_agent.requests.tasks import Task


class Scoring:
    """The map in force of each task, by the task's definition. A task without one gets the model's own scores."""

    def __init__(self) -> None:
        self._maps: dict[str, ScoreMap] = {}

    def set_priors(self, priors: Mapping[str, Mapping[str, float]]) -> None:
        """Divides the scores of these tasks by what the model prefers where an input says nothing.

        Requests that run may be of a definition that is gone: its map stays.
        """
        self._maps |= {definition: ScoreMap.dividing_by(prior) for definition, prior in priors.items()}

    def clear(self) -> None:
        """Another model has another prior."""
        self._maps.clear()

    def corrected(self, task: Task, event: Finished) -> Finished:
        """The answer with the scores that callers get."""
        found = self._maps.get(task.definition)
        return event if found is None or event.scores is None else replace(event, scores=found.apply(event.scores))

    def describe(self, task: Task) -> dict[str, str]:
        """For `info`: whether the scores of a task are corrected."""
        if not isinstance(task.config, ClassifyTask):
            return {}
        return {"prior": "corrected" if task.definition in self._maps else "as-is"}
