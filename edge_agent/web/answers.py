"""What boards answer, which answers wait for a person's check, and the marks that people give.

A check is an answer that asks for feedback: an audit, or an unusual reading. A mark is what a person says about an
answer; `feedback` sends it to the board. Answers are kept as bytes and parsed only when a viewer gets them, because
several hundred may come in a second.
"""

import json
import re
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from typing import Any

from edge_agent.core.clock import parse_timestamp
from edge_agent.core.kinds.registry import KINDS
from edge_agent.core.messages import Message
from edge_agent.core.strict_json import NotJsonError, compact_json, number_of, parse_json
from edge_agent.core.topics import NAME_PATTERN, Topics, matches, pool_topics, publish_filter, wildcard_values
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import BoardLevel, Document, Row, number_at, object_at, text_at, texts_at, time_at
from edge_agent.web.boards import escaped, labels_of, tasks_of
from edge_agent.web.parts import Part
from edge_agent.web.problem import ProblemError
from edge_agent.web.promise import promises

UNDO_S = 10.0
MAX_ANSWERS, MAX_BYTES = 2000, 16_000_000
MAX_OPEN_CHECKS, MAX_OPEN_CHECK_BYTES = 1000, 16_000_000
# Larger answers are not shown.
MAX_ANSWER_BYTES = 128_000
MAX_MARKS = 100
# In one response.
MAX_ROWS, MAX_CHECKS, MAX_NEEDS = 20, 500, 200
_MAX_WORDS = 64
# A task that sends bare outputs sends a check within this time of its output.
_SAME_TIME_S = 5.0
_MAX_TOPICS = 5000
# Only then does it mean something that no answer has arrived.
_FIRST_ANSWER_S = 10.0
_MAX_EXAMPLES, _MAX_EXAMPLE_BYTES = 2000, 8_000
_HEAD_BYTES = 1024
_DEVICE, _TASK = (re.compile(rb'"%s":\s*"([A-Za-z0-9_-]{1,64})"' % name) for name in (b"device", b"task"))
_NAME = re.compile(NAME_PATTERN)
# Fields of a reading that tell a person which machine it is from; `widgets.js` knows the same.
_MACHINE_FIELDS = ("machine", "asset", "equipment")
_KINDS_WITH_FEEDBACK = {name for name, kind in KINDS.items() if kind.takes_feedback}


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
    by: str | None
    at: float
    due_at: float
    """When to send it, in seconds of the monotonic clock, like `sent_at`."""
    before: "Mark | None" = None
    """The kept mark that this one corrects."""
    sent_at: float = 0.0
    number: int | None = None
    """Of its message, as `Live.publish` gave it."""
    state: MarkState = MarkState.WAITING
    output: Any = None
    score: float | None = None
    """Of the output, or without one of the best label."""
    best: str | None = None
    """The label of the highest score, if the board gave no answer."""
    is_unproven: bool = False
    """Whether it gave none because its promise is not proven."""
    is_right: bool | None = None
    error: str | None = None
    error_code: str | None = None
    """Names an error that the page itself found, for readers of other languages."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a topic reveals about the answers on it."""

    device: str | None
    task: str | None
    is_reply_topic: bool


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
        fields = object_at(document, "input")
        names = (
            text_at(document, "machine"),
            text_at(document, "topic") if document else answer.topic,
            *(str(fields[field]) for field in _MACHINE_FIELDS if field in fields),
        )
        return any(name in each.casefold() for each in names if each is not None)


_Identity = tuple[str, str, str, str | None]


