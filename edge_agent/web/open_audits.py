"""What boards say about their open audits: which of those kept here count, and how many are not kept here."""

from collections import Counter
from collections.abc import Iterable, Mapping

from edge_agent.tools.watch.site import Document, Row, number_at, object_at, text_at, time_at
from edge_agent.web.answer import Answer
from edge_agent.web.tasks import Tasks

# A board keeps an audit within this time of its reply.
_SAME_TIME_S = 5.0

_Task = tuple[str, str]


class OpenAudits:
    """A switch brings another model, so that only its audits count, and a rollback brings back those of the first one.

    A board may also have asked the new model the audits of the earlier one. It does not say so, but it then has as many
    open ones as there are of both.
    """

    def __init__(self, tasks: Tasks, rows: Mapping[str, Row]) -> None:
        self._tasks, self._rows = tasks, rows
        # Since when the oldest one of a task waits. Those from before cannot be answered.
        self._since: dict[_Task, float] = {}
        # The tasks for which only audits of the model in force count.
        self._only_own: set[_Task] = set()
        # How many of a task's open audits are not kept here, by the newest two health documents of its board, because a
        # single one may have overtaken a check on its way.
        self._lacking: dict[_Task, tuple[int, int]] = {}
        self._health_at: dict[str, str | None] = {}

    def update(self, kept: Iterable[Answer]) -> None:
        """Takes each health document once, because it says nothing about what came after it."""
        changed = {
            device: health_at
            for device, row in self._rows.items()
            if (health_at := text_at(row.health, "ts")) not in (None, self._health_at.get(device))
        }
        if not changed:
            return
        self._health_at.update(changed)
        tasks = {each: self._figures(*each) for each in self._tasks.by_name if each[0] in changed}
        for each, figures in tasks.items():
            if (since := time_at(figures, "open_since")) is not None and not self._has_student(*each):
                self._since[each] = since
        kept = [answer for answer in kept if not answer.is_closed and not self._is_too_old(answer)]
        kept_of = Counter(_task_of(answer) for answer in kept)
        own_of = Counter(_task_of(answer) for answer in kept if _task_of(answer) in tasks and self._is_own(answer))
        for each, figures in tasks.items():
            count = int(number_at(figures, "open") or 0)
            self._only_own.discard(each)
            # Its count is nearer to only the checks of the model in force than to all that are kept here.
            if "open" in figures and 2 * count < kept_of[each] + own_of[each]:
                self._only_own.add(each)
            lacking = max(0, count - (own_of if each in self._only_own else kept_of)[each])
            last, _ = self._lacking.get(each, (lacking, 0))
            self._lacking[each] = lacking, last

    def _figures(self, device: str, task: str) -> Document:
        return object_at(object_at(self._rows[device].health, "accuracy"), task)

    def _has_student(self, device: str, task: str) -> bool:
        """Whether the figures leave out the audits of the task's student."""
        return task in object_at(self._rows[device].health, "students")

    def _is_too_old(self, answer: Answer) -> bool:
        return answer.asked_at is not None and answer.asked_at < self._since.get(_task_of(answer), 0.0) - _SAME_TIME_S

    def _is_own(self, answer: Answer) -> bool:
        """Whether the model in force gave the answer, or a student, as far as that is known."""
        device, task = _task_of(answer)
        row = self._rows.get(device)
        in_force = None if row is None else text_at(row.info, "models.0.sha256")
        return in_force is None or answer.model in (None, in_force) or self._has_student(device, task)

    def counts(self, answer: Answer) -> bool:
        """Whether its board counts what people answer."""
        return not self._is_too_old(answer) and (_task_of(answer) not in self._only_own or self._is_own(answer))

    def lacking(self, device: str, task: str) -> int:
        """How many open audits of a task are not kept here."""
        return min(self._lacking.get((device, task), (0, 0)))


def _task_of(answer: Answer) -> _Task:
    return answer.device or "", answer.task or ""
