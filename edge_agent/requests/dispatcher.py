"""The way of a request: parse, admit, queue, run, reply. Belongs to the agent's thread alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from edge_agent.board.governor import NO_LIMITS, RELAX_S, Limits
from edge_agent.core.clock import Moment, moment
from edge_agent.core.codes import Code, Error, Refusal
from edge_agent.core.config import Config
from edge_agent.core.messages import Message
from edge_agent.core.model import Model
from edge_agent.core.pipe import (
    STUDENT_SLOTS,
    Cancel,
    Command,
    Finished,
    Partial,
    Ready,
    Run,
    TextPlan,
    WorkerAnswer,
)
from edge_agent.core.wording import cut
from edge_agent.requests.answerers import Answerers
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.duplicates import Duplicates
from edge_agent.requests.forecast import Forecast, cost_class_of
from edge_agent.requests.origin import SharedRequest
from edge_agent.requests.parse import RequestParser
from edge_agent.requests.quarantine import Quarantine
from edge_agent.requests.queue import RESTART_RETRY_S, SUPERSEDED, EngineLoad, RequestQueue
from edge_agent.requests.renderer import AskRenderer, Rendered
from edge_agent.requests.replies import Replies, failure_of
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.statistics import percentiles
from edge_agent.requests.tasks import Render, Task
from edge_agent.requests.templates import render

log = logging.getLogger(__name__)

# A request that was running when its worker died is run once more. If that worker dies too, the request may be why.
MAX_ATTEMPTS = 2
# Where more requests wait for their templates than may wait for the model: one template takes at most 0.5 s.
RENDERING_RETRY_S = 1.0


class Dispatcher:
    """Owns the requests that wait and run.

    delivery: stores and sends. send: gives a command to the worker. ask_renderer: as `Renderer.ask`. None blocks.
    answerers: who may answer a request. weights_sha256: identifies the model in force.
    """

    def __init__(
        self,
        config: Config,
        tasks: dict[str, Task],
        delivery: Delivery,
        send: Callable[[Command], object],
        ask_renderer: AskRenderer,
        *,
        answerers: Answerers,
        weights_sha256: str = "",
    ) -> None:
        self.answerers = answerers
        # New requests are refused; those that wait or run are answered.
        self.is_draining = False
        # Why there will be no worker any more.
        self._gave_up_because: str | None = None
        self._delivery = delivery
        self._store = delivery.store
        self._send = send
        self._ask_renderer = ask_renderer
        # Requests whose templates are rendered now, and whether each is of an earlier process.
        self._rendering: dict[Request, bool] = {}
        self._forecast = Forecast()
        self._queue = RequestQueue(config, self._forecast)
        self._active: dict[int, Request] = {}
        self._quarantine = Quarantine(delivery.store)
        self._duplicates = Duplicates(config.queue.dedup_window_s, delivery.store)
        self._replies = Replies(config.device.id, delivery, self._duplicates)
        self._parser = RequestParser(config, tasks, weights_sha256)
        self._accepted = 0
        self._limits = NO_LIMITS
        self._joules_per_busy_s: float | None = None
        # Requests wait, and none is handed to the worker.
        self._is_paused = False
        # How many requests each model runs at once, by its name; empty while there is no worker.
        self._slots: dict[str, int] = {}
        self._model: Model | None = None
        # While there is no worker: when there will be one; None = unknown.
        self._ready_at: float | None = None

    @property
    def active(self) -> int:
        """How many requests run."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue.waiting) + len(self._rendering)

    @property
    def is_idle(self) -> bool:
        return not self._active and not self.waiting

    def receive(self, message: Message, now: float) -> bool:
        """Takes one message from the data connection. Each request in it is answered, now or later.

        False: it is for no task; the broker may remember subscriptions of an earlier configuration.
        """
        requests = self._parser.parse(message)
        for request in requests:
            if message.qos and request.refusal is None:
                row = self._store.accept(message, request.task_name, moment(message.received_at))
                request.origin = self._delivery.row(row)
            elif message.qos:  # it may be large, and is not written: it is answered before the next commit
                request.origin = self._delivery.row(self._store.new_row())
            with self._answering_faults(request, now):
                self._admit(request, now)
        self.fill_slots(now)
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
        with self._answering_faults(request, now):
            self._admit(request, now)
        self.fill_slots(now)

    @property
    def spare_slots(self) -> int:
        """How many shared requests this board can run at once, besides its own.

        None of them while it refuses requests because it is hot or short of memory: other boards are better off.
        """
        if self.is_draining or self._is_paused or self._limits.lowest_priority is not None:
            return 0
        here = (*self._rendering, *self._queue.waiting, *self._active.values())
        own = sum(not isinstance(request.origin, SharedRequest) for request in here)
        return max(0, self._allowed_slots(LARGE) - own)

    def recover(self, now: Moment) -> None:
        """Takes over from earlier processes: their replies are repeated, their requests are run."""
        self._quarantine.restore()
        self._duplicates.restore(now)
        for stored in self._store.unanswered(now):
            try:
                request = self._parser.parse_stored(stored)
            except Exception:  # it would fail again at each start, and keep the board off the bus
                log.exception("a stored request cannot be read row=%s", stored.row)
                self._store.drop(stored.row)
                continue
            request.origin = self._delivery.row(stored.row)
            with self._answering_faults(request, now.monotonic_s):
                self._admit(request, now.monotonic_s, is_recovered=True)
        self.fill_slots(now.monotonic_s)

    @contextmanager
    def _answering_faults(self, request: Request, now: float) -> Iterator[None]:
        """A refusal, or a fault of ours, ends this request and no more."""
        try:
            yield
        except Refusal as refused:
            self._replies.refuse(request, refused.error, now)
        except Exception:
            message = "the request met a fault of the agent"
            log.exception(message)
            self._active.pop(request.number, None)
            self._replies.refuse(request, Error(code=Code.INTERNAL, message=message), now)

    def _admit(self, request: Request, now: float, *, is_recovered: bool = False) -> None:
        """Queues a request, joins it to an equal one, or repeats a known reply. Raises Refusal."""
        twin = self._duplicates.find(request, now)
        if twin is not None:
            self._replies.join_or_repeat(request, twin, now)
            return
        if request.refusal is not None:
            self._replies.refuse(request, request.refusal, now)
            return
        if request.deadline_at <= now:
            raise Refusal(Code.DEADLINE, f"{request.deadline} has passed")
        if self._gave_up_because is not None:
            raise Refusal(Code.LOADING, self._gave_up_because, RESTART_RETRY_S)
        assert request.task is not None
        assert request.envelope is not None
        refused_because = None
        if not is_recovered:
            if self.is_draining:
                raise Refusal(Code.DRAINING, "the agent is draining and takes no new requests", RESTART_RETRY_S)
            refused_because = self._limits.refusal(request.priority)
        answerer = self.answerers.next(request, None, is_large_refused=refused_because is not None)
        if refused_because is not None and answerer == LARGE:
            message = f"priority {request.priority} is not urgent enough while {self._limits.reason}"
            raise Refusal(refused_because, message, RELAX_S)
        if not is_recovered:
            self._queue.count_for_rates(request, now)
        request.answerer = answerer or LARGE
        if not request.task.needs_renderer(request.envelope.input):
            self._queue_with_text(request, render, now, is_recovered=is_recovered)
            return
        if len(self._rendering) >= self._queue.capacity and not is_recovered:
            message = f"{self._queue.capacity} requests wait for their templates already"
            raise Refusal(Code.QUEUE_FULL, message, RENDERING_RETRY_S)
        self._rendering[request] = is_recovered
        self._duplicates.begin(request)
        self._ask_renderer(request, request.task.config.template, request.envelope.input)

    def on_rendered(self, rendered: Rendered, now: float) -> None:
        """A template over an input is there, or why it is not: the request is queued, unless it has ended."""
        request = rendered.request
        if (is_recovered := self._rendering.pop(request, None)) is not None:
            with self._answering_faults(request, now):
                self._queue_with_text(request, rendered.text, now, is_recovered=is_recovered)
            self.fill_slots(now)

    def _queue_with_text(self, request: Request, render: Render, now: float, *, is_recovered: bool) -> None:
        """The second half of the admission. Raises Refusal."""
        assert request.task is not None
        assert request.envelope is not None
        number = self._accepted + 1
        request.run = request.task.make_run(number, request.envelope, render)
        _ask(request, request.answerer)
        request.order = (request.priority, isinstance(request.origin, SharedRequest), request.deadline_at, number)
        request.envelope = None
        self._quarantine.check(request.run)
        leaving: list[tuple[Request, Error]] = []
        if is_recovered or request.is_repeated:
            # Its caller may have the beginning of a stream already: pieces are not stored.
            request.run = replace(request.run, stream=False)
        if is_recovered:
            self._queue.put(request)
        else:
            leaving = self._queue.admit(request, self._engine_load(now, request.answerer), now)
        self._accepted = request.number = number
        self._duplicates.begin(request)
        for other, error in leaving:
            self._replies.refuse(other, error, now)

    def _engine_load(self, now: float, model: str = LARGE) -> EngineLoad:
        active = [request for request in self._active.values() if request.answerer == model]
        at_once = len(active)
        # The worker stops what is answered already at its next step.
        running = [request for request in active if not request.is_answered]
        left_s = (self._forecast.share_s(one.cost_class) - (now - one.started_at) / at_once for one in running)
        work_s = sum(max(0.0, one_s) for one_s in left_s)
        loading_s = None if self._slots or self._ready_at is None else max(0.0, self._ready_at - now)
        return EngineLoad(slots=self._allowed_slots(model), running=at_once, work_s=work_s, loading_s=loading_s)

    def _allowed_slots(self, model: str) -> int:
        """How many requests this model may run at once."""
        slots = self._slots.get(model, 0)
        return slots if self._limits.max_active is None else min(slots, self._limits.max_active)

    def _free_models(self) -> set[str]:
        running = Counter(request.answerer for request in self._active.values())
        return {model for model in self._slots if running[model] < self._allowed_slots(model)}

    def fill_slots(self, now: float) -> None:
        """Hands waiting requests to the free slots of the worker.

        A request that ran when a worker died runs alone the second time. If it is the cause, no other request pays.
        """
        self.expire_overdue(now)
        while self._queue.waiting and not self._is_paused:
            active = self._active.values()
            if any(request.attempts == MAX_ATTEMPTS for request in active):
                return
            request = self._queue.take(self._free_models(), first_attempts_only=bool(active))
            if request is None:
                return
            self._start(request, now)

    def _start(self, request: Request, now: float) -> None:
        assert request.run is not None
        request.started_at, request.model = now, self._model
        request.attempts += 1
        self._active[request.number] = request
        with self._answering_faults(request, now):
            self._send(self._limited(request.run))

    def _limited(self, run: Run) -> Run:
        """Text may be shorter than asked for; an object that is cut off would be worthless."""
        limit = self._limits.max_tokens
        if limit is None or run.max_tokens <= limit or not isinstance(run.plan, TextPlan):
            return run
        thought = run.max_reasoning_tokens
        return replace(
            run, max_tokens=limit, max_reasoning_tokens=None if thought is None else min(thought, limit // 2)
        )

    def send_partial(self, event: Partial) -> None:
        """Passes a piece of a streamed answer on."""
        request = self._active.get(event.id)
        if request is not None and not request.is_answered:
            self._replies.send_partial(request, event.delta)

    def finish(self, event: WorkerAnswer, now: float) -> None:
        """The worker is done with a request: its slot is free, and the caller gets the answer."""
        request = self._active.pop(event.id, None)
        if request is not None:
            if isinstance(event, Finished):
                run_s = now - request.started_at
                self._forecast.measure(request.cost_class, share_s=event.share_s, run_s=run_s, now=now)
            if not request.is_answered:
                with self._answering_faults(request, now):
                    self._ask_next_or_answer(request, event, now)
        self.fill_slots(now)

    def _ask_next_or_answer(self, request: Request, event: WorkerAnswer, now: float) -> None:
        refused_because = self._limits.refusal(request.priority)
        answerer = self.answerers.next(request, event, is_large_refused=refused_because is not None)
        if answerer is None:
            self._answer(request, event, now)
            return
        if refused_because is not None:
            message = f"{request.answerer} is not sure, and the model takes no such request now"
            raise Refusal(refused_because, message, RELAX_S)
        if self._queue.has_newer(request):
            self._replies.refuse(request, SUPERSEDED, now)
            return
        if isinstance(event, Finished):
            request.earlier_share_s += event.share_s
        request.attempts = 0
        _ask(request, answerer)
        # As if the request came now.
        for other, error in self._queue.admit(request, self._engine_load(now, answerer), now):
            self._replies.refuse(other, error, now)

    def _answer(self, request: Request, event: WorkerAnswer, now: float) -> None:
        if request.deadline_at <= now:  # before `expire_overdue` saw it
            self._replies.refuse(request, _deadline_passed(request), now)
        elif not isinstance(event, Finished):
            self._replies.refuse(request, failure_of(event), now)
        else:
            rate = self._joules_per_busy_s
            energy_j = None if rate is None else rate * (event.share_s + request.earlier_share_s)
            answer = self.answerers.finish(request, event, now)
            self._replies.finish(request, answer, now, limits=self._limits.causes, energy_j=energy_j)

    def expire_overdue(self, now: float) -> None:
        """Answers every request past its deadline, waiting or running."""
        if self._queue.waiting or self._rendering:
            for request in self._remove_waiting(lambda request: request.deadline_at <= now):
                self._replies.refuse(request, _deadline_passed(request), now)
        for request in list(self._active.values()):
            if request.deadline_at <= now and not request.is_answered:
                run_s = now - request.started_at
                self._forecast.measure_cut_off(request.cost_class, run_s=run_s, at_once=len(self._active), now=now)
                self._abandon(request, _deadline_passed(request), now)

    def _remove_waiting(self, is_unwanted: Callable[[Request], bool]) -> list[Request]:
        """Takes out every request that does not run yet and for which this is true."""
        removed = [request for request in self._rendering if is_unwanted(request)]
        for request in removed:
            del self._rendering[request]
        return [*self._queue.remove_where(is_unwanted), *removed]

    def next_wake_up_at(self) -> float | None:
        """When `expire_overdue` next has something to do."""
        requests = (*self._rendering, *self._queue.waiting, *self._active.values())
        return min((request.deadline_at for request in requests if not request.is_answered), default=None)

    def cancel(
        self,
        message: str,
        now: float,
        *,
        request_id: str | int | None = None,
        reply_topic: str | None = None,
        gives_back: bool = False,
    ) -> int:
        """Cancels what waits and runs, with this id and to this reply topic; None = any. Returns how many requests.

        gives_back: requests of the pool are left to other boards instead.
        """

        def is_meant(request: Request) -> bool:
            return request_id in (None, request.id) and reply_topic in (None, request.reply_topic)

        error = Error(code=Code.CANCELLED, message=message)
        waiting = self._remove_waiting(is_meant)
        running = [request for request in self._active.values() if not request.is_answered and is_meant(request)]
        for request in running:
            self._send(Cancel(id=request.number))
        for request in (*waiting, *running):
            if not (gives_back and self._replies.give_back(request)):
                self._replies.refuse(request, error, now)
        return len(waiting) + len(running)

    def _abandon(self, request: Request, error: Error, now: float) -> None:
        """Answers a running request at once; its slot is free when the worker has stopped it."""
        self._send(Cancel(id=request.number))
        self._replies.refuse(request, error, now)

    def on_worker_ready(self, model: Model, ready: Ready, now: float) -> None:
        """A worker answers with this model: it gets the requests that wait."""
        self._model = model
        self._slots = {LARGE: ready.max_active, **{student.name: STUDENT_SLOTS for student in model.students}}
        for request in (*self._rendering, *self._queue.waiting):
            # Another model may have others beside it.
            _ask(request, self.answerers.next(request, None, is_large_refused=False))
        self.fill_slots(now)

    def on_worker_lost(self, reason: str, now: float, *, ready_at: float | None = None) -> None:
        """There is no worker. The requests that ran are run once more by the next one, and then given up.

        ready_at: when the next one will be ready, None = unknown. Newcomers with an earlier deadline are refused.
        """
        self._slots = {}
        self._ready_at = ready_at
        lost, self._active = self._active, {}
        for request in lost.values():
            assert request.run is not None
            if request.is_answered:
                continue
            if request.attempts < MAX_ATTEMPTS:
                if request.partials:  # its caller has the beginning already
                    request.run = replace(request.run, stream=False)
                self._queue.put(request)
            else:
                self._quarantine.hold(request.run)
                error = Error(code=Code.ENGINE_LOST, message=f"the engine was lost twice with this request: {reason}")
                self._replies.refuse(request, error, now)

    def on_model_replaced(self, model: Model) -> None:
        """A worker of another model takes over; nothing runs. What the other one answered is not repeated."""
        self._parser.model = model.weights_sha256
        self._forecast.clear()
        self._is_paused = False
        self.answerers.set_model(model)

    def release_quarantined(self, fingerprint: str) -> bool:
        """Lets the input run again. False: no input with this fingerprint is quarantined."""
        self._duplicates.forget_refusals()
        return self._quarantine.release(fingerprint)

    def give_up(self, reason: str, now: float) -> None:
        """There will be no worker: every request, waiting or new, is answered with this reason."""
        self._gave_up_because = reason
        error = Error(code=Code.ENGINE_LOST, message=reason)
        for request in self._remove_waiting(lambda _: True):
            self._replies.refuse(request, error, now)

    def pause(self) -> None:
        """Hands no request to the worker until `unpause`: all of them wait."""
        self._is_paused = True

    def unpause(self, now: float) -> None:
        """Hands requests to the worker again."""
        self._is_paused = False
        self.fill_slots(now)

    def apply_limits(self, limits: Limits) -> None:
        """Holds for what is admitted, started and answered from now on."""
        self._limits = limits

    def set_energy_rate(self, joules_per_busy_s: float | None) -> None:
        """What a second of the engine's working time costs, for `energy_j`; None = unknown."""
        self._joules_per_busy_s = joules_per_busy_s

    def reconfigure(self, config: Config, tasks: dict[str, Task]) -> None:
        """New tasks and limits; requests that wait or run keep what they came with."""
        self._parser = RequestParser(config, tasks, self._parser.model)
        self._queue.reconfigure(config)
        self._duplicates.reconfigure(config.queue.dedup_window_s)

    def as_health(self, now: float) -> dict[str, Any]:
        """Times are milliseconds; what nothing was measured of is null."""
        replies, totals = self._replies, self._replies.totals
        return {
            "queue": {
                "depth": len(self._queue.waiting),
                "capacity": self._queue.capacity,
                "oldest_ms": self._queue.oldest_ms(now),
                "estimated_wait_ms": self._queue.estimated_wait_ms(self._engine_load(now)),
                "accepted_total": self._accepted,
                "rejected_total": totals.rejected_total,
                "displaced_total": totals.displaced_total,
                "expired_total": totals.expired_total,
                "duplicates_total": totals.duplicates_total,
            },
            "quarantine": [asdict(input_) for input_ in self._quarantine.entries],
            "inference": {
                "active": len(self._active),
                "latency_ms": percentiles(replies.latency_ms, 50, 95, 99),
                "queued_ms": percentiles(replies.queued_ms, 50, 95),
                "requests_total": totals.requests_total,
                "failed_total": totals.failed_total,
                "invalid_total": totals.invalid_total,
                "models": {name: answers.describe() for name, answers in replies.models.items()},
            },
        }

    def reasons(self) -> dict[str, bool]:
        """By reason of health, whether it holds."""
        return {
            "requests-in-memory-only": self._store.fault is not None,
            "requests-lost": self._store.set_aside is not None,
            "draining": self.is_draining,
            "queue-full": len(self._queue.waiting) >= self._queue.capacity,
        }

    @property
    def overloaded_total(self) -> int:
        """Refusals since the agent's start because more is asked than can be answered."""
        return self._replies.totals.overloaded_total


def _deadline_passed(request: Request) -> Error:
    return Error(code=Code.DEADLINE, message=f"{request.deadline} has passed")


def _ask(request: Request, answerer: str | None) -> None:
    request.answerer = answerer or LARGE
    if request.run is not None:
        request.run = replace(request.run, student=answerer or None)
        request.cost_class = cost_class_of(request.run)
