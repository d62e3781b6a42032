"""Which model answers a request, and what the caller gets of its answer."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_agent.core.codes import Code, CommandCode, CommandError, Refusal
from edge_agent.core.config import Config
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.messages import Message
from edge_agent.core.model import Model
from edge_agent.core.pipe import EngineRequest, Failed, Finished, WorkerAnswer
from edge_agent.requests.forecast import cost_class_of
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.score_maps import ScoreMaps, with_map
from edge_agent.requests.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as its caller gets it."""

    event: Finished
    output: Any  # None where the model is not sure enough of any.
    please_check: bool = False  # The caller is asked whether it is right.
    is_unproven: bool = False  # The output is withheld until a promise is proven.


def route_to(request: Request, answerer: str) -> None:
    """Makes this model the one that is asked."""
    request.answerer = answerer
    if request.engine_request is not None:
        student = None if answerer == LARGE else answerer
        if request.engine_request.student != student:  # Most requests are the large model's already.
            request.engine_request = replace(request.engine_request, student=student)
        request.cost_class = cost_class_of(request.engine_request)


# The name and the document of an event on the bus.
AnswererEvent = tuple[str, dict[str, Any]]


class Answerers:
    """The model of the task's kind answers (`has_own_model`, such as `unusual`), otherwise the large one.

    A board that learns from answers uses the subclass `Learning` instead, which overrides what learning changes.
    """

    def __init__(self, score_maps: ScoreMaps, model: Model) -> None:
        self.score_maps = score_maps
        self._model = model
        self._recalibrations = list[AnswererEvent]()

    @property
    def reads_fields(self) -> bool:
        """Whether the large model is a trained one, which itself says what an input lacks."""
        return self._model.reads_fields

    @property
    def is_judged(self) -> bool:
        """Whether it is decided which answers callers get. Until then no new worker answers, and health waits."""
        return True

    def first(self, request: Request, *, is_large_refused: bool) -> str:
        """Which model to ask first.

        If `is_large_refused`, the large model takes no such request now, so choosing it refuses the request.
        Raises Refusal(unknown_task) if the task needs a model of its own and the bundle has none.
        """
        assert request.task is not None
        if not request.task.config.has_own_model:
            return LARGE
        answerer = self._model.answerer_of(request.task.name)
        if answerer is None:
            raise Refusal(Code.UNKNOWN_TASK, f"{self._model.bundle_name} has no model for task {request.task.name}")
        return answerer

    def next(self, request: Request, last: WorkerAnswer, *, is_large_refused: bool) -> str | None:
        """Which model to ask after the answer `last`; None to accept it. `is_large_refused` is as for `first`."""
        return None

    def final_answer(self, request: Request, event: Finished, now: float) -> Answer:
        """The accepted answer as the caller gets it, with its score map applied."""
        assert request.task is not None
        self._count_answer(request, event)
        event = with_map(event, self.score_maps.in_force(request.task))
        return Answer(event, request.task.output_of(event))

    def _count_answer(self, request: Request, event: Finished) -> None:
        """Counts an answer of the large model with its own scores, which decide whether they are corrected."""
        assert request.task is not None
        if self.score_maps.count_answer(request.task, event):
            facts = {"task": request.task.name, "new_map": True, "has_dropped": False, "feedback": 0, "audits": 0}
            self._recalibrations.append(("recalibration", facts))
            log.info("task %s: scores from %s", request.task.name, self.score_maps.source(request.task))

    def set_priors(self, priors: Mapping[str, Mapping[str, float]]) -> None:
        """`priors` has, by the task's definition, the scores that the model gives to inputs without content."""
        self.score_maps.set_priors(priors)

    def trial_requests(self, model: Model) -> Iterable[EngineRequest]:
        """What this model is asked, besides its canaries, before it is in force. It is iterated in another thread."""
        return ()

    def keep_trial(self, model: Model, answers: Sequence[Finished | Failed]) -> None:
        """Takes the answers to these requests; `set_model` follows."""

    def set_model(self, model: Model) -> None:
        """Takes the model that is in force from now on."""
        self._model = model
        self.score_maps.set_model(model)

    def reconfigure(self, config: Config, tasks: Mapping[str, Task]) -> None:
        """Applies a reload."""

    def tick(self, now: float) -> list[AnswererEvent]:
        """Must be called several times a second. Gives the events since the last call."""
        events, self._recalibrations = self._recalibrations, []
        return events

    def describe(self, task: Task) -> dict[str, str]:
        """For `info`."""
        if not isinstance(task.config, ClassifyTask):
            return {}
        return {"scores_from": self.score_maps.source(task), "scores_reason": self.score_maps.reason_for_source(task)}

    def receive_feedback(self, task: str, message: Message, now: float) -> bool:
        """Takes a caller's feedback on an answer. Returns False if this board takes none."""
        return False

    def export(self, task: str, *, after: int, limit: int) -> dict[str, Any]:
        """A page of the kept answers of a task. Raises CommandError."""
        raise CommandError(CommandCode.NOT_ENABLED, "feedback.enabled is false on this board: it keeps no answers")
