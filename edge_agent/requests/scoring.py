"""From the scores that a model gives to the labels of a task to those that its callers get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.pipe import Finished
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.score_maps import score_map_for
from edge_agent.requests.tasks import Task


class Scoring:
    """The map in force of each task: fitted to feedback, configured, of the bundle, of the prior, in this order.

    Requests that run may be of a definition that is gone, so what was set for one stays.
    """

    def __init__(self, weights_sha256: str = "", board: str = "") -> None:
        """board: `<site>/<device>`."""
        self._weights_sha256 = weights_sha256
        self._board = board
        self._priors: dict[str, ScoreMap] = {}
        self._bundled: dict[str, Any] = {}
        self._fitted: dict[str, ScoreMap] = {}
        # The least score that a promise needs.
        self._least: dict[str, float] = {}

    def set_priors(self, priors: Mapping[str, Mapping[str, float]]) -> None:
        """Divides the scores of these tasks by what the model prefers where an input says nothing."""
        self._priors |= {definition: ScoreMap.dividing_by(prior) for definition, prior in priors.items()}

    def set_bundled(self, maps: Mapping[str, Any]) -> None:
        """The maps of the model's bundle, as `read_score_maps` gives them."""
        self._bundled = dict(maps)

    def set_fitted(self, task: Task, fitted: ScoreMap | None) -> None:
        """None = there is no map that feedback shows to be better."""
        self._fitted.pop(task.definition, None)
        if fitted is not None:
            self._fitted[task.definition] = fitted

    def set_least_score(self, task: Task, least: float | None) -> None:
        """Answers below this score are not given; NEVER = none is; None = all are."""
        self._least.pop(task.definition, None)
        if least is not None:
            self._least[task.definition] = least

    def forget_feedback(self) -> None:
        """Feedback is off: neither maps nor promises of it hold."""
        self._fitted.clear()
        self._least.clear()

    def set_model(self, weights_sha256: str) -> None:
        """Another model has other scores."""
        self._weights_sha256 = weights_sha256
        for part in (self._priors, self._bundled, self._fitted, self._least):
            part.clear()

    def prior_map(self, task: Task) -> ScoreMap | None:
        """The map that divides by the model's prior."""
        found = self._priors.get(task.definition)
        # A damaged file may have other labels.
        is_of_task = found is not None and isinstance(task.config, ClassifyTask) and found.labels == task.config.labels
        return found if is_of_task else None

    def _start_maps(self, task: Task) -> Iterator[tuple[str, ScoreMap | None]]:
        """All but a fitted one, with their names in `info`; the first that there is holds."""
        yield "configuration", task.score_map if task.has_map_for(self._weights_sha256) else None
        yield "bundle", self._of_bundle(task)
        yield "prior", self.prior_map(task)

    def start_map(self, task: Task) -> ScoreMap | None:
        """The map that feedback starts from."""
        return next((found for _, found in self._start_maps(task) if found is not None), None)

    def _of_bundle(self, task: Task) -> ScoreMap | None:
        entry = self._bundled.get(task.definition)
        if entry is None or not isinstance(task.config, ClassifyTask):
            return None
        try:
            return score_map_for(entry, self._board, task.config.labels)
        except ValueError:  # whoever wrote the file took other labels
            return None

    def map_in_force(self, task: Task) -> ScoreMap | None:
        """None = callers get the model's own scores."""
        return self._fitted.get(task.definition) or self.start_map(task)

    def scored(self, task: Task, event: Finished) -> tuple[Finished, Any]:
        """The answer with the scores that callers get, and the output: None where no label is sure enough."""
        if event.scores is None:
            return event, task.output_of(event)
        if (found := self.map_in_force(task)) is not None:
            event = replace(event, scores=found.apply(event.scores))
        is_unsure = max((event.scores or {}).values()) < self._least.get(task.definition, 0.0)
        return event, None if is_unsure else task.output_of(event)

    def describe(self, task: Task) -> dict[str, str]:
        """For `info`: where the scores that callers get come from."""
        if not isinstance(task.config, ClassifyTask):
            return {}
        sources = chain([("feedback", self._fitted.get(task.definition))], self._start_maps(task))
        return {"scores_from": next((name for name, found in sources if found is not None), "model")}
