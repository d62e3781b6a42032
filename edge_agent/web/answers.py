"""The newest answers of all boards, as they come.

Answers are kept as bytes and parsed only when a viewer gets them, because several hundred may come in a second.
"""

import re
import secrets
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from edge_agent.core.messages import Message
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.topics import pool_topics, wildcard_values
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import BoardLevel, Document, Row, object_at, text_at
from edge_agent.web.answer import Answer, Wanted, reading_of, score_of
from edge_agent.web.boards import escaped
from edge_agent.web.checks import Checks
from edge_agent.web.marks import Marks
from edge_agent.web.parts import Part
from edge_agent.web.problem import ProblemError
from edge_agent.web.tasks import Tasks

MAX_ANSWERS, MAX_BYTES = 2000, 16_000_000
# Larger answers are not shown.
MAX_ANSWER_BYTES = 128_000
# The most in one response.
MAX_ROWS = 20
# Boards must be heard for this long before it means anything that no answer has arrived.
_FIRST_ANSWER_S = 10.0
_MAX_EXAMPLES, _MAX_EXAMPLE_BYTES = 2000, 8_000
_HEAD_BYTES = 1024
_DEVICE, _TASK = (re.compile(rb'"%s":\s*"([A-Za-z0-9_-]{1,64})"' % name) for name in (b"device", b"task"))


class Answers(Part):
    """Takes every answer from the bus, and hands those that ask for feedback to `checks`."""

    def __init__(self, root: str, site: str, rows: Mapping[str, Row]) -> None:
        self.tasks = Tasks(root, site, rows)
        self.checks = Checks(self.tasks, rows)
        self.marks = Marks(self.tasks, self.checks, rows)
        self._rows = rows
        self._pool_replies = pool_topics(root, site, "+").all_responses
        self._process = secrets.token_hex(4)
        self._count = 0
        self._ring: deque[Answer] = deque()
        self._ring_bytes = 0
        self._last_inputs: dict[tuple[str, str], bytes] = {}
        # Since when boards have been heard, by the monotonic clock, and for how long.
        self._heard_since: float | None = None
        self._heard_for_s = 0.0

    @property
    def filters(self) -> Iterable[str]:
        return self.tasks.filters

    def tick(self, now: float) -> None:
        self.tasks.update()
        self.checks.update()
        if self._heard_since is None and any(row.level is not BoardLevel.UNKNOWN for row in self._rows.values()):
            self._heard_since = now
        self._heard_for_s = 0.0 if self._heard_since is None else now - self._heard_since

    def receive(self, message: Message, wall: float) -> None:
        origin = self.tasks.origin(message.topic)
        payload = message.payload
        if origin is None or not 0 < len(payload) <= MAX_ANSWER_BYTES:
            return
        head = payload[:_HEAD_BYTES]
        if b'"partial"' in head and object_or_empty(payload).get("status") == "partial":
            return
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
        if b'"please_check"' in payload and not self.checks.keep_unless_repeated(answer):
            return
        self._note_input(answer)
        self._ring.append(answer)
        self._ring_bytes += len(answer.payload)
        while len(self._ring) > MAX_ANSWERS or self._ring_bytes > MAX_BYTES:
            self._ring_bytes -= len(self._ring.popleft().payload)

    def restore_checks(self, checks: Iterable[Answer]) -> None:
        for check in checks:
            if self.checks.restore(check):
                self._note_input(check)
                if check.mark is not None:
                    self.marks.restore(check.mark)

    def _note_input(self, answer: Answer) -> None:
        if b'"input"' not in answer.payload:
            return
        names = wildcard_values(self._pool_replies, answer.topic)
        target = f"pool/{names[0]}" if names else answer.device
        is_known = target in self._rows or names is not None
        if target and answer.task and is_known and len(answer.payload) <= _MAX_EXAMPLE_BYTES:
            self._last_inputs[target, answer.task] = answer.payload
            if len(self._last_inputs) > _MAX_EXAMPLES:
                self._last_inputs.pop(next(iter(self._last_inputs)))

    def last_input(self, target: str, task: str) -> Any:
        """The latest input in an answer of a board or of `pool/NAME`; None if there was none."""
        payload = self._last_inputs.get((target, task))
        return None if payload is None else escaped(object_or_empty(payload).get("input"))

    def find(self, key: str) -> Answer:
        """Raises ProblemError."""
        answer = next((answer for answer in chain(self.checks.kept, self._ring) if answer.key == key), None)
        if answer is None:
            raise ProblemError(404, "unknown_answer", "this answer is too old, or the page was restarted")
        return answer

    def silence(self) -> Document:
        """What may be wrong if no answer has arrived at all, though boards were heard a while ago."""
        return {"reason": None if self._count or self._heard_for_s < _FIRST_ANSWER_S else "silence"}

    def rows(self, wanted: Wanted, before: int | None = None) -> Document:
        """The answer to `GET /api/v1/answers`, with the newest first. `cursor` counts all that ever came.

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
            **self.silence(),
        }

    def _count_without_input(self, wanted: Wanted) -> int:
        """How many replies do not contain their reading, so nobody can mark them or tell their machine."""
        of_every_machine = replace(wanted, machine=None)
        return sum(
            b'"input"' not in answer.payload
            and b'"status"' in answer.payload
            and of_every_machine.takes(answer)
            and self.tasks.takes_feedback(answer)
            for answer in self._ring
        )

    def _row(self, answer: Answer) -> Document:
        document, task = answer.document(), self.tasks.of(answer)
        is_blind = self.checks.is_blind(answer)
        output = document.get("output") if document else _bare_output(answer.payload)
        is_hidden = is_blind or (not document and self.checks.may_be_revealed_by(answer))
        degraded = document.get("degraded")
        error = object_at(document, "error")
        return {
            **reading_of(answer, document, task),
            "at": answer.at,
            "id": escaped(document.get("id")),
            "status": escaped(text_at(document, "status") or "ok"),
            "output": None if is_hidden else escaped(output),
            "score": None if is_hidden else score_of(document, output),
            "degraded": escaped(degraded[:MAX_ROWS]) if isinstance(degraded, list) and not is_hidden else [],
            "error": escaped({name: text_at(error, name) for name in ("code", "message")}) if error else None,
            "is_open_audit": is_blind,
            "mark": self.marks.newest_of(answer),
            "can_mark": not is_hidden and self.marks.fault(answer, document) is None,
        }


def _named(pattern: re.Pattern[bytes], head: bytes) -> str | None:
    found = pattern.search(head)
    return None if found is None else found[1].decode()


def _bare_output(payload: bytes) -> Any:
    text = payload.decode("utf-8", "replace")
    try:
        return parse_json(text)
    except NotJsonError:
        return text
