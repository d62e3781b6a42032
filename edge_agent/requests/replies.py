"""How requests end, with one reply document for each caller. A repeated request gets it once more."""

import json
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.codes import Code, Error, Refusal, Status
from edge_agent.core.messages import JSON, TEXT, Publication, Reply
from edge_agent.core.model import Model
from edge_agent.core.pipe import Cancelled, Failed, Finished
from edge_agent.core.strict_json import encode
from edge_agent.core.wording import cut, shown
from edge_agent.requests.answerers import Answer
from edge_agent.requests.changes import Changes, is_retained, is_superseded
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.duplicates import Duplicates
from edge_agent.requests.request import Request
from edge_agent.requests.statistics import WINDOW, ModelAnswers, NotableAnswers, OddInputs

log = logging.getLogger(__name__)

# How many equal requests may wait for the answers of others, all together, because each holds its origin.
MAX_FOLLOWERS = 1000
# These refusals say that more is asked than can be answered.
_OVERLOAD = {Code.QUEUE_FULL, Code.DEADLINE_UNREACHABLE}
# Messages of these codes may quote the caller, or an answer made from the input, so they are not logged.
_QUOTING = {Code.BAD_JSON, Code.BAD_FIELD, Code.UNKNOWN_TASK, Code.REPLY_TOPIC_REFUSED, Code.NO_VALID_OUTPUT}


