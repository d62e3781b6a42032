"""Report on change: which answers a task with `publish_on = "change"` publishes, and which ones are retained.

The last answers are kept in memory only, so after a restart, a reload or a new
connection to the broker, which may have lost what it retained, each answer counts as changed.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from edge_agent.core.codes import Code
from edge_agent.core.strict_json import encode
from edge_agent.requests.request import Request

# How many reply topics are remembered; the one answered least recently is forgotten first.
MAX_TOPICS = 5000


@dataclass(slots=True)
class _Answers:
    """The last answers on one reply topic, as digests, because an output may be long."""

    latest: bytes = b""
    in_a_row: int = 0  # How often the latest one has come in a row.
    published: bytes = b""
    published_at: float = 0.0


class Changes:
    def __init__(self) -> None:
        self._by_topic: dict[bytes, _Answers] = {}

    def record(self, request: Request, document: dict[str, Any], now: float) -> bool:
        """Records the answer in a reply, and returns whether to publish it. Call it once for each reply."""
        task = request.reading_of
        if task is None or not request.reports_on_change:
            return True
        if is_superseded(document):
            return False
        error, output = document["error"], document["output"]
        # Machines may share a reply topic, and so may tasks.
        answers = self._of_topic(_digest([request.task_name, request.machine, request.reply_topic]))
        answer = _digest([error and error["code"], None if output is None else task.change_key(output)])
        answers.in_a_row = answers.in_a_row + 1 if answer == answers.latest else 1
        answers.latest = answer
        if answer == answers.published:
            is_due = task.publish_every_s is not None and now - answers.published_at >= task.publish_every_s
        else:
            # Without regular readings, a machine that lacks values is refused only once.
            may_come_once = request.machine is not None and request.refusal is not None
            is_due = may_come_once or answers.in_a_row >= task.after
        if not is_due and "please_check" not in document:
            return False
        answers.published, answers.published_at = answer, now
        return True

    def clear(self) -> None:
        self._by_topic.clear()

    def _of_topic(self, key: bytes) -> _Answers:
        answers = self._by_topic.pop(key, None) or _Answers()
        self._by_topic[key] = answers
        if len(self._by_topic) > MAX_TOPICS:
            del self._by_topic[next(iter(self._by_topic))]
        return answers


def is_retained(request: Request, document: dict[str, Any]) -> bool:
    """Whether the broker should retain this reply. A repeated one may be older than the one that is retained."""
    task = request.reading_of
    return task is not None and task.retain and not document["repeat"] and not is_superseded(document)


def is_superseded(document: dict[str, Any]) -> bool:
    """Whether a newer reading replaced this one, which therefore has no answer of its own."""
    return document["error"] is not None and document["error"]["code"] == Code.SUPERSEDED


def _digest(value: Any) -> bytes:
    return hashlib.sha256(encode(value)).digest()[:16]
