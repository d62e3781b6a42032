"""`POST /api/v1/ask/…`: a request over HTTP that waits for the board's reply.

The reply comes back byte for byte; its status and code decide the status of HTTP.
"""

import asyncio
import hashlib
import math
import secrets
import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_agent.core.codes import Code, Refusal, Status
from edge_agent.core.envelope import BareInput, Envelope, parse_payload
from edge_agent.core.messages import Message, json_publication
from edge_agent.core.strict_json import parse_json
from edge_agent.core.topics import (
    NAME_PATTERN,
    TaskTopics,
    Topics,
    ask_reply_topic,
    is_name,
    pool_topics,
    wildcard_values,
)
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import BoardLevel, Document, Row, number_at, text_at
from edge_agent.web.live import Live
from edge_agent.web.parts import Part
from edge_agent.web.problem import JSON_TYPE, ProblemError

MAX_ASKS = 64
MAX_DEADLINE_MS = 300_000
_DEFAULT_DEADLINE_MS = 60_000
# A reply that says `expired` comes a little after the deadline.
GRACE_S = 2.0
# After the start, a board may not have been heard yet: RabbitMQ shows it with its next health.
_SETTLE_S = 15.0
_LATER = {"Retry-After": "10"}
# OpenAI's clients, for one, repeat what fails with 5xx, which would triple the load.
_NEVER = {"X-Should-Retry": "false"}
_SILENT = (BoardLevel.OFFLINE, BoardLevel.STALE, BoardLevel.STOPPED)


@dataclass(slots=True, eq=False)
class _Ask:
    """A request on its way, and who waits for its reply: several where one caller repeats it."""

    topics: TaskTopics
    task: str
    request_id: str | int
    body: bytes
    deadline_ms: int
    number: int | None = None
    waiters: list["asyncio.Future[bytes | ProblemError]"] = field(default_factory=list)


class Asks(Part):
    """`Answers` subscribes to all topics of replies: a broker may deliver twice what two filters match."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._prefix = ask_reply_topic(live.root, f"web-{secrets.token_hex(8)}")
        self._asks: dict[str, _Ask] = {}
        self._count = 0
        self._started_at = time.monotonic()
        every, pools = Topics(live.root, live.site, "+"), pool_topics(live.root, live.site, "+")
        self._responses = (every.response("+"), pools.response("+"))
        self.routes = [
            Route("/api/v1/ask/pool/{pool}/{task}", self._handle, methods=["POST"]),
            Route("/api/v1/ask/{device}/{task}", self._handle, methods=["POST"]),
        ]

    async def _handle(self, request: Request) -> Response:
        names, body = request.path_params, await request.body()
        future: asyncio.Future[bytes | ProblemError] = asyncio.get_running_loop().create_future()
        key = request.headers.get("idempotency-key")
        with self._live.lock:
            topic, timeout_s = self._start(names, body, request.headers.get("content-type"), key, future)
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait((future, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            with self._live.lock:
                self._forget(topic, future)
        if not future.done():
            raise ProblemError(504, "no_reply", f"no reply within {timeout_s:.1f} s", _NEVER)
        if isinstance(reply := future.result(), ProblemError):
            raise reply
        return response_of(reply)

    def _start(
        self,
        names: Document,
        body: bytes,
        content_type: str | None,
        key: str | None,
        future: "asyncio.Future[bytes | ProblemError]",
    ) -> tuple[str, float]:
        """Sends a request, unless the same one is on its way. Gives its reply topic, and how long to wait."""
        topics, row = self._target(names)
        task = names["task"]
        if not is_name(task):
            raise ProblemError(404, "unknown_task", f"task: should match {NAME_PATTERN}")
        envelope, given = envelope_of(body, content_type, key)
        if key is None:
            self._count += 1
            unique = str(self._count)
        else:
            unique = hashlib.sha256(f"{topics.base} {task} {key}".encode()).hexdigest()[:32]
        topic = f"{self._prefix}/{unique}"
        ask = self._asks.get(topic)
        if ask is not None and ask.body != body:
            raise ProblemError(409, "key_in_use", "another request with this Idempotency-Key is not answered yet")
        if ask is None:
            ask = _Ask(
                topics, task, given.setdefault("id", secrets.token_hex(8)), body, _deadline_ms(envelope, row, task)
            )
            self._send(ask, topic, given)
        elif sum(len(each.waiters) for each in self._asks.values()) >= MAX_ASKS:
            raise _too_many()
        ask.waiters.append(future)
        return topic, ask.deadline_ms / 1000 + GRACE_S

    def _send(self, ask: _Ask, topic: str, envelope: Document) -> None:
        if sum(len(each.waiters) for each in self._asks.values()) >= MAX_ASKS:
            raise _too_many()
        document = {**envelope, "reply_to": topic, "deadline_ms": ask.deadline_ms}
        publication = json_publication(
            ask.topics.request(ask.task), document, expiry_s=math.ceil(ask.deadline_ms / 1000)
        )
        ask.number = self._live.publish(publication)
        if ask.number is None:
            raise ProblemError(413, "too_long", "the broker takes no message of this size")
        self._asks[topic] = ask

    def _target(self, names: Document) -> tuple[TaskTopics, Row | None]:
        """The topics of the board or pool, and what is known of it. Raises ProblemError where no reply can come."""
        live = self._live
        if not live.is_connected:
            raise ProblemError(503, "no_broker", "no connection to the broker", _LATER)
        if (pool := names.get("pool")) is not None:
            row = next((row for row in live.rows.values() if text_at(row.health, "pool.name") == pool), None)
            if row is None or not is_name(pool):
                raise self._unknown(f"no board of a pool {pool} answers")
            return pool_topics(live.root, live.site, pool), row
        device = names["device"]
        row = live.rows.get(device)
        if row is None or not is_name(device):
            raise self._unknown(f"no board {device} is known")
        if row.level in _SILENT:
            level = row.level.name.lower()
            raise ProblemError(503, level, f"{device} is {level}: {'; '.join(row.why)}", _LATER)
        return Topics(live.root, live.site, device), row

    def _unknown(self, words: str) -> ProblemError:
        if time.monotonic() - self._started_at < _SETTLE_S:
            return ProblemError(503, "unknown_board", f"{words} yet", _LATER)
        return ProblemError(404, "unknown_board", words)

    def _forget(self, topic: str, future: "asyncio.Future[bytes | ProblemError]") -> None:
        ask = self._asks.get(topic)
        if ask is not None and future in ask.waiters:
            ask.waiters.remove(future)
            if not ask.waiters:
                del self._asks[topic]

    def receive(self, message: Message, wall: float) -> None:  # noqa: ARG002 - of Part
        if not self._asks:
            return
        if message.topic in self._asks:
            if object_or_empty(message.payload).get("status") != Status.PARTIAL:
                self._answer(message.topic, message.payload)
        elif Code.REPLY_TOPIC_REFUSED.encode() in message.payload:
            self._take_refusal(message)

    def _take_refusal(self, message: Message) -> None:
        """A board that refuses our reply topic says so on the task's own one."""
        if not any(wildcard_values(pattern, message.topic) for pattern in self._responses):
            return
        request_id = object_or_empty(message.payload).get("id")
        for topic, ask in list(self._asks.items()):
            if message.topic == ask.topics.response(ask.task) and request_id == ask.request_id:
                self._answer(topic, message.payload)

    def sent(self, number: int, result: PublishResult) -> None:
        if result is PublishResult.CONFIRMED:
            return
        for topic, ask in list(self._asks.items()):
            if ask.number == number:
                words = f"the broker refuses the request ({result.value}): may the account `web` write there?"
                self._answer(topic, ProblemError(500, "publishing_refused", words, _NEVER))

    def _answer(self, topic: str, reply: bytes | ProblemError) -> None:
        for future in self._asks.pop(topic).waiters:
            future.get_loop().call_soon_threadsafe(_set, future, reply)


