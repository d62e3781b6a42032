"""Sends marks as feedback to the boards that gave the answers, and receives the results."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.core.codes import CommandCode
from edge_agent.core.messages import Message, json_publication
from edge_agent.core.strict_json import compact_json
from edge_agent.core.topics import Topics, wildcard_values
from edge_agent.core.wording import cut
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import Document, text_at
from edge_agent.web.answers import Mark, MarkState
from edge_agent.web.journal import Entry
from edge_agent.web.live import SILENT_LEVELS, Live
from edge_agent.web.parts import Part

RESULT_S = 5.0
_MAX_ERROR = 300


@dataclass(slots=True, eq=False)
class _Sent:
    mark: Mark
    request_id: str
    number: int | None
    sent_at: float


class Feedback(Part):
    """Also writes an entry into the journal for each mark that a board has kept."""

    def __init__(self, live: Live) -> None:
        self._live, self._answers = live, live.answers
        self._results = Topics(live.root, live.site, "+").feedback_result("+")
        self._sent: dict[str, _Sent] = {}

    @property
    def filters(self) -> Iterable[str]:
        return (self._results,)

    def tick(self, now: float) -> None:
        """Sends marks that can no longer be undone. Without a broker they wait, and can still be undone."""
        if self._live.is_connected:
            for mark in self._answers.marks:
                if mark.state is MarkState.WAITING and now >= mark.due_at:
                    self._send(mark, now)
        for sent in list(self._sent.values()):
            if now - sent.sent_at > RESULT_S and sent.mark.state is MarkState.SENT:
                # A late result still counts.
                self._answers.end_mark(sent.mark, MarkState.UNANSWERED, error=self._no_result_text(sent.mark))

    def stop(self) -> None:
        """Sends the waiting marks, because nobody can undo them any more."""
        for mark in self._answers.marks:
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
        publication = json_publication(topic, feedback, correlation=mark.name.encode())
        number = self._live.publish(publication)
        mark.state = MarkState.SENT
        self._sent[mark.name] = _Sent(mark, json.dumps(document["id"]), number, now)
        if number is None:
            self._end(mark, "the message cannot be sent")
        known = {mark.name for mark in self._answers.marks}
        self._sent = {name: sent for name, sent in self._sent.items() if name in known}

    def _no_result_text(self, mark: Mark) -> str:
        row = self._live.rows.get(mark.answer.device or "")
        if not self._live.is_connected:
            why = "the connection to the broker was lost"
        elif row is not None and row.level in SILENT_LEVELS:
            why = f"the board is {row.level.name.lower()}"
        else:
            why = "may the account `web` write feedback?"
        return f"no result within {RESULT_S:.0f} s: {why}"

    def sent(self, number: int, result: PublishResult) -> None:
        """With MQTT 5, a broker says at once that it refuses a message."""
        refused = next((sent for sent in self._sent.values() if sent.number == number), None)
        if refused is None or result is PublishResult.CONFIRMED:
            return
        text = {
            PublishResult.FORBIDDEN: "the broker refuses it: the account `web` may not write feedback",
            PublishResult.UNSENDABLE: "the broker refuses it: the message is too large or its topic invalid",
        }
        self._end(refused.mark, text.get(result, "the broker refuses it for now"))

    def _end(self, mark: Mark, text: str) -> None:
        if mark.state is MarkState.SENT:
            self._answers.end_mark(mark, MarkState.REFUSED, error=text)

    def receive(self, message: Message, wall: float) -> None:
        names = wildcard_values(self._results, message.topic)
        if names is None:
            return
        device, task = names
        result = object_or_empty(message.payload)
        data = result.get("data") if isinstance(result.get("data"), dict) else {}
        sent = self._sent_of(message, device, task, result)
        if sent is None:
            if result.get("status") == "ok":
                self._answers.close_check(device, task, result.get("id"))
            return
        del self._sent[sent.mark.name]
        if result.get("status") == "ok":
            self._answers.end_mark(sent.mark, MarkState.KEPT, data=data)
            self._live.journal.add(_entry_of(sent.mark, wall))
            return
        text = cut(text_at(result, "error.message") or "the board gives no reason", _MAX_ERROR)
        if text_at(result, "error.code") == CommandCode.NOT_FOUND:
            # The board no longer waits for feedback, so the output need not stay hidden.
            text = f"too old for this board: {text}"
            self._answers.end_mark(sent.mark, MarkState.REFUSED, data={}, error=text)
        else:
            self._answers.end_mark(sent.mark, MarkState.REFUSED, error=text)

    def _sent_of(self, message: Message, device: str, task: str, result: Document) -> _Sent | None:
        """The mark that a result belongs to: by its correlation, or with MQTT 3.1.1 the first one with its id."""
        if message.correlation is not None:
            sent = self._sent.get(message.correlation.decode("ascii", "replace"))
            return sent if sent and (sent.mark.answer.device, sent.mark.answer.task) == (device, task) else None
        request_id = json.dumps(result.get("id"))
        matching = (
            sent
            for sent in self._sent.values()
            if (sent.mark.answer.device, sent.mark.answer.task, sent.request_id) == (device, task, request_id)
        )
        return next(matching, None)


def _entry_of(mark: Mark, wall: float) -> Entry:
    said = mark.said.get("answer", mark.said.get("correct"))
    text = said if isinstance(said, str) else compact_json(said)
    return Entry(at=wall, what="feedback", device=mark.answer.device, name=mark.answer.task, text=text, by=mark.by)
