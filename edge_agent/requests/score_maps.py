"""Maps a model's scores of a task's labels to those that callers get: by configuration, bundle or prior."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.model import Model
from edge_agent.core.pipe import Finished
from edge_agent.core.score_map import ScoreMap, score_map_for
from edge_agent.requests.collapse import MIN_ANSWERS, CollapseDetector
from edge_agent.requests.tasks import Task
from edge_agent.store.store import Store


class ScoreMaps:
    """A task's map is the configured one, else the bundle's, else one that divides by the model's prior if it should.

    Priors stay although a reload drops their definition, because running requests may still have it.
    """

    def __init__(self, model: Model, board: str, store: Store | None = None) -> None:
        """`board` is `<site>/<device>`, for which a bundle may hold its own maps. `store` keeps what was detected."""
        self._board, self._store = board, store
        self.set_model(model)

    def set_model(self, model: Model) -> None:
        self._weights_sha256 = model.weights_sha256
        self._bundled: Mapping[str, Any] = model.score_maps
        self._priors: dict[str, ScoreMap] = {}
        self._detectors: dict[str, CollapseDetector] = {}

    def set_priors(self, priors: Mapping[str, Mapping[str, float]]) -> None:
        self._priors |= {definition: ScoreMap.dividing_by(prior) for definition, prior in priors.items()}

    def count_answer(self, task: Task, event: Finished) -> bool:
        """Counts an answer, which has the model's own scores. Returns whether the task's map has changed."""
        config, prior = task.config, self.prior_map(task)
        if not isinstance(config, ClassifyTask) or prior is None or event.scores is None or not config.measures_prior:
            return False
        detector = self._detector(task)
        if not detector.add(event.scores, prior):
            return False
        if self._store is not None:
            self._store.save_task_state(self._key(task), f"collapse/{task.name}", detector.reason or "")
        # Any other map takes precedence over the one that has come or gone.
        return self.source(task) in ("prior", "model") and not config.always_corrects_prior

    def _detector(self, task: Task) -> CollapseDetector:
        if (known := self._detectors.get(task.definition)) is not None:
            return known
        kept = None if self._store is None else self._store.load_task_state(self._key(task))
        detector = self._detectors[task.definition] = CollapseDetector(kept or None)
        return detector

    def _key(self, task: Task) -> str:
        return f"collapse/{task.basis_for(self._weights_sha256)}"

    def prior_map(self, task: Task) -> ScoreMap | None:
        """The map that divides by the model's prior."""
        prior = self._priors.get(task.definition)
        # A damaged file may have other labels.
        is_of_task = prior is not None and isinstance(task.config, ClassifyTask) and prior.labels == task.config.labels
        return prior if is_of_task else None

    def _bundled_map(self, task: Task) -> ScoreMap | None:
        entry = self._bundled.get(task.definition)
        if entry is None or not isinstance(task.config, ClassifyTask):
            return None
        try:
            return score_map_for(entry, self._board, task.config.labels)
        except ValueError:  # Whoever wrote the file took other labels.
            return None

    def _candidates(self, task: Task) -> Iterator[tuple[str, ScoreMap | None]]:
        """The maps with their names in `info`; the first that exists is in force."""
        yield "configuration", task.score_map if task.has_map_for(self._weights_sha256) else None
        yield "bundle", self._bundled_map(task)
        yield "prior", self.prior_map(task) if self._reason_to_correct(task) else None

    def _reason_to_correct(self, task: Task) -> str | None:
        """Why scores are to be divided by the prior, in words; None if they are not."""
        config = task.config
        if isinstance(config, ClassifyTask) and config.always_corrects_prior:
            return 'the task has prior = "corrected"'
        return self._detector(task).reason if config.measures_prior else None

    def in_force(self, task: Task) -> ScoreMap | None:
        """The map in force. Without one, callers get the model's own scores."""
        return next((score_map for _, score_map in self._candidates(task) if score_map is not None), None)

    def source(self, task: Task) -> str:
        """Where the scores that callers get come from, for `info`."""
        return next((name for name, score_map in self._candidates(task) if score_map is not None), "model")

    def reason_for_source(self, task: Task) -> str:
        """Why the scores come from there, for `info`."""
        assert isinstance(task.config, ClassifyTask)
        match self.source(task):
            case "configuration":
                return "the task has a score_map for this model"
            case "bundle":
                return "the bundle has a score map for this task"
            case "prior":
                return self._reason_to_correct(task) or ""
        if not task.config.measures_prior:
            return 'the task has prior = "as-is", min_score or min_accuracy'
        if self.prior_map(task) is None:
            return "the model's preferences are not measured for this task"
        return f"the answers do not collapse to one label, or fewer than {MIN_ANSWERS} are counted"


def with_map(event: Finished, score_map: ScoreMap | None) -> Finished:
    if score_map is None or event.scores is None:
        return event
    return replace(event, scores=score_map.apply(event.scores))