def _set(future: "asyncio.Future[bytes | ProblemError]", reply: bytes | ProblemError) -> None:
    if not future.done():
        future.set_result(reply)


async def _until_gone(request: Request) -> None:
    """Ends when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_many() -> ProblemError:
    return ProblemError(429, "too_many", f"{MAX_ASKS} requests wait for replies already", {"Retry-After": "1"})


def envelope_of(body: bytes, content_type: str | None, key: str | None) -> tuple[Envelope, Document]:
    """A request as over MQTT: what it means, and the envelope to send. Raises ProblemError."""
    try:
        envelope = parse_payload(body, content_type)
    except Refusal as refused:
        raise ProblemError(400, refused.error.code, refused.error.message) from None
    if isinstance(envelope, BareInput):
        document: Document = {"input": envelope.input}
    else:
        document = parse_json(body.decode())
    if "reply_to" in document:
        raise ProblemError(400, Code.BAD_FIELD, "reply_to: should be left out, because the reply comes over HTTP")
    if key is not None:
        if not 1 <= len(key) <= 128 or not key.isprintable():
            raise ProblemError(400, Code.BAD_FIELD, "Idempotency-Key: should be 1 to 128 printable characters")
        if document.setdefault("id", key) != key:
            raise ProblemError(400, Code.BAD_FIELD, "id: should be left out or equal to Idempotency-Key")
    document.pop("stream", None)
    return envelope, document


def _deadline_ms(envelope: Envelope, row: Row | None, task: str) -> int:
    info = {} if row is None else row.info
    tasks = info.get("tasks")
    known = tasks.get(task) if isinstance(tasks, dict) else None
    wanted = (
        envelope.deadline_ms
        or number_at(known if isinstance(known, dict) else {}, "deadline_ms")
        or number_at(info, "limits.default_deadline_ms")
        or _DEFAULT_DEADLINE_MS
    )
    return int(min(max(1, wanted), MAX_DEADLINE_MS))


def response_of(reply: bytes) -> Response:
    """A board's reply over HTTP."""
    document = object_or_empty(reply)
    status, headers = http_status(document)
    return Response(reply, status, headers, JSON_TYPE)


_INVALID = {Code.UNKNOWN_TASK: 404, Code.TOO_LONG: 413, Code.REPLY_TOPIC_REFUSED: 500}


def http_status(document: Document) -> tuple[int, dict[str, str]]:
    """The status of HTTP for a reply, with further headers."""
    code = text_at(document, "error.code")
    match document.get("status"):
        case Status.OK:
            return 200, {}
        case Status.BUSY:
            retry_s = min(3600, max(1, math.ceil(number_at(document, "error.retry_after_s") or 1)))
            return 503 if code in (Code.LOADING, Code.DRAINING) else 429, {"Retry-After": str(retry_s)}
        case Status.EXPIRED:
            return 504, _NEVER
        case Status.INVALID:
            return next((status for each, status in _INVALID.items() if each == code), 400), {}
        case Status.CANCELLED:
            return 503, _NEVER
        case Status.FAILED:
            return (422 if code == Code.NO_VALID_OUTPUT else 502), _NEVER
        case _:  # not of a board
            return 502, _NEVER
