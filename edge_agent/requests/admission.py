"""The first half of a request's life: parsed, then refused, joined to an equal request, or rendered and queued."""

import logging
from dataclasses import replace

from edge_agent.board.governor import RELAX_S
from edge_agent.core.clock import Moment, moment
from edge_agent.core.codes import Code, Error, Refusal
from edge_agent.core.config import Config
from edge_agent.core.messages import Message
from edge_agent.core.model import Model
from edge_agent.core.wording import cut
from edge_agent.requests.answerers import Answerers, route_to
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.duplicates import Duplicates
from edge_agent.requests.origin import SharedRequest
from edge_agent.requests.parse import RequestParser
from edge_agent.requests.quarantine import Quarantine
from edge_agent.requests.queue import RESTART_RETRY_S, SUPERSEDED, RequestQueue
from edge_agent.requests.renderer import AskRenderer, Rendered
from edge_agent.requests.replies import Replies
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.slots import Slots
from edge_agent.requests.tasks import Render, Task
from edge_agent.requests.templates import render

log = logging.getLogger(__name__)

# For when more requests wait for their templates than may wait for the model. One template takes at most 0.5 s.
RENDERING_RETRY_S = 1.0


class Admission:
    """Answers what it does not admit. `ask_renderer` is as `Renderer.ask`."""

    def __init__(
        self,
        config: Config,
        tasks: dict[str, Task],
        delivery: Delivery,
        queue: RequestQueue,
        slots: Slots,
        ask_renderer: AskRenderer,
        *,
        answerers: Answerers,
        weights_sha256: str,
    ) -> None:
        self.answerers = answerers
        self.quarantine = Quarantine(delivery.store)
        self._duplicates = Duplicates(config.queue.dedup_window_s, delivery.store)
        self.replies = Replies(config.device.id, delivery, self._duplicates)
        self.accepted_total = 0
        self.is_draining = False  # New requests are refused; those that wait or run are answered.
        self.gave_up_because: str | None = None  # Why there will be no worker any more.
        # Requests whose templates are rendered now, and whether each is of an earlier process.
        self.rendering: dict[Request, bool] = {}
        self._delivery = delivery
        self._store = delivery.store
        self._queue = queue
        self._slots = slots
        self._ask_renderer = ask_renderer
        self._parser = RequestParser(config, tasks, weights_sha256)

    def reconfigure(self, config: Config, tasks: dict[str, Task]) -> None:
        self._parser = RequestParser(config, tasks, self._parser.weights_sha256)
        self._duplicates.reconfigure(config.queue.dedup_window_s)
        self.replies.changes.clear()

    def on_model_replaced(self, model: Model) -> None:
        """Takes another model. The earlier one's answers are not repeated, because a request's key has the weights."""
        self._parser.weights_sha256 = model.weights_sha256
        self.answerers.set_model(model)

    def release_quarantined(self, fingerprint: str) -> bool:
        """Lets the input run again. Returns False if no input with this fingerprint is quarantined."""
        self._duplicates.forget_refusals()
        return self.quarantine.release(fingerprint)

    def receive(self, message: Message, now: float) -> bool:
        """Takes one message from the data connection. Each request in it is answered, now or later.

        Returns False if it is for no task, as the broker may remember subscriptions of an earlier configuration.
        """
        requests = self._parser.parse(message)
        for request in requests:
            if message.qos and request.refusal is None:
                row = self._store.accept(message, request.task_name, moment(message.received_at))
                request.origin = self._delivery.origin_of_row(row)
            elif message.qos:  # It may be large, and is not written, because it is answered before the next commit.
                request.origin = self._delivery.origin_of_row(self._store.new_row())
            with self.replies.reply_on_exception(request, now):
                self._admit(request, now)
        return bool(requests)

    def receive_shared(self, shared: SharedRequest, now: float) -> None:
        """Takes a request that other boards could answer, too. It is answered or given back."""
        try:
            request = self._parser.parse_shared(shared)
        except Exception:
            log.exception("a shared request cannot be read topic=%r", cut(shared.message.topic))
            if not shared.give_back():
                shared.settle()
            return
        with self.replies.reply_on_exception(request, now):
            self._admit(request, now)

    def recover(self, now: Moment) -> None:
        """Takes over from earlier processes: their replies are repeated, and their requests are run."""
        self.quarantine.restore()
        self._duplicates.restore(now)
        for stored in self._store.unanswered(now):
            try:
                request = self._parser.parse_stored(stored)
            except Exception:  # It would fail again at each start, and keep the board off the bus.
                log.exception("a stored request cannot be read row=%s", stored.row)
                self._store.drop(stored.row)
                continue
            request.origin = self._delivery.origin_of_row(stored.row)
            with self.replies.reply_on_exception(request, now.monotonic_s):
                self._admit(request, now.monotonic_s, is_recovered=True)

    def _admit(self, request: Request, now: float, *, is_recovered: bool = False) -> None:
        """Queues a request, joins it to an equal one, or repeats a known reply. Raises Refusal."""
        original = self._duplicates.find(request, now)
        if original is not None:
            self.replies.join_or_repeat(request, original, now)
            return
        if request.refusal is not None:
            self.replies.end_without_answer(request, request.refusal, now)
            return
        if request.deadline_at <= now:
            raise Refusal(Code.DEADLINE, f"{request.deadline} has passed")
        if self.gave_up_because is not None:
            raise Refusal(Code.LOADING, self.gave_up_because, RESTART_RETRY_S)
        assert request.task is not None
        assert request.envelope is not None
        if not self.answerers.reads_fields:
            request.task.check_required(request.envelope.input)
        refused_because = None
        if not is_recovered:
            if self.is_draining:
                raise Refusal(Code.DRAINING, "the agent is draining and accepts no new requests", RESTART_RETRY_S)
            refused_because = self._slots.limits.refusal(request.priority)
        answerer = self.answerers.first(request, is_large_refused=refused_because is not None)
        if refused_because is not None and answerer == LARGE:
            message = f"priority {request.priority} is not urgent enough while {self._slots.limits.reason}"
            raise Refusal(refused_because, message, RELAX_S)
        if not is_recovered:
            self._queue.count_for_rates(request, now)
        request.answerer = answerer
        if not request.task.needs_renderer(request.envelope.input):
            self._queue_with_text(request, render, now, is_recovered=is_recovered)
            self._supersede_rendering(request, now)
            return
        if len(self.rendering) >= self._queue.capacity and not is_recovered:
            self._displace_rendering(request, now)
        self.rendering[request] = is_recovered
        self._duplicates.begin(request)
        self._ask_renderer(request, request.task.config.template, request.envelope.input)

    def _displace_rendering(self, newcomer: Request, now: float) -> None:
        """Ends the last of the least urgent. Raises Refusal if none is less urgent than the newcomer."""
        last = max(reversed(self.rendering), key=lambda request: request.priority)
        message = f"{self._queue.capacity} requests are already waiting for their templates"
        if last.priority <= newcomer.priority:
            raise Refusal(Code.QUEUE_FULL, message, RENDERING_RETRY_S)
        del self.rendering[last]
        message = f"displaced by a more urgent request: {message}"
        error = Error(code=Code.QUEUE_FULL, message=message, retry_after_s=RENDERING_RETRY_S)
        self.replies.end_without_answer(last, error, now)

    def _supersede_rendering(self, newer: Request, now: float) -> None:
        """Ends older readings of its source, which would supersede it once they are rendered."""
        if newer.source is None:
            return
        for request in [request for request in self.rendering if request.source == newer.source]:
            del self.rendering[request]
            self.replies.end_without_answer(request, SUPERSEDED, now)

    def on_rendered(self, rendered: Rendered, now: float) -> None:
        """Queues a request whose template was rendered, or answers why it was not. Ignores one that has ended."""
        request = rendered.request
        if (is_recovered := self.rendering.pop(request, None)) is not None:
            with self.replies.reply_on_exception(request, now):
                self._queue_with_text(request, rendered.text, now, is_recovered=is_recovered)

    def _queue_with_text(self, request: Request, render: Render, now: float, *, is_recovered: bool) -> None:
        """The second half of the admission. Raises Refusal."""
        assert request.task is not None
        assert request.envelope is not None
        number = self.accepted_total + 1
        request.engine_request = request.task.build_engine_request(number, request.envelope, render)
        route_to(request, request.answerer)
        request.order = (request.priority, isinstance(request.origin, SharedRequest), request.deadline_at, number)
        request.envelope = None
        self.quarantine.check(request.engine_request)
        leaving: list[tuple[Request, Error]] = []
        if is_recovered or request.origin.is_repeated:
            # Its caller may already have the beginning of a stream, because pieces are not stored.
            request.engine_request = replace(request.engine_request, stream=False)
        if is_recovered:
            self._queue.put(request)
        else:
            leaving = self._queue.admit(request, self._slots.engine_load(now, request.answerer), now)
        self.accepted_total = request.number = number
        self._duplicates.begin(request)
        for other, error in leaving:
            self.replies.end_without_answer(other, error, now)