class Replies:
    """Makes terminal replies and hands them to `delivery`; counts how requests end."""

    def __init__(self, device: str, delivery: Delivery, duplicates: Duplicates) -> None:
        self.ended: Counter[Status] = Counter()  # How many requests ended in which way.
        self.displaced_total = 0
        self.duplicates_total = 0
        self.failed_in_a_row = 0  # Since the last answer, by a fault of the agent or of its model.
        self.last_failure = ""
        self.overloaded_total = 0  # Refusals because more is asked than can be answered.
        self.latency_ms: deque[float] = deque(maxlen=WINDOW)
        self.queued_ms: deque[float] = deque(maxlen=WINDOW)
        self.models = defaultdict[str, ModelAnswers](ModelAnswers)
        self.notable = defaultdict[str, NotableAnswers](NotableAnswers)
        self.odd_inputs = OddInputs()
        self.changes = Changes()
        self._device = device
        self._delivery = delivery
        self._duplicates = duplicates
        self._followers = 0

    def join_or_repeat(self, request: Request, original: Request | bytes, now: float) -> None:
        """Answers a request with the reply of the original, now or when that ends."""
        if isinstance(original, bytes):
            reply = _reply(request, {**json.loads(original), "ts": timestamp(), "repeat": True})
            self._delivery.stage_reply(
                reply,
                origin=request.origin,
                task=request.task_name,
                key=None,
                is_published=not request.reports_on_change,
            )
        elif request.is_redelivery:
            if request.origin.row is not None:
                self._delivery.store.drop(request.origin.row)
        elif self._followers >= MAX_FOLLOWERS:
            message = "too many requests are already waiting for this answer"
            self.end_without_answer(request, Error(code=Code.QUEUE_FULL, message=message, retry_after_s=1.0), now)
        else:
            self._followers += 1
            original.followers.append(request.origin)
        self.duplicates_total += 1

    def send_partial(self, request: Request, delta: str) -> None:
        """Sends a piece of a streamed answer, at most once."""
        document = {
            "id": request.id,
            "task": request.task_name,
            "status": Status.PARTIAL.value,
            "seq": request.partials,
            "delta": delta,
        }
        request.partials += 1
        partial = Publication(
            topic=request.reply_topic,
            payload=encode(document),
            qos=0,
            correlation=request.correlation,
            content_type=JSON,
        )
        self._delivery.send_partial(partial)

    def send_answer(
        self,
        request: Request,
        answer: Answer,
        now: float,
        *,
        model: Model | None,
        limits: Iterable[str],
        energy_j: float | None,
    ) -> None:
        """Ends a request with its answer. `limits` are those in effect, which may have degraded it."""
        assert request.task is not None
        assert request.engine_request is not None
        event, output = answer.event, answer.output
        fields = request.task.config.reply_fields(event)
        answering = None if model is None else _answering_model(model, request.answerer)
        document = self._document(request, Status.OK, now, event=event) | fields
        document |= {
            "output": output,
            "finish": event.finish.value,
            "reasoning": event.reasoning if request.engine_request.includes_reasoning else None,
            "degraded": [
                *(["unsure"] if output is None else []),
                *(["promise-unproven"] if answer.is_unproven else []),
                *event.marks,
                *limits,
            ],
            "fields": [{"field": odd.field, "value": odd.value, "usual": odd.usual} for odd in event.odd_fields]
            or None,
            "model": answering,
            "usage": {
                "prompt_tokens": event.prompt_tokens,
                "cached_tokens": event.cached_tokens,
                "completion_tokens": event.completion_tokens,
                "energy_j": _rounded(energy_j, 3),
            },
        }
        if answer.please_check:
            document["please_check"] = True
        self.odd_inputs.add(request.task_name, event)
        if (config := request.task.config).notable is not None:
            notable, is_notable = self.notable[request.task_name], config.is_notable(output)
            notable.answers_total += 1
            notable.notable_total += is_notable
            self.odd_inputs.add_notable(request.task_name, config.notable, config.max_notable, is_notable=is_notable)
        self.failed_in_a_row = 0
        self._end(request, document, now)
        self.latency_ms.append(document["timing"]["total_ms"])
        self.queued_ms.append(document["timing"]["queued_ms"])
        if answering is not None:
            answers = self.models[answering["name"]]
            answers.answers_total += 1
            answers.latency_ms.append(document["timing"]["total_ms"])
            if energy_j is not None:
                answers.joules += energy_j
                answers.measured += 1

    def end_without_answer(self, request: Request, error: Error, now: float) -> None:
        """Ends a request without an answer, whether it was admitted or not. What another board may answer goes back."""
        if error.code.may_succeed_elsewhere and _has_time(request, now) and self.give_back(request):
            log.info("request given back task=%r code=%s", cut(request.task_name), error.code.value)
            return
        status = error.code.status
        if request.is_logged:
            words = "its reply says why" if error.code in _QUOTING else error.message
            identity = cut(request.id) if isinstance(request.id, str) else request.id
            machine = "" if request.machine is None else f" machine={shown(request.machine)}"
            log.info(
                "request ended task=%r id=%r%s status=%s code=%s: %s",
                cut(request.task_name), identity, machine, status.value, error.code.value, words,
            )  # fmt: skip
        self.displaced_total += status is Status.BUSY and request.number > 0
        self.overloaded_total += error.code in _OVERLOAD
        if error.code is Code.INTERNAL:
            self.failed_in_a_row += 1
            self.last_failure = error.message
        self._end(request, self._document(request, status, now, error=error), now)

    @contextmanager
    def reply_on_exception(self, request: Request, now: float) -> Iterator[None]:
        """Answers this request if the body raises a refusal or, because of a bug, anything else."""
        try:
            yield
        except Refusal as refused:
            self.end_without_answer(request, refused.error, now)
        except Exception:
            message = "the request failed because of a bug in the agent"
            log.exception(message)
            self.end_without_answer(request, Error(code=Code.INTERNAL, message=message), now)

    def give_back(self, request: Request) -> bool:
        """Lets another board answer. Returns False if none can, or enough of them had the request."""
        if request.followers or request.partials:  # These got, or wait for, the answer of this board.
            return False
        if not request.origin.give_back():
            return False
        request.is_answered = True
        self._duplicates.forget_open(request)
        return True

    def _document(
        self, request: Request, status: Status, now: float, *, error: Error | None = None, event: Finished | None = None
    ) -> dict[str, Any]:
        """The terminal reply with every field, null where it does not apply."""
        now = max(now, request.arrived_at)  # It may have arrived during the turn, which began at `now`.
        waited_until = event.started_at if event else min(now, request.started_at)
        return {
            "id": request.id,
            "task": request.task_name,
            **_machine_or_topic(request),
            "device": self._device,
            "ts": timestamp(),
            "status": status.value,
            "output": None,
            "scores": None,
            "finish": None,
            "reasoning": None,
            "error": error
            and {"code": error.code.value, "message": error.message, "retry_after_s": error.retry_after_s},
            "degraded": [],
            "fields": None,
            "repeat": request.origin.is_repeated,
            "model": None,
            "usage": None,
            "timing": {
                "queued_ms": _rounded((waited_until - request.arrived_at) * 1000) if request.number else None,
                "prefill_ms": _rounded(event.prefill_ms) if event else None,
                "decode_ms": _rounded(event.decode_ms) if event else None,
                "total_ms": _rounded((now - request.arrived_at) * 1000),
                "batch": event.batch if event else None,
            },
        }

    def _end(self, request: Request, document: dict[str, Any], now: float) -> None:
        request.is_answered = True
        if request.input is not None and (request.echoes_all or "please_check" in document):
            document["input"] = request.input
        status, reply = Status(document["status"]), _reply(request, document)
        self.ended[status] += 1
        # This comes first, because it forgets an older reply under this key.
        is_repeated = self._duplicates.end(request, status, reply.document, now)
        key = request.key if is_repeated else None
        task, should_publish = request.task_name, self.changes.record(request, document, now)
        self._delivery.stage_reply(reply, origin=request.origin, task=task, key=key, is_published=should_publish)
        self._followers -= len(request.followers)
        if request.followers:
            repeated = _reply(request, {**document, "repeat": True})
            is_published = not request.reports_on_change
            for origin in request.followers:
                self._delivery.stage_reply(repeated, origin=origin, task=task, key=None, is_published=is_published)


