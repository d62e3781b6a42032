"""A message from the data connection -> who asks, of which task, what; or why it is refused."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.core import topics as topic_names
from edge_agent.core.config import Config
from edge_agent.core.envelope import Envelope, is_json, parse_bare, parse_payload
from edge_agent.core.errors import shown
from edge_agent.core.inbound import Message
from edge_agent.core.messages import Code, Error, Origin, Refusal
from edge_agent.core.strict_json import parse_json
from edge_agent.requests.tasks import Task

# An envelope that is too long is still read for who asks, up to this size: longer ones cost too much time.
MAX_SALVAGED_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Question:
    """A request for a task."""

    origin: Origin
    task: Task
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A request that can only be refused, and where its caller hears of it.

    error: not the exception, whose traceback would hold the whole message until the garbage collector comes by.
    """

    origin: Origin
    error: Error


class Reception:
    """Reads messages under one configuration."""

    def __init__(self, config: Config, tasks: dict[str, Task]) -> None:
        self._config = config
        self._topics = config.topics
        self._tasks = tasks

    @property
    def filters(self) -> set[str]:
        """What the data connection listens to."""
        return {self._topics.all_requests}.union(*(task.config.subscribe for task in self._tasks.values()))

    def read(self, inbound: Message) -> Iterator[Question | Unreadable]:
        """One for a request, one per task for a reading, none for what is neither."""
        name = self._topics.task_of_request(inbound.topic)
        if name is not None:
            yield self._request(name, inbound)
        elif not self._topics.is_own(inbound.topic):  # a wide filter must not make us answer our own answers
            for task in self._tasks.values():
                matches = (topic_names.wildcard_values(wanted, inbound.topic) for wanted in task.config.subscribe)
                values = next((found for found in matches if found is not None), None)
                if values is not None:
                    yield self._reading(task, values, inbound)

    def unheard(self, inbound: Message, task: str) -> Unreadable:
        """A reading that was taken in under another configuration: by this one nobody listens to it."""
        message = f"task: {shown(task)} does not listen to {shown(inbound.topic)} any more"
        error = Error(code=Code.UNKNOWN_TASK, message=message)
        return Unreadable(_origin(task, self._topics.response(task), inbound), error)

    def _request(self, name: str, inbound: Message) -> Question | Unreadable:
        default_topic = self._topics.response(name)
        origin = _origin(name, default_topic, inbound)
        try:
            envelope, error = self._parse(inbound, self._tasks.get(name))
            origin = _origin(name, default_topic, inbound, envelope)
            wanted_topic = inbound.response_topic or (envelope.reply_to if envelope else None)
            if wanted_topic is not None:
                fault = topic_names.reply_topic_fault(wanted_topic, self._config.reply_topics)
                if fault:
                    field = "response topic" if inbound.response_topic else "reply_to"
                    raise Refusal(Code.REPLY_TOPIC_REFUSED, f"{field}: {fault} (got {shown(wanted_topic)})")
                origin = _origin(name, wanted_topic, inbound, envelope)
            if error is not None:
                return Unreadable(origin, error)
            assert envelope is not None
            task = self._tasks.get(name)
            if task is None:
                raise Refusal(Code.UNKNOWN_TASK, f"task: should be one of {', '.join(self._tasks)} (got {shown(name)})")
            return Question(origin, task, envelope)
        except Refusal as refused:
            return Unreadable(origin, refused.error)

    def _reading(self, task: Task, values: tuple[str, ...], inbound: Message) -> Question | Unreadable:
        # What a wildcard stands for comes from outside: it may be nothing, or lead where replies must not go.
        topic = topic_names.fill_publish_pattern(task.config.publish or "", values)
        if topic_names.command_topic_fault(topic):
            topic = self._topics.response(task.name)
        origin = _origin(task.name, topic, inbound)
        try:
            self._check_size(inbound, task)
            return Question(origin, task, parse_bare(inbound.payload, inbound.content_type))
        except Refusal as refused:
            return Unreadable(origin, refused.error)

    def _check_size(self, inbound: Message, task: Task | None) -> None:
        allowed = self._config.queue.max_payload_bytes
        if task is not None and task.config.max_payload_bytes is not None:
            allowed = min(allowed, task.config.max_payload_bytes)
        if len(inbound.payload) > allowed:
            raise Refusal(Code.TOO_LONG, f"payload: should have at most {allowed} bytes (got {len(inbound.payload)})")

    def _parse(self, inbound: Message, task: Task | None) -> tuple[Envelope | None, Error | None]:
        """An envelope, or why there is none; with what can still be told of who asks and where to answer."""
        try:
            self._check_size(inbound, task)
            return parse_payload(inbound.payload, inbound.content_type), None
        except Refusal as refusal:
            return _salvage(inbound), refusal.error


def _origin(task: str, reply_topic: str, inbound: Message, envelope: Envelope | None = None) -> Origin:
    identity: str | int | None = envelope.id if envelope else None
    is_given = identity is not None
    if identity is None and inbound.correlation:
        identity = _as_text(inbound.correlation)
    return Origin(
        task=task,
        reply_topic=reply_topic,
        correlation=inbound.correlation,
        id=secrets.token_hex(8) if identity is None else identity,
        is_id_given=is_given,
    )


def _as_text(correlation: bytes) -> str:
    """Correlation Data as an id: its text, or hex if it is not UTF-8."""
    try:
        return correlation.decode("utf-8")
    except UnicodeDecodeError:
        return correlation.hex()


def _salvage(inbound: Message) -> Envelope | None:
    """What can still be read of who asks (id, reply_to) in an envelope with some other field wrong."""
    if len(inbound.payload) > MAX_SALVAGED_BYTES:
        return None
    try:
        text = inbound.payload.decode("utf-8")
        value = parse_json(text) if is_json(text, inbound.content_type) else None
    except ValueError:
        return None
    if not isinstance(value, dict) or "input" not in value:
        return None
    kept: Envelope | None = None
    for name in ("id", "reply_to"):
        if name in value:
            try:
                one = Envelope.model_validate({"input": None, name: value[name]})
            except ValueError:
                continue
            kept = one if kept is None else kept.model_copy(update={name: getattr(one, name)})
    return kept