class Answers(Part):
    """An open audit is blind: nothing here reveals its output or scores."""

    def __init__(self, root: str, site: str, rows: Mapping[str, Row]) -> None:
        self.marks: deque[Mark] = deque(maxlen=MAX_MARKS)
        self._rows = rows
        self._every, self._pools = Topics(root, site, "+"), pool_topics(root, site, "+")
        self._shared_replies = self._every.default_reply_topics[-1]
        self._tasks: dict[tuple[str, str], Document] = {}
        # The tasks that publish to topics of their own, by the filter of these topics.
        self._publish: dict[str, set[tuple[str, str]]] = {}
        self._origins: dict[str, _Origin | None] = {}
        self._process = secrets.token_hex(4)
        self._count = 0
        self._ring: deque[Answer] = deque()
        self._ring_bytes = 0
        self._checks: dict[_Identity, Answer] = {}
        self._check_bytes = 0
        self._last_inputs: dict[tuple[str, str], bytes] = {}
        self._without_input: set[tuple[str, str]] = set()
        self._open: Counter[tuple[str, str]] = Counter()
        # Since when the oldest open audit of a task waits, as its board said last.
        self._open_since: dict[tuple[str, str], str | None] = {}
        self._heard_at: float | None = None
        # Since when the page hears boards, and for how long, by the monotonic clock.
        self._boards_at: float | None = None
        self._boards_s = 0.0

    @property
    def filters(self) -> Iterable[str]:
        audits_and_errors = (self._every.audit("+"), self._every.error("+"), self._pools.error("+"))
        return (*self._every.default_reply_topics, self._pools.all_responses, *audits_and_errors, *self._publish)

    def tick(self, now: float) -> None:
        """Takes from `info` which tasks there are and where they publish."""
        tasks: dict[tuple[str, str], Document] = {}
        publish: dict[str, set[tuple[str, str]]] = {}
        for device, row in self._rows.items():
            for name, task in tasks_of(row):
                if not _NAME.fullmatch(name):
                    continue
                tasks[device, name] = task
                if (pattern := text_at(task, "publish")) and (topic_filter := publish_filter(pattern)):
                    publish.setdefault(topic_filter, set()).add((device, name))
        self._tasks = tasks
        if self._boards_at is None and any(row.level is not BoardLevel.UNKNOWN for row in self._rows.values()):
            self._boards_at = now
        self._boards_s = 0.0 if self._boards_at is None else now - self._boards_at
        self._without_input &= tasks.keys()
        if publish != self._publish:
            self._publish = publish
            self._origins.clear()
        self._close_forgotten()
        self._open = Counter((answer.device or "", answer.task or "") for answer, _ in self._open_checks())

    def _close_forgotten(self) -> None:
        """Closes checks that their boards no longer keep, because older ones than `open_since` cannot be answered."""
        before = self._open_since
        self._open_since = {each: self._waits_since(*each) for each in self._tasks}
        moved = {
            each: parse_timestamp(since)
            for each, since in self._open_since.items()
            if since is not None and since != before.get(each)
        }
        for answer in self._checks.values() if moved else ():
            since = moved.get((answer.device or "", answer.task or ""))
            if since is None or answer.is_closed or answer.mark is not None:
                continue
            asked_at = time_at(answer.document(), "ts")
            answer.is_closed = asked_at is not None and asked_at < since - _SAME_TIME_S

    def _waits_since(self, device: str, task: str) -> str | None:
        """None also for a task with a student, because its figures leave out the student's audits."""
        row = self._rows.get(device)
        if row is None or task in object_at(row.health, "students"):
            return None
        return text_at(object_at(object_at(row.health, "accuracy"), task), "open_since")

    def receive(self, message: Message, wall: float) -> None:
        origin = self._origin(message.topic)
        payload = message.payload
        if origin is None or not 0 < len(payload) <= MAX_ANSWER_BYTES:
            return
        head = payload[:_HEAD_BYTES]
        if b'"partial"' in head and object_or_empty(payload).get("status") == "partial":
            return
        self._heard_at = wall
        self._count += 1
        answer = Answer(
            key=f"{self._process}-{self._count}",
            at=wall,
            topic=message.topic,
            payload=payload,
            device=origin.device or _named(_DEVICE, head),
            task=origin.task or _named(_TASK, head),
            is_reply_topic=origin.is_reply_topic,
            is_retained=message.is_retained,
        )
        if b'"please_check"' in payload:
            if not self._keep_check_unless_repeated(answer):
                return
        elif b'"input"' in payload:
            self._note_input(answer)
        self._ring.append(answer)
        self._ring_bytes += len(answer.payload)
        while len(self._ring) > MAX_ANSWERS or self._ring_bytes > MAX_BYTES:
            self._ring_bytes -= len(self._ring.popleft().payload)

    @property
    def kept_checks(self) -> Iterable[Answer]:
        """The checks that a later process needs, including closed ones, because a board may send a check again."""
        return self._checks.values()

    def restore_checks(self, checks: Iterable[Answer]) -> None:
        for check in checks:
            self._keep_check_unless_repeated(check)

    @property
    def awaits_results(self) -> bool:
        """Whether a mark was sent, and its board has not answered yet."""
        return any(mark.state is MarkState.SENT for mark in self.marks)

    def _origin(self, topic: str) -> _Origin | None:
        if topic not in self._origins:
            if len(self._origins) >= _MAX_TOPICS:
                self._origins.clear()
            self._origins[topic] = self._find_origin(topic)
        return self._origins[topic]

    def _find_origin(self, topic: str) -> _Origin | None:
        every, pools = self._every, self._pools
        for topics, pattern, is_reply_topic in (
            (every, every.all_responses, True),
            (every, every.error("+"), False),
            (every, every.audit("+"), False),
            (pools, pools.all_responses, True),
            (pools, pools.error("+"), False),
        ):
            if values := wildcard_values(pattern, topic):
                device, task = (value if _NAME.fullmatch(value) else None for value in values[:2])
                return _Origin(device if topics is every else None, task, is_reply_topic)
        owners = {owner for pattern, owners in self._publish.items() if matches(pattern, topic) for owner in owners}
        if not owners and not matches(self._shared_replies, topic):
            return None
        # Several boards may publish there.
        devices, tasks = ({owner[place] for owner in owners} for place in (0, 1))
        return _Origin(_only(devices), _only(tasks), is_reply_topic=True)

    def _keep_check_unless_repeated(self, answer: Answer) -> bool:
        """Keeps an answer if it asks for feedback. Returns False for one that came before."""
        document = answer.document()
        if document.get("please_check") is not True or not answer.device or not answer.task:
            return True
        answer.is_check = True
        identity = (answer.device, answer.task, json.dumps(document.get("id")), answer.reply_to(document))
        before = self._checks.get(identity)
        if before is not None and (document.get("repeat") is True or before.payload == answer.payload):
            return False
        if before is not None:
            self._drop_check(identity)
        if "input" in document:
            self._note_input(answer)
        elif not answer.is_retained:
            self._without_input.add((answer.device, answer.task))
        self._checks[identity] = answer
        self._check_bytes += len(answer.payload)
        self._bound_checks(answer.device)
        return True

    def _bound_checks(self, device: str) -> None:
        """One board may take a quarter of the places, so that it cannot push out the checks of the others."""
        own = {each: len(kept.payload) for each, kept in self._checks.items() if each[0] == device}
        while len(own) > MAX_OPEN_CHECKS // 4 or sum(own.values()) > MAX_OPEN_CHECK_BYTES // 4:
            oldest = next(iter(own))
            del own[oldest]
            self._drop_check(oldest)
        while len(self._checks) > MAX_OPEN_CHECKS or self._check_bytes > MAX_OPEN_CHECK_BYTES:
            self._drop_check(next(iter(self._checks)))

    def _drop_check(self, identity: _Identity) -> None:
        self._check_bytes -= len(self._checks.pop(identity).payload)

    def _note_input(self, answer: Answer) -> None:
        names = wildcard_values(self._pools.all_responses, answer.topic)
        target = f"pool/{names[0]}" if names else answer.device
        is_known = target in self._rows or names is not None
        if target and answer.task and is_known and len(answer.payload) <= _MAX_EXAMPLE_BYTES:
            self._last_inputs[target, answer.task] = answer.payload
            if len(self._last_inputs) > _MAX_EXAMPLES:
                self._last_inputs.pop(next(iter(self._last_inputs)))

    @property
    def tasks(self) -> Mapping[tuple[str, str], Document]:
        """What `info` says about each task, by board and task."""
        return self._tasks

    def last_input(self, target: str, task: str) -> Any:
        """The latest input in an answer of a board or of `pool/NAME`; None if there was none."""
        payload = self._last_inputs.get((target, task))
        return None if payload is None else escaped(object_or_empty(payload).get("input"))

    def task_of(self, answer: Answer) -> Document:
        """What `info` says about the answer's task; empty while it is unknown."""
        return self._tasks.get((answer.device or "", answer.task or ""), {})

    def is_blind(self, answer: Answer) -> bool:
        """Whether the output must stay hidden, because a person may still check it. So are those of unknown tasks."""
        is_open = answer.is_check and (answer.is_hidden or not answer.is_closed)
        return is_open and text_at(self.task_of(answer), "kind") != "unusual"

    def _open_checks(self, wanted: Wanted = Wanted()) -> Iterator[tuple[Answer, Document]]:
        """The checks that a person can answer here, oldest first, with what `info` says about their tasks."""
        for answer in self._checks.values():
            if answer.is_closed or answer.is_retained or answer.mark is not None:
                continue
            if not wanted.takes(answer):
                continue
            if text_at(self.task_of(answer), "kind") in _KINDS_WITH_FEEDBACK and b'"input"' in answer.payload:
                yield answer, self.task_of(answer)

    def open_checks(self, device: str, task: str | None = None) -> int:
        """How many checks of a board, or of one of its tasks, people could answer at the last tick."""
        return sum(count for (each, name), count in self._open.items() if each == device and task in (None, name))

    def checks(self, wanted: Wanted, limit: int, by: str | None = None) -> Document:
        """The answer to `GET /api/v1/checks`; `by` is who asks."""
        offered = list(self._open_checks(wanted))
        checks = [self._check_json(*each) for each in offered[: min(limit, MAX_CHECKS)]]
        return {
            "open": len(offered),
            "checks": checks,
            "marks": [self.mark_document(mark) for mark in self._newest_marks(by)],
            "needs": self._needs(wanted.device, wanted.task),
            **self._reason(wanted, has_checks=bool(checks)),
        }

    def _check_json(self, answer: Answer, task: Document) -> Document:
        document = answer.document()
        output = document.get("output")
        unusual = output if text_at(task, "kind") == "unusual" and isinstance(output, dict) else None
        return {
            "key": answer.key,
            "device": answer.device,
            "task": answer.task,
            "kind": text_at(task, "kind"),
            "at": answer.at,
            "id": escaped(document.get("id")),
            "machine": escaped(text_at(document, "machine")),
            "topic": escaped(text_at(document, "topic")),
            "input": escaped(document.get("input")),
            "labels": escaped(labels_of(task)),
            "unit": escaped(text_at(task, "unit")),
            "unusual": unusual and escaped({name: unusual.get(name) for name in ("rarity", "because")}),
        }

    def _newest_marks(self, by: str | None) -> list[Mark]:
        """The newest of everybody, and the newest of the person who asks, which those of others would push out."""
        newest = list(reversed(self.marks))
        own = [mark for mark in newest if mark.by == by][:MAX_ROWS]
        return [mark for at, mark in enumerate(newest) if at < MAX_ROWS or mark in own]

    def mark_document(self, mark: Mark) -> Document:
        """A mark with what tells a person which reading it is about."""
        answer, document = mark.answer, mark.answer.document()
        task = self.task_of(answer)
        return {
            **_reading(answer, document, task),
            "mark": mark.name,
            "unit": escaped(text_at(task, "unit")),
            "answer": escaped(mark.said.get("answer", mark.said.get("correct"))),
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
        """Whether a person can still change a mark: of an audit only until its output was shown."""
        answer = mark.answer
        is_audit = answer.is_check and text_at(self.task_of(answer), "kind") != "unusual"
        return mark.state is MarkState.KEPT and answer.mark is mark and (answer.is_hidden or not is_audit)

    def _needs(self, device: str | None, task: str | None) -> list[Document]:
        # Stops at what is shown: each takes a while, and a site may have thousands of tasks.
        needs = (
            {"device": each_device, "task": each_task, "open": self._open[each_device, each_task], **promise}
            for each_device, each_task in self._tasks
            if device in (None, each_device) and task in (None, each_task)
            for promise in self.promises(each_device, each_task)
            if promise["words_key"] != "not_asked" or promise["min_accuracy"] is not None
        )
        return list(islice(needs, MAX_NEEDS))

    def promises(self, device: str, task: str) -> list[Document]:
        """What each promise of a task still needs."""
        row = self._rows.get(device)
        known = self._tasks.get((device, task))
        if row is None or known is None:
            return []
        accuracy = object_at(object_at(row.health, "accuracy"), task)
        return promises(known, accuracy, self._open[device, task])

    def unproven(self, row: Row) -> list[Document]:
        """How far the promises of a board are that are not proven."""
        return [
            {"task": escaped(name), "answered": promise["answered"], "more": promise["more"]}
            for name, _ in tasks_of(row)
            for promise in self.promises(row.device, name)
            if promise["min_accuracy"] is not None and promise["more"] != 0
        ]

    def _count_unheard(self, wanted: Wanted) -> int:
        """How many kept checks wait until their boards have named their tasks, such as after a restart of the page."""
        unheard = {device for device, row in self._rows.items() if not row.info}
        return sum(
            answer.device in unheard and not answer.is_closed and not answer.is_retained and wanted.takes(answer)
            for answer in self._checks.values()
        )

    def _reason(self, wanted: Wanted, *, has_checks: bool) -> Document:
        """Why there is nothing to check: a text, and a code for readers of other languages."""
        if has_checks:
            return {"reason": None, "reason_code": None}
        if unheard := self._count_unheard(wanted):
            text = "kept checks can be answered once their boards are heard again"
            return {"reason": text, "reason_code": "unheard", "unheard": unheard}
        if not self._tasks:
            return {"reason": "no board has named its tasks yet", "reason_code": "no_tasks"}
        if not any(
            number_at(task, "audit_rate") or text_at(task, "kind") == "unusual" for task in self._tasks.values()
        ):
            text = "no task asks for feedback: set `audit_rate`, and `enabled = true` in [feedback]"
            return {"reason": text, "reason_code": "no_audits"}
        if self._without_input:
            tasks = ", ".join(sorted({name for _, name in self._without_input})[:5])
            text = f'audits come without their input, so nobody can check them: set `echo_input = "audits"` for {tasks}'
            return {"reason": text, "reason_code": "without_input", "reason_tasks": tasks}
        return self._silence()

    def _silence(self) -> Document:
        """What may be wrong if no answer has arrived at all, though boards were heard a while ago."""
        if self._heard_at is not None or self._boards_s < _FIRST_ANSWER_S:
            return {"reason": None, "reason_code": None}
        text = "no answer has arrived since this page was started; may the account `web` read the topics of answers?"
        return {"reason": text, "reason_code": "silence"}

    def rows(self, wanted: Wanted, before: int | None = None) -> Document:
        """The answer to `GET /api/v1/answers`: the newest first. `cursor` counts all that ever came.

        Args:
            before: Only answers that came before the one with this number.
        """
        newest = (answer for answer in reversed(self._ring) if before is None or answer.number < before)
        found = (answer for answer in newest if wanted.takes(answer))
        shown = list(islice(found, MAX_ROWS))
        has_older = next(found, None) is not None
        return {
            "cursor": self._count,
            "rows": [self._row(answer) for answer in shown],
            "older": shown[-1].number if has_older else None,
            "without_input": self._count_without_input(wanted),
            **self._silence(),
        }

    def _count_without_input(self, wanted: Wanted) -> int:
        """How many replies do not contain their reading, so nobody can mark them or tell their machine."""
        of_every_machine = replace(wanted, machine=None)
        return sum(
            b'"input"' not in answer.payload
            and b'"status"' in answer.payload
            and of_every_machine.takes(answer)
            and text_at(self.task_of(answer), "kind") in _KINDS_WITH_FEEDBACK
            for answer in self._ring
        )

    def _row(self, answer: Answer) -> Document:
        document, task = answer.document(), self.task_of(answer)
        is_blind = self.is_blind(answer)
        output = document.get("output") if document else _bare_output(answer.payload)
        is_hidden = is_blind or (not document and self._may_reveal_check(answer))
        degraded = document.get("degraded")
        error = object_at(document, "error")
        return {
            **_reading(answer, document, task),
            "at": answer.at,
            "id": escaped(document.get("id")),
            "status": escaped(text_at(document, "status") or "ok"),
            "output": None if is_hidden else escaped(output),
            "score": None if is_hidden else _score(document, output),
            "degraded": escaped(degraded[:MAX_ROWS]) if isinstance(degraded, list) and not is_hidden else [],
            "error": escaped({name: text_at(error, name) for name in ("code", "message")}) if error else None,
            "is_open_audit": is_blind,
            "mark": self._newest_mark_of(answer),
            "can_mark": not is_hidden and self._mark_fault(answer, document) is None,
        }

    def _newest_mark_of(self, answer: Answer) -> Document | None:
        """Also one that its board did not keep."""
        marks = (mark for mark in reversed(self.marks) if mark.answer is answer and mark.state is not MarkState.UNDONE)
        mark = answer.mark or next(marks, None)
        return None if mark is None else self.mark_document(mark)

    def _may_reveal_check(self, bare: Answer) -> bool:
        """Whether a bare output may be the hidden one of an open audit."""
        for answer in reversed(self._checks.values()):
            # A retained output comes again with each connection.
            if answer.at < bare.at - _SAME_TIME_S and not bare.is_retained:
                return False
            is_same = bare.device in (None, answer.device) and bare.task in (None, answer.task)
            if is_same and answer.at <= bare.at + _SAME_TIME_S and self.is_blind(answer):
                return True
        return False

    def _mark_fault(self, answer: Answer, document: Document) -> ProblemError | None:
        """Why an answer cannot be marked, or None."""
        kind = text_at(self.task_of(answer), "kind")
        if document.get("status") != "ok" or document.get("id") is None or not answer.device:
            return ProblemError(409, "not_markable", "only an answer with an id can be marked")
        if kind not in _KINDS_WITH_FEEDBACK:
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

    def add_mark(self, key: str, said: Document, by: str | None, wall: float, now: float) -> Mark:
        """Marks an answer. The mark is sent after UNDO_S. Raises ProblemError."""
        kept = chain(self._checks.values(), self._ring)
        answer = next((answer for answer in kept if answer.key == key), None)
        if answer is None:
            raise ProblemError(404, "unknown_answer", "this answer is too old, or the page was restarted")
        document = answer.document()
        before = answer.mark
        if before is not None and answer.is_check and before.by != by:
            raise ProblemError(409, "already_answered", f"{before.by or 'somebody'} has already answered this")
        if fault := self._mark_fault(answer, document):
            raise fault
        if self.is_blind(answer) and "answer" not in said:
            raise ProblemError(400, "invalid", "answer: required, because the board's own answer is still hidden")
        if len(self.marks) == MAX_MARKS and self.marks[0].state is MarkState.WAITING:
            raise ProblemError(429, "too_many", "too many marks are waiting to be sent", {"Retry-After": "10"})
        mark = Mark(
            name=secrets.token_hex(8),
            answer=answer,
            said=_checked(said, self.task_of(answer)),
            by=by,
            at=wall,
            due_at=now + UNDO_S,
            before=before if before is not None and before.state is MarkState.KEPT else None,
        )
        answer.mark = mark
        self.marks.append(mark)
        return mark

    def undo(self, name: str, by: str | None) -> Mark:
        """Raises ProblemError."""
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
        mark = next((mark for mark in self.marks if mark.name == name), None)
        if mark is None:
            raise ProblemError(404, "unknown_mark", "this mark is too old, or the page was restarted")
        if mark.by != by:
            raise ProblemError(409, "not_yours", f"only {mark.by or 'who gave no name'} can change this answer")
        return mark

    def end_mark(
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
        is_audit = self.is_blind(answer)
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
            mark.best = max(scores, key=lambda label: _score(document, label) or 0.0, default=None)
            mark.is_unproven = "promise-unproven" in texts_at(document, "degraded")
        mark.score = _score(document, mark.best if mark.output is None else mark.output)
        is_right = data.get("is_right")
        mark.is_right = is_right if isinstance(is_right, bool) else None

    def close_check(self, device: str, task: str, request_id: Any) -> None:
        """Somebody else has given feedback. If several checks have this id, it is unknown which is meant."""
        known = (device, task, json.dumps(request_id))
        meant = [answer for identity, answer in self._checks.items() if identity[:3] == known]
        if len(meant) == 1 and meant[0].mark is None:
            meant[0].is_closed = True


def _reading(answer: Answer, document: Document, task: Document) -> Document:
    """What tells a person which reading an answer is about, and what it may be called."""
    return {
        "key": answer.key,
        "device": answer.device,
        "task": answer.task,
        "kind": text_at(task, "kind"),
        "machine": escaped(text_at(document, "machine")),
        "topic": escaped(text_at(document, "topic")),
        "input": escaped(document.get("input")),
        "labels": escaped(labels_of(task)),
    }


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _named(pattern: re.Pattern[bytes], head: bytes) -> str | None:
    found = pattern.search(head)
    return None if found is None else found[1].decode()


def _score(document: Document, output: Any) -> float | None:
    return number_at({"score": object_at(document, "scores").get(output)}, "score") if isinstance(output, str) else None


def _bare_output(payload: bytes) -> Any:
    text = payload.decode("utf-8", "replace")
    try:
        return parse_json(text)
    except NotJsonError:
        return text


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
        if not isinstance(answer, str) or not answer.strip() or len(answer) > _MAX_WORDS:
            raise ProblemError(400, "invalid", f"answer: should be 1 to {_MAX_WORDS} characters, such as `usual`")
        return {"answer": answer.strip()}
    if isinstance(answer, str) or number_of(answer) is None:
        raise ProblemError(400, "invalid", "answer: should be a number")
    return {"answer": answer}
