"""Turns a message from the data connection into the requests in it, or says why they are refused."""

import hashlib
import re
import secrets
from contextlib import suppress

from edge_agent.core import clock
from edge_agent.core import topics as topic_names
from edge_agent.core.codes import Code, Error, Refusal
from edge_agent.core.config import Config
from edge_agent.core.envelope import BareInput, Envelope, is_json, parse_payload
from edge_agent.core.messages import Message
from edge_agent.core.strict_json import parse_json
from edge_agent.core.topics import TaskTopics
from edge_agent.core.wording import field_name, shown
from edge_agent.requests.origin import SharedRequest
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task
from edge_agent.requests.templates import names_topic
from edge_agent.store.store import StoredRequest

# A refused envelope is still read for `id` and `reply_to`, up to this size, because longer ones cost too much time.
MAX_SALVAGED_BYTES = 1_000_000


class RequestParser:
    """Reads messages under one configuration. `weights_sha256` is that of the model in force."""

    def __init__(self, config: Config, tasks: dict[str, Task], weights_sha256: str) -> None:
        self.weights_sha256 = weights_sha256
        self._config = config
        self._topics = config.topics
        self._own_topics = config.own_topics
        self._tasks = tasks
        # Requests are equal only for one model and one definition of their task; refused ones, for one configuration.
        self._definitions = {
            name: hashlib.sha256(repr(task.config).encode()).hexdigest() for name, task in tasks.items()
        }
        self._config_digest = config.digest.hex()

    def parse(self, message: Message) -> list[Request]:
        """One request for a request topic, one per subscribed task for a reading, none for any other message."""
        name = self._topics.task_of_request(message.topic)
        if name is not None:
            return [self._parse_request(name, message, self._topics)]
        # A wide filter must not make the agent answer its own answers.
        if any(topics.is_own(message.topic) for topics in self._own_topics):
            return []
        readings = []
        for task in self._tasks.values():
            for topic_filter in task.config.reading_filters:
                values = topic_names.wildcard_values(topic_filter, message.topic)
                if values is not None:
                    readings.append(self._parse_reading(task, values, message))
                    break
        return readings

    def parse_stored(self, stored: StoredRequest) -> Request:
        """The request of an earlier process; refused if its task does not subscribe to the topic any more.

        Its origin is set by the caller.
        """
        message, name = stored.message, stored.task
        request = next((request for request in self.parse(message) if request.task_name == name), None)
        if request is None:
            text = f"task: {shown(name)} no longer subscribes to {shown(message.topic)}"
            error = Error(code=Code.UNKNOWN_TASK, message=text)
            task, reply_topic = self._tasks.get(name), self._topics.response(name)
            request = self._request(task, name, reply_topic, message, None, topics=self._topics, refusal=error)
        return request

    def parse_shared(self, shared: SharedRequest) -> Request:
        """The request that this board took from those that others could answer, too."""
        name = shared.topics.task_of_request(shared.message.topic) or ""
        if not re.match(topic_names.NAME_PATTERN, name):  # not every broker refuses wildcards, where no reply may go
            name = ""
        request = self._parse_request(name, shared.message, shared.topics)
        request.origin = shared
        request.refusal = shared.refusal or request.refusal
        return request

    def _parse_request(self, name: str, message: Message, topics: TaskTopics) -> Request:
        task, reply_topic = self._tasks.get(name), topics.response(name)
        envelope, refusal = self._parse_payload(message, task)
        if refusal is not None:
            envelope = _salvage(message)
        wanted_topic = message.response_topic or (envelope.reply_to if envelope else None)
        if wanted_topic is not None:
            if fault := topic_names.reply_topic_fault(wanted_topic, self._config.reply_topics):
                field = "response topic" if message.response_topic else "reply_to"
                text = f"{field}: {fault} (got {shown(wanted_topic)})"
                refusal = Error(code=Code.REPLY_TOPIC_REFUSED, message=text)
            else:
                reply_topic = wanted_topic
        if refusal is None and task is None:
            text = f"task: should be one of {', '.join(self._tasks) or 'none'} (got {shown(name)})"
            if name in self._config.tasks:
                text = f"task: {shown(name)} is switched off by `tasks.{name}.enabled = false` on this board"
            refusal = Error(code=Code.UNKNOWN_TASK, message=text)
        return self._request(task, name, reply_topic, message, envelope, topics=topics, refusal=refusal)

    def _parse_reading(self, task: Task, values: tuple[str, ...], message: Message) -> Request:
        # What a wildcard stands for comes from outside, so it may be empty, or lead where replies must not go.
        reply_topic = topic_names.fill_publish_pattern(task.config.reply_pattern, values)
        if topic_names.reply_topic_fault(reply_topic):
            reply_topic = self._topics.response(task.name)
        envelope, refusal = self._parse_payload(message, task, is_reading=True)
        request = self._request(task, task.name, reply_topic, message, envelope, topics=self._topics, refusal=refusal)
        request.reading_of, request.is_logged = task.config, not message.is_fault_repeated
        request.wildcards = "/".join(values) or None
        return request

    def _parse_payload(
        self, message: Message, task: Task | None, *, is_reading: bool = False
    ) -> tuple[Envelope | None, Error | None]:
        if message.fault is not None:
            return None, Error(code=Code.BAD_FIELD, message=message.fault)
        allowed = self._config.queue.max_payload_bytes
        if task is not None and task.config.max_payload_bytes is not None:
            allowed = min(allowed, task.config.max_payload_bytes)
        if len(message.payload) > allowed:
            text = f"payload: should be at most {allowed} bytes (got {len(message.payload)})"
            return None, Error(code=Code.TOO_LONG, message=text)
        try:
            envelope = parse_payload(message.payload, message.content_type, is_reading=is_reading)
            if task is not None:
                _measured_at(task, envelope)  # Refuses a time that cannot be read.
        except Refusal as refused:
            return None, refused.error
        return envelope, None

    def _request(
        self,
        task: Task | None,
        name: str,
        reply_topic: str,
        message: Message,
        envelope: Envelope | None,
        *,
        topics: TaskTopics,
        refusal: Error | None,
    ) -> Request:
        """`envelope` is there as far as it is known; it is None if the payload was not read, or cannot be.

        `refusal` is None if the request may run; task and envelope are then there.
        """
        given_id = envelope.id if envelope else None
        # Without a correlation from the client, equal payloads are separate readings, not a repeated request. Only the
        # broker's packet id shows that two are the same message, because a redelivery keeps it.
        client_key = "" if given_id is None else f"{given_id!r}"
        if message.correlation:
            client_key += f" {message.correlation.hex()}"
        definition = self._config_digest if refusal else self._definitions[name]
        caller = client_key or f"packet {message.packet_id}"
        parts = [name, definition, self.weights_sha256, reply_topic, caller, message.content_type]
        if task is not None and names_topic(task.config.template):
            parts.append(message.topic)
        request = Request(
            task_name=name,
            reply_topic=reply_topic,
            correlation=message.correlation,
            id=_id_of(message) if given_id is None else given_id,
            key=hashlib.sha256(f"{tuple(parts)!r}\n".encode("utf-8", "surrogatepass") + message.payload).digest(),
            may_be_duplicate=bool(client_key) or message.is_duplicate,
            is_redelivery=message.is_duplicate,
            arrived_at=message.received_at,
            topic=message.machine or message.topic,
            machine=message.machine,
            refusal=refusal,
        )
        is_bare = envelope is None or isinstance(envelope, BareInput)
        if is_bare and task is not None and task.config.reply == "output":
            request.error_topic, request.no_output = topics.error(name), task.config.no_output
        if refusal is None and task is not None and envelope is not None:
            request.task, request.envelope, request.may_be_audited = task, envelope, envelope.audit
            request.input = None if task.config.echo_input == "off" else envelope.input
            request.priority = task.config.priority if envelope.priority is None else envelope.priority
            request.deadline_at, request.deadline = self._deadline(task, envelope, message)
            if task.config.keep == "latest":
                request.source = f"{task.name}\n{message.topic}\n{reply_topic}"
        return request

    def _deadline(self, task: Task, envelope: Envelope, message: Message) -> tuple[float, str]:
        """When the answer becomes worthless, and this limit in words."""
        limit_ms, source = self._config.queue.default_deadline_ms, "configuration"
        if envelope.deadline_ms is not None:
            limit_ms, source = envelope.deadline_ms, "request"
        elif task.config.deadline_ms is not None:
            limit_ms, source = task.config.deadline_ms, "task"
        deadline_at, words = message.received_at + limit_ms / 1000, f"the deadline of {limit_ms:.0f} ms ({source})"
        if (measured := _measured_at(task, envelope)) is not None:
            field, seconds = measured
            if (age_s := clock.age_s(seconds, message.received_at)) is not None:
                deadline_at, words = deadline_at - age_s, f"{words} since its `{field}`"
        if message.expiry_s is not None and message.received_at + message.expiry_s < deadline_at:
            deadline_at = message.received_at + message.expiry_s
            words = f"the deadline of {message.expiry_s * 1000} ms (message expiry)"
        return deadline_at, words


