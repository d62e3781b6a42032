"""The tasks that boards name in `info`, and which of them answers on which topic."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_agent.core.kinds.registry import KINDS
from edge_agent.core.topics import NAME_PATTERN, Topics, matches, pool_topics, publish_filter, wildcard_values
from edge_agent.tools.watch.site import Document, Row, text_at
from edge_agent.web.answer import Answer
from edge_agent.web.boards import tasks_of

_MAX_TOPICS = 5000
_MACHINE = "{machine}"
_MAX_MACHINE_LEVELS = 4
_NAME = re.compile(NAME_PATTERN)
_KINDS_WITH_FEEDBACK = {name for name, kind in KINDS.items() if kind.takes_feedback}


@dataclass(frozen=True, slots=True)
class Origin:
    """What a topic reveals about the answers on it."""

    device: str | None
    task: str | None
    is_reply_topic: bool


class Tasks:
    def __init__(self, root: str, site: str, rows: Mapping[str, Row]) -> None:
        self.by_name: Mapping[tuple[str, str], Document] = {}
        """What `info` says about each task, by board and task."""
        self.with_feedback: frozenset[tuple[str, str]] = frozenset()
        """The tasks whose answers people can judge."""
        self._rows = rows
        self._boards, self._pools = Topics(root, site, "+"), pool_topics(root, site, "+")
        self._shared_replies = self._boards.default_reply_topics[-1]
        # The tasks that publish to topics of their own, by the filter of these topics.
        self._publish: dict[str, set[tuple[str, str]]] = {}
        self._origins: dict[str, Origin | None] = {}

    @property
    def filters(self) -> Iterable[str]:
        audits_and_errors = (self._boards.audit("+"), self._boards.error("+"), self._pools.error("+"))
        return (*self._boards.default_reply_topics, self._pools.all_responses, *audits_and_errors, *self._publish)

    def update(self) -> None:
        """Takes from `info` which tasks there are and where they publish."""
        tasks: dict[tuple[str, str], Document] = {}
        publish: dict[str, set[tuple[str, str]]] = {}
        for device, row in self._rows.items():
            for name, task in tasks_of(row):
                if not _NAME.fullmatch(name):
                    continue
                tasks[device, name] = task
                for topic_filter in _publish_filters(text_at(task, "publish") or ""):
                    publish.setdefault(topic_filter, set()).add((device, name))
        self.by_name = tasks
        self.with_feedback = frozenset(
            each for each, task in tasks.items() if text_at(task, "kind") in _KINDS_WITH_FEEDBACK
        )
        if publish != self._publish:
            self._publish = publish
            self._origins.clear()

    def check_topic(self, device: str, task: str) -> str:
        """Where the checks of a task come, for people."""
        document = self.by_name[device, task]
        pattern = text_at(document, "publish") if text_at(document, "reply") != "output" else None
        topic_filter = pattern and publish_filter(pattern)
        if topic_filter and pattern and _MACHINE in pattern:
            return pattern
        return topic_filter or f"{self._boards.base}/infer/#"

    def of(self, answer: Answer) -> Document:
        """What `info` says about the answer's task; empty while it is unknown."""
        return self.by_name.get((answer.device or "", answer.task or ""), {})

    def takes_feedback(self, answer: Answer) -> bool:
        return (answer.device, answer.task) in self.with_feedback

    def origin(self, topic: str) -> Origin | None:
        """What the topic of a message reveals; None for a topic of no answers."""
        if topic not in self._origins:
            if len(self._origins) >= _MAX_TOPICS:
                self._origins.clear()
            self._origins[topic] = self._find_origin(topic)
        return self._origins[topic]

    def _find_origin(self, topic: str) -> Origin | None:
        boards, pools = self._boards, self._pools
        for topics, pattern, is_reply_topic in (
            (boards, boards.all_responses, True),
            (boards, boards.error("+"), False),
            (boards, boards.audit("+"), False),
            (pools, pools.all_responses, True),
            (pools, pools.error("+"), False),
        ):
            if values := wildcard_values(pattern, topic):
                device, task = (value if _NAME.fullmatch(value) else None for value in values[:2])
                return Origin(device if topics is boards else None, task, is_reply_topic)
        owners = {owner for pattern, owners in self._publish.items() if matches(pattern, topic) for owner in owners}
        if not owners and not matches(self._shared_replies, topic):
            return None
        # Several boards may publish there.
        devices, tasks = ({owner[place] for owner in owners} for place in (0, 1))
        return Origin(_only(devices), _only(tasks), is_reply_topic=True)


def _publish_filters(pattern: str) -> Iterable[str]:
    """The filters for it, several because `info` does not say how many levels a machine has."""
    machines = ("/".join([_MACHINE] * levels) for levels in range(1, _MAX_MACHINE_LEVELS + 1))
    filters = {publish_filter(pattern.replace(_MACHINE, machine)) for machine in machines}
    return filter(None, filters)


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None