def _machine_or_topic(request: Request) -> dict[str, Any]:
    """Where a reading is from, for people who see only the reply. Empty for a request."""
    if request.machine is not None:
        return {"machine": request.machine}
    return {} if request.reading_of is None else {"topic": request.topic}


def _has_time(request: Request, now: float) -> bool:
    """Whether less than half of its time is gone. Later, other boards would be late as well.

    Such requests would go from board to board, and block places for those that can be answered.
    """
    return request.task is None or now - request.arrived_at < (request.deadline_at - request.arrived_at) / 2


def _answering_model(model: Model, answerer: str) -> dict[str, Any]:
    answered_by = next((student for student in model.students if student.name == answerer), model)
    name = model.key if answered_by is model else answerer
    return {"name": name, "sha256": answered_by.sha256, "quantization": answered_by.quantization}


def failure_of(event: Failed | Cancelled) -> Error:
    """Why the worker gave no answer, as the caller gets it."""
    if isinstance(event, Failed):
        return Error(code=event.code, message=event.message)
    return Error(code=Code.INTERNAL, message="the engine cancelled the request without being asked")


def _reply(request: Request, document: dict[str, Any]) -> Reply:
    """The document as the caller gets it: whole, or the output alone."""
    topic, correlation, output = request.reply_topic, request.correlation, document["output"]
    retain = is_retained(request, document)
    if request.error_topic is None:
        return Reply(topic=topic, document=encode(document), correlation=correlation, retain=retain)
    if output is None or "please_check" in document:  # These share one topic, so they say where the caller waits.
        document = {**document, "reply_to": topic}
    if output is None:
        if request.no_output is None or is_superseded(document):
            return Reply(topic=request.error_topic, document=encode(document), correlation=correlation)
        output = request.no_output
    else:
        assert request.task is not None
        output = request.task.config.bare_output(output)
    bare, content_type = (output.encode(), TEXT) if isinstance(output, str) else (encode(output), JSON)
    return Reply(
        topic=topic,
        document=encode(document),
        correlation=correlation,
        output=bare,
        content_type=content_type,
        retain=retain,
    )


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
