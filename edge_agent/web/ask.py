"""`POST /api/v1/ask/…`: a request over HTTP that waits for the board's reply.

The response is the reply byte for byte. The reply's status and error code decide the HTTP status.
"""

import asyncio
import hashlib
import math
import secrets
from dataclasses import dataclass

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
)
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import Document, Row, number_at, object_at, text_at
from edge_agent.web.live import SILENT_LEVELS, Live
from edge_agent.web.parts import Part
from edge_agent.web.problem import JSON_TYPE, ProblemError

MAX_PENDING = 64
MAX_DEADLINE_MS = 300_000
_DEFAULT_DEADLINE_MS = 60_000
# The reply `expired` comes a little after the deadline.
GRACE_S = 2.0
# Right after connecting, a board may not have been heard yet, as RabbitMQ retains nothing.
_SETTLE_S = 15.0
_LATER = {"Retry-After": "10"}


_Outcome = bytes | ProblemError


@dataclass(frozen=True, slots=True, eq=False)
class _PendingRequest:
    """A request that was sent, and the handler that waits for its reply."""

    response_topic: str
    """Where a board says that it refuses the request's own reply topic."""
    request_id: str | int
    number: int
    outcome: "asyncio.Future[_Outcome]"


class Requests(Part):
    """It has no filters, because `Answers` subscribes to every reply topic, and where filters overlap, a broker may
    deliver twice.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._prefix = ask_reply_topic(live.root, f"web-{secrets.token_hex(8)}")
        # By reply topic.
        self._pending: dict[str, _PendingRequest] = {}
        self.routes = [
            Route("/api/v1/ask/pool/{pool}/{task}", self._handle, methods=["POST"]),
            Route("/api/v1/ask/{device}/{task}", self._handle, methods=["POST"]),
        ]

    async def _handle(self, request: Request) -> Response:
        body = await request.body()
        outcome: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        with self._live.lock:
            topic, timeout_s = self._send(request, body, outcome)
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait((outcome, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            with self._live.lock:
                # By now, a repetition may be waiting on the same topic.
                if (pending := self._pending.get(topic)) and pending.outcome is outcome:
                    del self._pending[topic]
        if not outcome.done():
            raise ProblemError(504, "no_reply", f"no reply within {timeout_s:.1f} s")
        if isinstance(reply := outcome.result(), ProblemError):
            raise reply
        return response_of(reply)

    def _send(self, request: Request, body: bytes, outcome: "asyncio.Future[_Outcome]") -> tuple[str, float]:
        """Returns the reply topic, and how long to wait there. Raises ProblemError."""
        topics, row = self._target(request.path_params)
        task, key = request.path_params["task"], request.headers.get("idempotency-key")
        if not is_name(task):
            raise ProblemError(404, "unknown_task", f"task: should match {NAME_PATTERN}")
        envelope, document = envelope_of(body, request.headers.get("content-type"), key)
        if len(self._pending) >= MAX_PENDING:
            raise ProblemError(429, "too_many", f"{MAX_PENDING} requests are waiting for replies", {"Retry-After": "1"})
        # The same key gives the same reply topic, so the board knows a repetition by both.
        unique = secrets.token_hex(16) if key is None else f"{topics.base} {task} {key}"
        topic = f"{self._prefix}/{hashlib.sha256(unique.encode()).hexdigest()[:32]}"
        if topic in self._pending:
            raise ProblemError(409, "key_in_use", "a request with this Idempotency-Key is not answered yet")
        deadline_ms = _deadline_ms(envelope, row, task)
        document.setdefault("id", secrets.token_hex(8))
        document |= {"reply_to": topic, "deadline_ms": deadline_ms}
        publication = json_publication(topics.request(task), document, expiry_s=math.ceil(deadline_ms / 1000))
        number = self._live.publish(publication)
        if number is None:
            raise ProblemError(413, "too_long", "the broker takes no message of this size")
        self._pending[topic] = _PendingRequest(topics.response(task), document["id"], number, outcome)
        return topic, deadline_ms / 1000 + GRACE_S

    def _target(self, names: Document) -> tuple[TaskTopics, Row | None]:
        """The topics and row of the board, or of a board of the pool. Raises ProblemError if no reply can come."""
        live = self._live
        if not live.is_connected:
            raise ProblemError(503, "no_broker", "no connection to the broker", _LATER)
        if (pool := names.get("pool")) is not None:
            row = next((row for row in live.rows.values() if text_at(row.health, "pool.name") == pool), None)
            if row is None or not is_name(pool):
                raise self._unknown(f"no board of the pool {pool} is known")
            return pool_topics(live.root, live.site, pool), row
        device = names["device"]
        row = live.rows.get(device)
        if row is None or not is_name(device):
            raise self._unknown(f"no board {device} is known")
        if row.level in SILENT_LEVELS:
            level = row.level.name.lower()
            why = f": {'; '.join(row.why)}" if row.why else ""
            raise ProblemError(503, level, f"{device} is {level}{why}", _LATER)
        return Topics(live.root, live.site, device), row

    def _unknown(self, words: str) -> ProblemError:
        if self._live.connected_s < _SETTLE_S:
            return ProblemError(503, "unknown_board", f"{words} yet", _LATER)
        return ProblemError(404, "unknown_board", words)

    def receive(self, message: Message, wall: float) -> None:  # noqa: ARG002 - of Part
        if message.topic in self._pending:
            self._end(message.topic, message.payload)
        elif self._pending and Code.REPLY_TOPIC_REFUSED.encode() in message.payload:
            request_id = object_or_empty(message.payload).get("id")
            for topic, pending in list(self._pending.items()):
                if message.topic == pending.response_topic and request_id == pending.request_id:
                    self._end(topic, message.payload)

    def sent(self, number: int, result: PublishResult) -> None:
        if result is PublishResult.CONFIRMED:
            return
        for topic, pending in list(self._pending.items()):
            if pending.number == number:
                why = f"the broker refuses the request ({result.value}): may the account `web` write requests?"
                self._end(topic, ProblemError(500, "publishing_refused", why))

    def _end(self, topic: str, result: _Outcome) -> None:
        outcome = self._pending.pop(topic).outcome
        outcome.get_loop().call_soon_threadsafe(_set, outcome, result)


def _set(outcome: "asyncio.Future[_Outcome]", result: _Outcome) -> None:
    if not outcome.done():
        outcome.set_result(result)


async def _until_gone(request: Request) -> None:
    """Ends when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def envelope_of(body: bytes, content_type: str | None, key: str | None) -> tuple[Envelope, Document]:
    """Reads a body like a payload over MQTT. Returns what it means and the envelope to send. Raises ProblemError."""
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
    wanted = (
        envelope.deadline_ms
        or number_at(object_at(object_at(info, "tasks"), task), "deadline_ms")
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
    """The HTTP status for a reply, and further headers."""
    code = text_at(document, "error.code")
    match document.get("status"):
        case Status.OK:
            return 200, {}
        case Status.BUSY:
            retry_s = min(3600, max(1, math.ceil(number_at(document, "error.retry_after_s") or 1)))
            return 503 if code in (Code.LOADING, Code.DRAINING) else 429, {"Retry-After": str(retry_s)}
        case Status.EXPIRED:
            return 504, {}
        case Status.INVALID:
            return next((status for each, status in _INVALID.items() if each == code), 400), {}
        case Status.CANCELLED:
            return 503, {}
        case Status.FAILED:
            return (422 if code == Code.NO_VALID_OUTPUT else 502), {}
        case _:  # No board sent it.
            return 502, {}
