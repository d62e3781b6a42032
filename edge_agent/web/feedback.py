"""Sends marks as feedback to the boards that gave the answers, and receives the results."""

import json
from collections.abc import Iterable

from edge_agent.core.codes import CommandCode
from edge_agent.core.messages import Message, json_publication
from edge_agent.core.strict_json import compact_json
from edge_agent.core.topics import Topics, wildcard_values
from edge_agent.core.wording import cut
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import Document, object_at, text_at
from edge_agent.web.answer import Mark, MarkState, machine_of
from edge_agent.web.journal import Entry
from edge_agent.web.live import SILENT_LEVELS, Live
from edge_agent.web.parts import Part

RESULT_S = 5.0
_MAX_ERROR = 300


class Feedback(Part):
    """Also writes an entry into the journal for each mark that a board has kept."""

    def __init__(self, live: Live) -> None:
        self._live, self._checks, self._marks = live, live.answers.checks, live.answers.marks
        self._results = Topics(live.root, live.site, "+").feedback_result("+")

    @property
    def filters(self) -> Iterable[str]:
        return (self._results,)

    def tick(self, now: float) -> None:
        """Sends marks that can no longer be undone. Without a broker they wait, and can still be undone."""
        for mark in self._marks:
            if mark.state is MarkState.WAITING and now >= mark.due_at and self._live.is_connected:
                self._send(mark, now)
            elif mark.state is MarkState.SENT and now - mark.sent_at > RESULT_S:
                # A late result still counts.
                self._end_without_result(mark)

    def stop(self) -> None:
        """Sends the waiting marks, because nobody can undo them any more."""
        for mark in self._marks:
            if mark.state is MarkState.WAITING:
                self._send(mark, mark.due_at)

    def _send(self, mark: Mark, now: float) -> None:
        answer = mark.answer
        assert answer.device is not None
        assert answer.task is not None
        document = answer.document()
        reply_to = answer.reply_to(document)
        feedback: Document = {
            "id": document["id"],
            **mark.said,
            **({} if reply_to is None else {"reply_to": reply_to}),
            **({} if mark.by is None else {"by": mark.by}),
        }
        topic = Topics(self._live.root, self._live.site, answer.device).feedback(answer.task)
        mark.number = self._live.publish(json_publication(topic, feedback, correlation=mark.name.encode()))
        mark.state, mark.sent_at = MarkState.SENT, now
        if mark.number is None:
            self._marks.end(mark, MarkState.REFUSED, code="unsendable")

    def _end_without_result(self, mark: Mark) -> None:
        row = self._live.rows.get(mark.answer.device or "")
        if not self._live.is_connected:
            why = "broker"
        elif row is not None and row.level in SILENT_LEVELS:
            why = row.level.name.lower()
        else:
            why = "account"
        self._marks.end(mark, MarkState.UNANSWERED, code=f"no_result.{why}")

    def sent(self, number: int, result: PublishResult) -> None:
        """Ends a mark that the broker refuses, which it says at once with MQTT 5."""
        mark = next((mark for mark in self._marks if mark.number == number), None)
        if mark is None or mark.state is not MarkState.SENT or result is PublishResult.CONFIRMED:
            return
        codes = {PublishResult.FORBIDDEN: "forbidden", PublishResult.UNSENDABLE: "unsendable"}
        self._marks.end(mark, MarkState.REFUSED, code=codes.get(result, "refused"))

    def receive(self, message: Message, wall: float) -> None:
        names = wildcard_values(self._results, message.topic)
        if names is None:
            return
        device, task = names
        result = object_or_empty(message.payload)
        is_ok = result.get("status") == "ok"
        mark = self._mark_of(message, device, task, result)
        if mark is None:
            if is_ok:
                self._checks.close(device, task, result.get("id"))
            return
        if is_ok:
            self._marks.end(mark, MarkState.KEPT, data=object_at(result, "data"))
            entry = _entry_of(mark, self._live.answers.tasks.of(mark.answer), wall)
            self._live.journal.add(entry)
            self._marks.kept_names.note(entry)
            return
        if text_at(result, "error.code") == CommandCode.NOT_FOUND:
            # The board no longer waits for feedback, so the output need not stay hidden.
            self._marks.end(mark, MarkState.REFUSED, data={}, code="too_old")
        elif error := text_at(result, "error.message"):
            self._marks.end(mark, MarkState.REFUSED, error=cut(error, _MAX_ERROR))
        else:
            self._marks.end(mark, MarkState.REFUSED, code="no_reason")

    def _mark_of(self, message: Message, device: str, task: str, result: Document) -> Mark | None:
        """The mark that a result belongs to, by its correlation, or with MQTT 3.1.1 the first one with its id."""
        awaited = (
            mark
            for mark in self._marks
            if mark.state in (MarkState.SENT, MarkState.UNANSWERED)
            and (mark.answer.device, mark.answer.task) == (device, task)
        )
        if message.correlation is not None:
            return next((mark for mark in awaited if mark.name.encode() == message.correlation), None)
        request_id = json.dumps(result.get("id"))
        return next((mark for mark in awaited if json.dumps(mark.answer.document().get("id")) == request_id), None)


def _entry_of(mark: Mark, task: Document, wall: float) -> Entry:
    document = mark.answer.document()
    details = {
        "machine": machine_of(document, task),
        "id": document.get("id"),
        "corrects": None if mark.before is None else _words(mark.before),
    }
    text = "; ".join([_words(mark), *(f"{name}: {value}" for name, value in details.items() if value is not None)])
    of = mark.answer
    return Entry(
        at=wall, what="feedback", device=of.device, name=of.task, text=text, by=mark.by, id=str(document.get("id"))
    )


def _words(mark: Mark) -> str:
    if mark.is_none:
        return "none of the labels"
    said = mark.said.get("answer", mark.output)
    text = said if isinstance(said, str) else compact_json(said)
    return f"{'right' if mark.said['correct'] else 'wrong'}: {text}" if "correct" in mark.said else text