def _measured_at(task: Task, envelope: Envelope) -> tuple[str, float] | None:
    """The field that has the time of the measurement, and that time in seconds since 1970; None if there is none.

    Raises Refusal(bad_field).
    """
    if envelope.ts is not None:
        return "ts", envelope.ts
    path, value = task.config.time, envelope.input
    for step in path:
        try:
            value = None if isinstance(value, str) else value[step]
        except (TypeError, LookupError):
            return None
    if value is None or not path:
        return None
    field = field_name(path if isinstance(envelope, BareInput) else ("input", *path))
    seconds = clock.parse_device_time(value)
    if seconds is None:
        rule = "should be a time with an offset, such as 2027-06-30T12:00:00Z, or seconds since 1970"
        raise Refusal(Code.BAD_FIELD, f"{field}: {rule} (got {shown(value)})")
    return field, seconds


def _id_of(message: Message) -> str:
    """An id for a request without one: its Correlation Data as text, or hex if not UTF-8, or else a made-up one."""
    if not message.correlation:
        return secrets.token_hex(8)
    try:
        return message.correlation.decode("utf-8")
    except UnicodeDecodeError:
        return message.correlation.hex()


def _salvage(message: Message) -> Envelope | None:
    """The `id` and `reply_to` of an invalid envelope, each if it is valid itself."""
    if len(message.payload) > MAX_SALVAGED_BYTES:
        return None
    try:
        text = message.payload.decode("utf-8")
        value = parse_json(text) if is_json(text, message.content_type) else None
    except ValueError:
        return None
    if not isinstance(value, dict) or "input" not in value:
        return None
    for names in (("id", "reply_to"), ("id",), ("reply_to",)):
        with suppress(ValueError):
            return Envelope.model_validate({"input": None, **{name: value[name] for name in names if name in value}})
    return None
