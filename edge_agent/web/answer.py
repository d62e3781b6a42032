"""One answer of a board, the mark that a person gives it, and which answers a viewer wants."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edge_agent.core.strict_json import compact_json
from edge_agent.core.topics import wildcard_values
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import Document, number_at, object_at, text_at, texts_at
from edge_agent.web.boards import escaped, labels_of

# Fields of a reading that tell a person which machine it is from.
_MACHINE_FIELDS = ("machine", "asset", "equipment")


class MarkState(StrEnum):
    WAITING = "waiting"  # It can be undone.
    SENT = "sent"
    KEPT = "kept"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    UNDONE = "undone"
    CORRECTED = "corrected"  # A later mark of the same person counts instead.


@dataclass(slots=True, eq=False, kw_only=True)
class Answer:
    """A reply or a bare output, as it came."""

    key: str
    at: float
    topic: str
    payload: bytes
    device: str | None
    task: str | None
    is_reply_topic: bool
    """Whether the board regards this topic as the reply topic. An audit or error topic is not."""
    is_retained: bool
    is_check: bool = False
    """Whether it asks for feedback."""
    asked_at: float | None = None
    """When its board asked for the check; None for other answers, like `model`."""
    model: str | None = None
    """The SHA-256 of the model that gave it."""
    is_closed: bool = False
    """Whether the board has feedback on it already, or no longer keeps it."""
    mark: "Mark | None" = None
    """The newest mark given here, unless it was undone."""
    is_hidden: bool = False
    """Whether the output is still hidden although the board has kept a mark, which can be corrected until then."""

    @property
    def number(self) -> int:
        """Its number among those that came since this process was started."""
        return int(self.key.rsplit("-", 1)[1])

    def document(self) -> Document:
        """The parsed reply; empty for a bare output."""
        document = object_or_empty(self.payload)
        return document if "status" in document else {}

    def reply_to(self, document: Document) -> str | None:
        """The reply topic from the board's point of view."""
        return self.topic if self.is_reply_topic else text_at(document, "reply_to")


@dataclass(slots=True, eq=False, kw_only=True)
class Mark:
    """What a person said about an answer."""

    name: str
    answer: Answer
    said: Document
    """`answer` or `correct`, as it is sent to the board."""
    is_none: bool
    """Whether it says, without knowledge of the output, that no label is right."""
    by: str | None
    at: float
    due_at: float
    """When to send it, in seconds of the monotonic clock, like `sent_at`."""
    before: "Mark | None" = None
    """The kept mark that this one corrects."""
    sent_at: float = 0.0
    number: int | None = None
    """The number of its message, as `Live.publish` gave it."""
    state: MarkState = MarkState.WAITING
    output: Any = None
    score: float | None = None
    """The score of the output, or if there is none, of the best label."""
    best: str | None = None
    """The label of the highest score, if the board gave no answer."""
    is_unproven: bool = False
    """Whether it gave none because its promise is not proven."""
    is_right: bool | None = None
    error: str | None = None
    """Why the board did not keep it, in its words."""
    error_code: str | None = None
    """The same where the page itself knows why, by the name of its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which answers a viewer wants to see."""

    device: str | None = None
    task: str | None = None
    machine: str | None = None
    """Part of a machine's name, in upper or lower case, or of the topic of its reading."""

    def takes(self, answer: Answer) -> bool:
        if self.device not in (None, answer.device) or self.task not in (None, answer.task):
            return False
        return self.machine is None or self._is_from_machine(answer, self.machine.casefold())

    @staticmethod
    def _is_from_machine(answer: Answer, name: str) -> bool:
        # Most answers are told apart without parsing them.
        text = answer.payload.decode("utf-8", "replace").casefold()
        if compact_json(name)[1:-1] not in text and name not in answer.topic.casefold():
            return False
        document = answer.document()
        names = (*_machine_names(document), text_at(document, "topic") or "") if document else (answer.topic,)
        return any(name in each.casefold() for each in names)


def machine_of(document: Document, task: Document) -> str | None:
    """The machine that a reading is from, or else its topic."""
    topic = text_at(document, "topic") or ""
    return next(_machine_names(document), None) or _matched(topic, texts_at(task, "subscribe")) or topic or None


def _machine_names(document: Document) -> Iterator[str]:
    fields = object_at(document, "input")
    named = (str(fields[field]) for field in _MACHINE_FIELDS if fields.get(field) is not None)
    return (name for name in (text_at(document, "machine"), *named) if name)


def _matched(topic: str, topic_filters: Iterable[str]) -> str | None:
    """What a filter's wildcards match in the topic, joined by `/`, as boards name the machine.

    It is None unless the topic contains it, because the search looks there.
    """
    names = ("/".join(wildcard_values(topic_filter, topic) or ()) for topic_filter in topic_filters)
    return next((name for name in names if name and name in topic), None)


def reading_of(answer: Answer, document: Document, task: Document) -> Document:
    """What tells a person which reading an answer is about, and what it may be called."""
    return {
        "key": answer.key,
        "device": answer.device,
        "task": answer.task,
        "kind": text_at(task, "kind"),
        "machine": escaped(machine_of(document, task)),
        "input": escaped(document.get("input")),
        "labels": escaped(labels_of(task)),
    }


def score_of(document: Document, output: Any) -> float | None:
    return number_at({"score": object_at(document, "scores").get(output)}, "score") if isinstance(output, str) else None
