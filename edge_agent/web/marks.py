"""What people say about answers: `feedback` sends it to the boards."""

import secrets
from collections import deque
from collections.abc import Iterator, Mapping

from edge_agent.core.strict_json import number_of
from edge_agent.tools.watch.site import Document, Row, object_at, text_at, texts_at
from edge_agent.web.answer import Answer, Mark, MarkState, reading_of, score_of
from edge_agent.web.boards import escaped, labels_of
from edge_agent.web.checks import Checks
from edge_agent.web.names import Names, is_name
from edge_agent.web.problem import ProblemError
from edge_agent.web.tasks import Tasks

UNDO_S = 10.0
MAX_MARKS = 100
# The most marks of everybody in one response.
_MAX_SHOWN = 20
_MAX_CHARS = 64


class Marks:
    def __init__(self, tasks: Tasks, checks: Checks, rows: Mapping[str, Row]) -> None:
        self._tasks, self._checks, self._rows = tasks, checks, rows
        self._marks: deque[Mark] = deque(maxlen=MAX_MARKS)
        self.kept_names = Names()

    def __iter__(self) -> Iterator[Mark]:
        return iter(self._marks)

    @property
    def awaits_results(self) -> bool:
        """Whether a mark was sent, and its board has not answered yet."""
        return any(mark.state is MarkState.SENT for mark in self._marks)

    def newest(self, by: str | None) -> list[Document]:
        """The newest marks of all, and those of the person who asks, which the others' would push out."""
        newest = list(reversed(self._marks))
        own = [mark for mark in newest if mark.by == by][:_MAX_SHOWN]
        return [self.document(mark) for at, mark in enumerate(newest) if at < _MAX_SHOWN or mark in own]

    def names(self) -> Document:
        """The names that were last given to unusual readings, by task."""
        pending = [
            mark
            for mark in reversed(self._marks)
            if mark.state in (MarkState.WAITING, MarkState.SENT, MarkState.UNANSWERED)
            and mark.answer.mark in (mark, mark.before)
            and is_name(mark.said.get("answer"))
        ]
        tasks = {name for (_, name), task in self._tasks.by_name.items() if text_at(task, "kind") == "unusual"}
        return {
            task: escaped(
                self.kept_names.of(task, [mark.said["answer"] for mark in pending if mark.answer.task == task])
            )
            for task in tasks
        }

    def document(self, mark: Mark) -> Document:
        """A mark with what tells a person which reading it is about."""
        answer, document = mark.answer, mark.answer.document()
        task = self._tasks.of(answer)
        return {
            **reading_of(answer, document, task),
            "mark": mark.name,
            "unit": escaped(text_at(task, "unit")),
            "answer": escaped(mark.said.get("answer", mark.said.get("correct"))),
            "is_none": mark.is_none,
            "by": escaped(mark.by),
            "at": mark.at,
            "sends_at": mark.at + UNDO_S,
            "state": mark.state.value,
            "output": None if answer.is_hidden else escaped(mark.output),
            "score": None if answer.is_hidden else mark.score,
            "best": None if answer.is_hidden else escaped(mark.best),
            "is_unproven": not answer.is_hidden and mark.is_unproven,
            "is_right": None if answer.is_hidden else mark.is_right,
            "is_hidden": answer.is_hidden and mark.state is MarkState.KEPT,
            "can_correct": self._can_correct(mark),
            "error": escaped(mark.error),
            "error_code": mark.error_code,
        }

    def _can_correct(self, mark: Mark) -> bool:
        """Whether a person can still change a mark, which for an audit is so only until its output was shown."""
        answer = mark.answer
        is_audit = answer.is_check and text_at(self._tasks.of(answer), "kind") != "unusual"
        return mark.state is MarkState.KEPT and answer.mark is mark and (answer.is_hidden or not is_audit)

    def newest_of(self, answer: Answer) -> Document | None:
        """The newest mark of an answer, even one that its board did not keep."""
        marks = (mark for mark in reversed(self._marks) if mark.answer is answer and mark.state is not MarkState.UNDONE)
        mark = answer.mark or next(marks, None)
        return None if mark is None else self.document(mark)

    def fault(self, answer: Answer, document: Document) -> ProblemError | None:
        """Why an answer cannot be marked, or None."""
        kind = text_at(self._tasks.of(answer), "kind")
        if document.get("status") != "ok" or document.get("id") is None or not answer.device:
            return ProblemError(409, "not_markable", "only an answer with an id can be marked")
        if not self._tasks.takes_feedback(answer):
            return ProblemError(409, "not_markable", "the board takes no feedback for this task")
        row = self._rows.get(answer.device)
        tells_accuracy = row is not None and "accuracy" in row.health and kind != "unusual"
        if row is not None and tells_accuracy and answer.task not in object_at(row.health, "accuracy"):
            return ProblemError(409, "feedback_off", "this board keeps no answers: set `enabled = true` in [feedback]")
        mark = answer.mark
        if mark is not None and mark.state is MarkState.KEPT:
            if not self._can_correct(mark):
                return ProblemError(409, "answer_seen", "the board's answer has been shown, so yours stays")
        elif mark is not None and (answer.is_check or mark.state in (MarkState.WAITING, MarkState.SENT)):
            return ProblemError(409, "already_answered", f"{mark.by or 'somebody'} has already answered this")
        elif answer.is_check and answer.is_closed:
            return ProblemError(409, "already_answered", "somebody else has already answered this")
        return None

    def add(self, answer: Answer, said: Document, by: str | None, wall: float, now: float) -> Mark:
        """Marks an answer. The mark is sent after UNDO_S. Raises ProblemError."""
        document = answer.document()
        before = answer.mark
        if before is not None and answer.is_check and before.by != by:
            raise ProblemError(409, "already_answered", f"{before.by or 'somebody'} has already answered this")
        if fault := self.fault(answer, document):
            raise fault
        task, is_blind = self._tasks.of(answer), self._checks.is_blind(answer)
        # With two labels, the board takes the other one to be right.
        may_be_none = len(labels_of(task) or ()) > 2 and said.get("correct") is False
        if is_blind and "answer" not in said and not may_be_none:
            raise ProblemError(400, "invalid", "answer: required, because the board's own answer is still hidden")
        if len(self._marks) == MAX_MARKS and self._marks[0].state is MarkState.WAITING:
            raise ProblemError(429, "too_many", "too many marks are waiting to be sent", {"Retry-After": "10"})
        mark = Mark(
            name=secrets.token_hex(8),
            answer=answer,
            said=_checked(said, task),
            is_none=is_blind and "answer" not in said,
            by=by,
            at=wall,
            due_at=now + UNDO_S,
            before=before if before is not None and before.state is MarkState.KEPT else None,
        )
        answer.mark = mark
        self._marks.append(mark)
        return mark

    def restore(self, mark: Mark) -> None:
        """Takes a mark that an earlier process sent."""
        self._marks.append(mark)

    def undo(self, name: str, by: str | None) -> Mark:
        """Undoes a mark. Raises ProblemError."""
        mark = self._own_mark(name, by)
        if mark.state is not MarkState.WAITING:
            raise ProblemError(409, "already_sent", "it has already been sent to the board")
        mark.state, mark.answer.mark = MarkState.UNDONE, mark.before
        return mark

    def reveal(self, name: str, by: str | None) -> Mark:
        """Shows what the board had answered, so the mark can no longer be corrected. Raises ProblemError."""
        mark = self._own_mark(name, by)
        if mark.state is not MarkState.KEPT or mark.answer.mark is not mark:
            raise ProblemError(409, "not_kept", "the board has not kept it, or a correction of it is on its way")
        mark.answer.is_hidden = False
        return mark

    def _own_mark(self, name: str, by: str | None) -> Mark:
        mark = next((mark for mark in self._marks if mark.name == name), None)
        if mark is None:
            raise ProblemError(404, "unknown_mark", "this mark is too old, or the page was restarted")
        if mark.by != by:
            raise ProblemError(409, "not_yours", f"only {mark.by or 'who gave no name'} can change this answer")
        return mark

    def end(
        self,
        mark: Mark,
        state: MarkState,
        *,
        data: Document | None = None,
        error: str | None = None,
        code: str | None = None,
    ) -> None:
        """Ends a mark that was sent.

        With `data`, the board has kept it or no longer keeps the answer. Otherwise the answer can be marked again. The
        output of an audit stays hidden until the person who marked it asks for it, and until then can correct the mark.
        """
        answer = mark.answer
        mark.state, mark.error, mark.error_code = state, error, code
        if data is None:
            answer.mark = mark.before if answer.mark is mark else answer.mark
            return
        is_audit = self._checks.is_blind(answer)
        answer.is_closed = True
        if answer.mark is mark.before:
            answer.mark = mark
        answer.is_hidden = is_audit and state is MarkState.KEPT
        if state is MarkState.KEPT and mark.before is not None:
            mark.before.state = MarkState.CORRECTED
        document = answer.document()
        mark.output = document.get("output")
        if mark.output is None:
            scores = object_at(document, "scores")
            mark.best = max(scores, key=lambda label: score_of(document, label) or 0.0, default=None)
            mark.is_unproven = "promise-unproven" in texts_at(document, "degraded")
        mark.score = score_of(document, mark.best if mark.output is None else mark.output)
        is_right = data.get("is_right")
        mark.is_right = is_right if isinstance(is_right, bool) else None


def _checked(said: Document, task: Document) -> Document:
    """What is sent to the board. Raises ProblemError."""
    if ("answer" in said) == ("correct" in said):
        raise ProblemError(400, "invalid", "should have either `answer` or `correct`")
    if "correct" in said:
        if not isinstance(said["correct"], bool):
            raise ProblemError(400, "invalid", "correct: should be true or false")
        return {"correct": said["correct"]}
    answer, labels = said["answer"], labels_of(task)
    if labels is not None:
        # The page shows labels with control characters escaped.
        label = next((label for label in labels if answer in (label, escaped(label))), None)
        if label is None:
            raise ProblemError(400, "invalid", f"answer: should be one of {', '.join(escaped(labels))}")
        return {"answer": label}
    if text_at(task, "kind") == "unusual":
        if not isinstance(answer, str) or not answer.strip() or len(answer) > _MAX_CHARS:
            raise ProblemError(400, "invalid", f"answer: should be 1 to {_MAX_CHARS} characters, such as `usual`")
        return {"answer": answer.strip()}
    if isinstance(answer, str) or number_of(answer) is None:
        raise ProblemError(400, "invalid", "answer: should be a number")
    return {"answer": answer}
