"""START HERE: replaces `Answerers` of `requests/answerers` on a board that learns from answers.

Students answer first; answers are kept, and some ask for feedback; feedback changes scores, and what is withheld.
Belongs to the agent's thread.
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edge_agent.commands.fields import parse_command, parse_fields, result_publication
from edge_agent.core.clock import moment
from edge_agent.core.codes import CommandError
from edge_agent.core.config import Config
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.messages import Message, Publication
from edge_agent.core.model import Model
from edge_agent.core.pipe import EngineRequest, Failed, Finished, WorkerAnswer
from edge_agent.core.topics import reply_topic_fault
from edge_agent.core.wording import cut
from edge_agent.learning import facts
from edge_agent.learning.answers import AnswerTable
from edge_agent.learning.estimates import Estimates
from edge_agent.learning.feedback import Feedback, Mark
from edge_agent.learning.keeper import Keeper
from edge_agent.learning.learned_maps import LearnedMaps
from edge_agent.learning.students import RequestNotes, StudentChoice, Students
from edge_agent.learning.unusual import UnusualReadings
from edge_agent.requests.answerers import Answer, AnswererEvent, Answerers
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.tasks import Task
from edge_agent.status.alarms import Finding
from edge_agent.store.store import Store

log = logging.getLogger(__name__)

# For the kinds of which nothing is learnt but what people say of their answers.
_KEEPERS: tuple[type[Keeper], ...] = (Estimates, UnusualReadings)


class Learning(Answerers):
    """Also a part of the status: health, reasons and alarms of feedback and students."""

    def __init__(
        self,
        score_maps: ScoreMaps,
        config: Config,
        tasks: Mapping[str, Task],
        store: Store,
        model: Model,
        publish: Callable[[Publication], object],
    ) -> None:
        """`publish` sends a result, also to a broker that is away now. The store has started."""
        super().__init__(score_maps, model)
        self._table = table = AnswerTable(store)
        self._config = config
        self._tasks = tasks
        self._keepers = {
            keeper.kind: keeper(config.feedback, tasks, table, model.weights_sha256) for keeper in _KEEPERS
        }
        self._publish = publish
        self._random = random.SystemRandom()
        self._maps = LearnedMaps(score_maps)
        self._students = Students(config.feedback, tasks, table, model)
        self._feedback = Feedback(config.feedback, tasks, table, self._maps, self._students, model)
        self._note_in_force()

    def _note_in_force(self) -> None:
        """Notes what is in force, so that `edge-agent audits` leaves out what no longer counts."""
        # The placeholder for a model that does not open has no weights.
        if self._config.feedback.enabled and self._model.weights_sha256:
            for name, task in self._tasks.items():
                if task.config.takes_feedback:
                    self._table.save_in_force(name, task.basis_for(self._model.weights_sha256))

    @property
    def is_judged(self) -> bool:
        return self._students.is_judged and self._feedback.is_judged

    def first(self, request: Request, *, is_large_refused: bool) -> str:
        """The task's student, if it has one. While the large model refuses requests, only a proven student is asked."""
        assert request.task is not None
        if request.notes is None:
            envelope = request.envelope if self._config.feedback.keep_inputs else None
            request.notes = RequestNotes(None if envelope is None else envelope.input)
        notes: RequestNotes = request.notes
        notes.choice, notes.student_answer = self._students.choose(request.task), None
        if notes.choice is None or (is_large_refused and not notes.choice.is_proven):
            return super().first(request, is_large_refused=is_large_refused)
        return notes.choice.name

    def next(self, request: Request, last: WorkerAnswer, *, is_large_refused: bool) -> str | None:
        # A request may be older than a reload that switched learning on.
        notes: RequestNotes | None = request.notes
        if request.answerer == LARGE or notes is None or notes.choice is None:
            return None
        if _is_sure(request, notes.choice, last, is_audited=notes.choice.is_audit and not is_large_refused):
            return None
        if isinstance(last, Finished) and not last.marks:
            notes.student_answer = last
        return LARGE

    def final_answer(self, request: Request, event: Finished, now: float) -> Answer:
        assert request.task is not None
        # A request may be older than a reload that switched learning on.
        notes: RequestNotes = request.notes or RequestNotes(None)
        if request.answerer == LARGE:
            self._count_answer(request, event)
            scored, output = self._maps.scored(request.task, event)
        else:
            # A student's scores are its own.
            scored, output = event, request.task.output_of(event)
        config = request.task.config
        if (keeper := self._keepers.get(type(config))) is not None:
            may_ask = keeper.keep(request, event, output, moment(now).wall_s, notes.input)
            return Answer(scored, output, please_check=may_ask)
        if not isinstance(config, ClassifyTask):
            return Answer(scored, output)
        may_audit = self._config.feedback.enabled and request.may_be_audited
        is_audit = may_audit and self._random.random() < config.audit_rate
        # Both get the same time, because a caller's feedback is joined to the newest answers.
        wall_s = moment(now).wall_s
        may_ask_about_student = self._students.keep(request, event, output, wall_s, notes, is_audit=is_audit)
        may_ask_about_model = self._feedback.keep(request, event, output, wall_s, notes.input, is_audit=is_audit)
        please_check = is_audit and (may_ask_about_student or may_ask_about_model)
        is_unproven = request.answerer == LARGE and self._maps.withholds_all(request.task)
        return Answer(scored, output, please_check=please_check, is_unproven=is_unproven)

    def set_priors(self, priors: Mapping[str, Mapping[str, float]]) -> None:
        super().set_priors(priors)
        self._feedback.on_priors()

    def trial_requests(self, model: Model) -> Iterable[EngineRequest]:
        return self._feedback.trial_requests(model)

    def keep_trial(self, model: Model, answers: Sequence[Finished | Failed]) -> None:
        self._feedback.keep_trial(model, answers)

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        self._maps.clear()
        self._students.set_model(model)
        self._feedback.set_model(model)
        for keeper in self._keepers.values():
            keeper.set_model(model.weights_sha256)
        self._note_in_force()

    def reconfigure(self, config: Config, tasks: Mapping[str, Task]) -> None:
        self._config, self._tasks = config, tasks
        for keeper in self._keepers.values():
            keeper.reconfigure(config.feedback, tasks)
        self._students.reconfigure(config.feedback, tasks)
        self._feedback.reconfigure(config.feedback, tasks)
        self._note_in_force()

    def tick(self, now: float) -> list[AnswererEvent]:
        corrected = super().tick(now)
        if corrected:
            self._feedback.on_priors()
        return [*corrected, *self._students.tick(now), *self._feedback.tick(now)]

    def describe(self, task: Task) -> dict[str, str]:
        if self._maps.has_fitted(task):
            return {"scores_from": "feedback", "scores_reason": "a map fitted to feedback is right more often"}
        return super().describe(task)

    def receive_feedback(self, task: str, message: Message, now: float) -> bool:
        fields: dict[str, Any] = {}
        data, error = None, None
        try:
            fields = parse_command(message.payload)
            mark, known = parse_fields(Mark, fields), self._tasks.get(task)
            keeper = None if known is None else self._keepers.get(type(known.config))
            if known is not None and keeper is not None and self._config.feedback.enabled:
                data = keeper.mark(known, mark)
            else:
                data = self._feedback.mark(task, mark, now)
            data["by"] = mark.by
        except CommandError as refused:
            error = refused.code, refused.message
            log.info("feedback refused task=%r code=%s", cut(task), refused.code)
        topic = message.response_topic
        if topic is None or reply_topic_fault(topic, self._config.reply_topics):
            topic = self._config.topics.feedback_result(task)
        self._publish(result_publication(topic, message.correlation, fields.get("id"), data, error))
        return True

    def export(self, task: str, *, after: int, limit: int) -> dict[str, Any]:
        if not self._config.feedback.enabled:
            return super().export(task, after=after, limit=limit)
        known = self._tasks.get(task)
        keeper = None if known is None else self._keepers.get(type(known.config))
        page = keeper.export(known, after=after, limit=limit) if keeper is not None and known is not None else None
        return self._feedback.export(task, after=after, limit=limit) if page is None else page

    def as_health(self, now: float) -> dict[str, Any]:
        kept = {task: figures for keeper in self._keepers.values() for task, figures in keeper.facts().items()}
        return facts.as_health(self._feedback.facts(), self._feedback.audit_counts(), self._students.facts(), kept)

    def reasons(self) -> Mapping[str, bool]:
        accuracy = self._feedback.facts()
        promised = [name for name, task in accuracy.items() if task.promised is not None]
        return {
            "promise-unproven": any(task.is_unproven for task in accuracy.values()),
            "audits-open": any(map(self._feedback.needs_answers, promised)) or self._students.promises_need_answers(),
        }

    def findings(self, now: float) -> Mapping[str, Finding | None]:
        of_other_kinds = {task: cause for keeper in self._keepers.values() for task, cause in keeper.findings().items()}
        return facts.findings(self._feedback.facts(), of_other_kinds)


def _is_sure(request: Request, choice: StudentChoice, answer: WorkerAnswer, *, is_audited: bool) -> bool:
    """Whether a student's answer is final. The large model also answers a request that is audited."""
    if is_audited or not isinstance(answer, Finished) or answer.scores is None:
        return False
    assert request.task is not None
    # Below `min_score`, and for an input unlike its training, a student has no output.
    return request.task.output_of(answer) is not None and max(answer.scores.values()) >= choice.min_score
