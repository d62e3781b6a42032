"""The second half of a request's life: admitted, it is run and answered. Belongs to the agent's thread alone."""

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from edge_agent.board.governor import RELAX_S
from edge_agent.core.codes import Code, Error, Refusal, Status
from edge_agent.core.config import Config
from edge_agent.core.kinds.registry import BUILT_IN_TASK
from edge_agent.core.model import Model
from edge_agent.core.pipe import (
    Cancel,
    Command,
    EngineRequest,
    Finished,
    Partial,
    Ready,
    TextPlan,
    WorkerAnswer,
)
from edge_agent.requests.admission import Admission
from edge_agent.requests.answerers import Answerers, route_to
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.forecast import Forecast
from edge_agent.requests.origin import SharedRequest
from edge_agent.requests.queue import SUPERSEDED, RequestQueue
from edge_agent.requests.renderer import AskRenderer
from edge_agent.requests.replies import failure_of
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.slots import Slots
from edge_agent.requests.statistics import percentiles
from edge_agent.requests.tasks import Task

log = logging.getLogger(__name__)

# A request that was running when its worker died is run once more. If that worker dies too, the request may be why.
MAX_ATTEMPTS = 2


class Dispatcher:
    """Owns the requests that wait and run.

    `delivery` stores and sends, `send` gives a command to the worker, and `ask_renderer` is as `Renderer.ask`; none of
    them blocks. `answerers` says who may answer a request. `weights_sha256` identifies the model in force.
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
        self._delivery = delivery
        self._store = delivery.store
        self._send = send
        self._forecast = Forecast()
        self._tasks = tasks
        self._queue = RequestQueue(config, self._forecast)
        self.slots = Slots(self._forecast)
        self.admission = Admission(
            config,
            tasks,
            delivery,
            self._queue,
            self.slots,
            ask_renderer,
            answerers=answerers,
            weights_sha256=weights_sha256,
        )
        self.replies = self.admission.replies
        self.joules_per_busy_s: float | None = None  # What a second of the engine's working time costs, if it is known.
        self.is_paused = False  # All requests wait, and none is handed to the worker.

    @property
    def active(self) -> int:
        """How many requests run."""
        return len(self.slots.active)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue.waiting) + len(self.admission.rendering)

    @property
    def is_idle(self) -> bool:
        return not self.slots.active and not self.waiting

    @property
    def spare_slots(self) -> int:
        """How many shared requests this board can run at once, besides its own.

        It is 0 while the agent drains, is paused or refuses requests to protect the board; other boards can answer
        then.
        """
        if self.admission.is_draining or self.is_paused or self.slots.limits.lowest_priority is not None:
            return 0
        here = (*self.admission.rendering, *self._queue.waiting, *self.slots.active.values())
        own = sum(not isinstance(request.origin, SharedRequest) for request in here)
        return max(0, self.slots.capacity_of(LARGE) - own)

    def fill_slots(self, now: float) -> None:
        """Hands waiting requests to the free slots of the worker; to be called after each event.

        A request that ran when a worker died runs alone the second time. If it is the cause, no other request pays.
        """
        self.expire_overdue(now)
        while self._queue.waiting and not self.is_paused:
            active = self.slots.active.values()
            if any(request.attempts == MAX_ATTEMPTS for request in active):
                return
            request = self._queue.take(self.slots.free_models(), first_attempts_only=bool(active))
            if request is None:
                return
            self._start(request, now)

    def _start(self, request: Request, now: float) -> None:
        assert request.engine_request is not None
        request.started_at = now
        request.attempts += 1
        with self.replies.reply_on_exception(request, now):
            self._send(self._limited(request.engine_request))
            self.slots.active[request.number] = request

    def _limited(self, engine_request: EngineRequest) -> EngineRequest:
        """Limits text, which may be shorter than asked for, but no object: one that is cut off would be worthless."""
        limit = self.slots.limits.max_tokens
        if limit is None or engine_request.max_tokens <= limit or not isinstance(engine_request.plan, TextPlan):
            return engine_request
        thought = engine_request.max_reasoning_tokens
        return replace(
            engine_request, max_tokens=limit, max_reasoning_tokens=None if thought is None else min(thought, limit // 2)
        )

    def send_partial(self, event: Partial) -> None:
        """Passes a piece of a streamed answer on."""
        request = self.slots.active.get(event.id)
        if request is not None and not request.is_answered:
            self.replies.send_partial(request, event.delta)

    def on_worker_answer(self, event: WorkerAnswer, now: float) -> None:
        """Frees the slot of a request that the worker is done with, and gives the caller the answer."""
        request = self.slots.active.pop(event.id, None)
        if request is not None:
            if isinstance(event, Finished):
                run_s = now - request.started_at
                self._forecast.record_run(request.cost_class, engine_time_s=event.engine_time_s, run_s=run_s, now=now)
            if not request.is_answered:
                with self.replies.reply_on_exception(request, now):
                    self._ask_next_or_answer(request, event, now)
        self.fill_slots(now)

    def _ask_next_or_answer(self, request: Request, event: WorkerAnswer, now: float) -> None:
        refused_because = self.slots.limits.refusal(request.priority)
        answerer = self.admission.answerers.next(request, event, is_large_refused=refused_because is not None)
        if answerer is None:
            self._answer(request, event, now)
            return
        if answerer == LARGE and refused_because is not None:
            message = f"{request.answerer} is not sure, and the large model accepts no such request at the moment"
            raise Refusal(refused_because, message, RELAX_S)
        if self._queue.has_newer(request):
            self.replies.end_without_answer(request, SUPERSEDED, now)
            return
        if isinstance(event, Finished):
            request.earlier_engine_time_s += event.engine_time_s
        request.attempts = 0
        route_to(request, answerer)
        # It goes on as if the request came now.
        for other, error in self._queue.admit(request, self.slots.engine_load(now, answerer), now):
            self.replies.end_without_answer(other, error, now)

    def _answer(self, request: Request, event: WorkerAnswer, now: float) -> None:
        if request.deadline_at <= now:  # `expire_overdue` has not seen it yet.
            self.replies.end_without_answer(request, _deadline_passed(request), now)
        elif not isinstance(event, Finished):
            self.replies.end_without_answer(request, failure_of(event), now)
        else:
            rate = self.joules_per_busy_s
            energy_j = None if rate is None else rate * (event.engine_time_s + request.earlier_engine_time_s)
            answer = self.admission.answerers.final_answer(request, event, now)
            limits = self.slots.limits.causes
            self.replies.send_answer(request, answer, now, model=self.slots.model, limits=limits, energy_j=energy_j)

    def expire_overdue(self, now: float) -> None:
        """Answers every request past its deadline, waiting or running."""
        if self._queue.waiting or self.admission.rendering:
            for request in self._remove_waiting(lambda request: request.deadline_at <= now):
                self.replies.end_without_answer(request, _deadline_passed(request), now)
        for request in list(self.slots.active.values()):
            if request.deadline_at <= now and not request.is_answered:
                run_s = now - request.started_at
                self._forecast.record_cut_off(request.cost_class, run_s=run_s, at_once=len(self.slots.active), now=now)
                # Its slot is free when the worker has stopped it.
                self._send(Cancel(id=request.number))
                self.replies.end_without_answer(request, _deadline_passed(request), now)

    def _remove_waiting(self, is_unwanted: Callable[[Request], bool]) -> list[Request]:
        """Takes out every request that does not run yet and for which this is true."""
        removed = [request for request in self.admission.rendering if is_unwanted(request)]
        for request in removed:
            del self.admission.rendering[request]
        return [*self._queue.remove_where(is_unwanted), *removed]

    def next_wake_up_at(self) -> float | None:
        """When `expire_overdue` next has something to do."""
        requests = (*self.admission.rendering, *self._queue.waiting, *self.slots.active.values())
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
        """Cancels what waits and runs, with this id and to this reply topic (None for any). Returns how many requests.

        With `gives_back`, requests of the pool are left to other boards instead.
        """

        def is_meant(request: Request) -> bool:
            return request_id in (None, request.id) and reply_topic in (None, request.reply_topic)

        error = Error(code=Code.CANCELLED, message=message)
        waiting = self._remove_waiting(is_meant)
        running = [request for request in self.slots.active.values() if not request.is_answered and is_meant(request)]
        for request in running:
            self._send(Cancel(id=request.number))
        for request in (*waiting, *running):
            if not (gives_back and self.replies.give_back(request)):
                self.replies.end_without_answer(request, error, now)
        return len(waiting) + len(running)

    def on_worker_ready(self, model: Model, ready: Ready, now: float) -> None:
        """Gives the requests that wait to a worker that answers with this model."""
        self.slots.on_worker_ready(model, ready)
        for request in (*self.admission.rendering, *self._queue.waiting):
            # Another bundle may have other students.
            with self.replies.reply_on_exception(request, now):
                route_to(request, self.admission.answerers.first(request, is_large_refused=False))
        self._remove_waiting(lambda request: request.is_answered)
        self.fill_slots(now)

    def on_worker_lost(self, reason: str, now: float, *, ready_at: float | None = None) -> None:
        """Has the requests that ran run once more by the next worker; after that, they are given up.

        `ready_at` is when that one will be ready, None if unknown. Newcomers with an earlier deadline are refused.
        """
        for request in self.slots.on_worker_lost(ready_at):
            assert request.engine_request is not None
            if request.is_answered:
                continue
            if request.attempts < MAX_ATTEMPTS:
                if request.partials:  # Its caller already has the beginning.
                    request.engine_request = replace(request.engine_request, stream=False)
                self._queue.put(request)
            else:
                self.admission.quarantine.hold(request.engine_request)
                error = Error(code=Code.ENGINE_LOST, message=f"the engine was lost twice with this request: {reason}")
                self.replies.end_without_answer(request, error, now)

    def on_model_replaced(self, model: Model) -> None:
        """Has a worker of another model take over while nothing runs. The earlier model's answers are not repeated."""
        self.admission.on_model_replaced(model)
        self.replies.odd_inputs.clear()
        self._forecast.clear()
        self.is_paused = False

    def give_up(self, reason: str, now: float) -> None:
        """Answers every request, waiting or new, with this reason, because there will be no worker."""
        self.admission.gave_up_because = reason
        error = Error(code=Code.ENGINE_LOST, message=reason)
        for request in self._remove_waiting(lambda _: True):
            self.replies.end_without_answer(request, error, now)

    def reconfigure(self, config: Config, tasks: dict[str, Task]) -> None:
        """Takes new tasks and limits; requests that wait or run keep what they came with."""
        self._tasks = tasks
        self.admission.reconfigure(config, tasks)
        self._queue.reconfigure(config)

    def unserved_tasks(self, model: Model) -> list[str]:
        """The configured tasks for which this model's bundle has no model."""
        return [name for name, task in self._tasks.items() if name != BUILT_IN_TASK and not task.is_served_by(model)]

    def as_health(self, now: float) -> dict[str, Any]:
        """Times are in milliseconds; figures that were not measured are null."""
        replies, ended = self.replies, self.replies.ended
        return {
            "queue": {
                "depth": len(self._queue.waiting),
                "capacity": self._queue.capacity,
                "oldest_ms": self._queue.oldest_ms(now),
                "estimated_wait_ms": self._queue.estimated_wait_ms(self.slots.engine_load(now)),
                "accepted_total": self.admission.accepted_total,
                "rejected_total": ended[Status.BUSY],
                "displaced_total": replies.displaced_total,
                "expired_total": ended[Status.EXPIRED],
                "duplicates_total": replies.duplicates_total,
            },
            "quarantine": [asdict(input_) for input_ in self.admission.quarantine.entries],
            "inference": {
                "active": len(self.slots.active),
                "latency_ms": percentiles(replies.latency_ms, 50, 95, 99),
                "queued_ms": percentiles(replies.queued_ms, 50, 95),
                "requests_total": ended.total(),
                "failed_total": ended[Status.FAILED],
                "invalid_total": ended[Status.INVALID],
                "models": {name: answers.describe() for name, answers in replies.models.items()},
                "notable": {task: asdict(answers) for task, answers in replies.notable.items()},
            },
        }

    def reasons(self) -> dict[str, bool]:
        """Whether each of its health reasons holds."""
        return {
            "requests-in-memory-only": self._store.fault is not None,
            "requests-lost": self._store.set_aside is not None,
            "draining": self.admission.is_draining,
            "queue-full": len(self._queue.waiting) >= self._queue.capacity,
        }


def _deadline_passed(request: Request) -> Error:
    return Error(code=Code.DEADLINE, message=f"{request.deadline} has passed")
