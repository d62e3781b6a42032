"""One request's way through the agent: admitted, queued, run, answered. Belongs to the agent's thread alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.board.limits import NO_LIMITS, RELAX_S, Limits
from edge_agent.core.clock import Moment, timestamp
from edge_agent.core.config import Config
from edge_agent.core.envelope import Envelope
from edge_agent.core.inbound import Message
from edge_agent.core.messages import Code, Error, ModelName, Outcome, Refusal
from edge_agent.core.protocol import Cancel, Command, Finished, Partial, Ready, Run, TextPlan
from edge_agent.requests import outcomes
from edge_agent.requests.admission import DRAINING_RETRY_S, Admission, Loser
from edge_agent.requests.answers import Answers
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.duplicates import key_of
from edge_agent.requests.forecast import Ahead
from edge_agent.requests.latency import LONGEST_DEADLINE_MS, Latency
from edge_agent.requests.outcomes import Answer
from edge_agent.requests.quarantine import Quarantine, fingerprint
from edge_agent.requests.rate_limit import RateLimit, Rates
from edge_agent.requests.reception import Question, Reception, Unreadable
from edge_agent.requests.request_queue import Asker, Request, RequestQueue, told_deadline
from edge_agent.requests.statistics import RequestFacts, Statistics
from edge_agent.requests.tasks import Render, Task
from edge_agent.requests.templates import render
from edge_agent.store.rows import Quarantined, StoredRequest

log = logging.getLogger(__name__)

# A request that was running when its worker died is run once more; if that worker dies too, the request may be why.
MAX_ATTEMPTS = 2

# Who named a deadline, where nobody did.
_MEASURED, _DEFAULT = "measured", "default"
_FAULT = "the request met a fault of the agent"
_DEADLY = Error(code=Code.ENGINE_LOST, message="the agent ended whenever it took this request over from its record")
_SUPERSEDED = Error(code=Code.SUPERSEDED, message="a newer reading of the same source has come")


@dataclass(frozen=True, slots=True)
class _Active:
    """worker: the number of the worker that runs it. model: what that one answers with."""

    request: Request
    worker: int
    model: ModelName | None
    # Set once the caller has its answer (expired, cancelled) and the worker has been told to stop.
    is_answered: bool = False


class Dispatcher:
    """Owns the queue and what runs.

    `delivery` records and sends, `send` asks the worker; neither blocks. `render`: of callers' inputs, within bounds.
    """

    def __init__(
        self,
        config: Config,
        tasks: dict[str, Task],
        delivery: Delivery,
        send: Callable[[Command], object],
        render: Render = render,
    ) -> None:
        self._statistics = Statistics()
        self.latency = Latency()
        self._joules_per_busy_s: float | None = None
        self._limits = NO_LIMITS
        self._model: ModelName | None = None
        self._slots = 0
        # While there is no worker: when there will be one; None = unknown.
        self._ready_at: float | None = None
        self.is_draining = False
        # No request is handed to the worker, all wait.
        self._is_held = False
        # Workers are counted by the models that took over; requests may end on the one before.
        self._worker = 0
        self.quarantine = Quarantine()
        self.delivery = delivery
        self._send = send
        self._render = render
        self._numbers = 0
        self._active: dict[int, _Active] = {}
        self._rates = Rates()
        self._configure(config, tasks)
        self.queue = RequestQueue(config.queue.capacity)
        window_s = config.queue.dedup_window_s
        self._answers = Answers(config.device.id, window_s, delivery, self._statistics, config.fingerprint)

    def reconfigure(self, config: Config, tasks: dict[str, Task]) -> None:
        """New tasks and limits; requests that wait or run keep what they came with."""
        self._configure(config, tasks)
        self._answers.reconfigure(config.queue.dedup_window_s, config.fingerprint)
        self.queue.capacity = config.queue.capacity

    def _configure(self, config: Config, tasks: dict[str, Task]) -> None:
        self._config = config
        self._reception = Reception(config, tasks)

    def apply_limits(self, limits: Limits) -> None:
        """Holds for what is admitted, started and answered from now on."""
        self._limits = limits

    def set_energy_rate(self, joules_per_busy_s: float | None) -> None:
        """What a second of the engine's working time costs, for `energy_j`; None = unknown."""
        self._joules_per_busy_s = joules_per_busy_s

    @property
    def filters(self) -> set[str]:
        """What the data connection listens to."""
        return self._reception.filters

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def is_former_busy(self) -> bool:
        """Whether the worker that another one took over from still owes an answer."""
        return any(entry.worker != self._worker and not entry.is_answered for entry in self._active.values())

    @property
    def is_idle(self) -> bool:
        return not self._active and not len(self.queue)

    def receive(self, inbound: Message, now: float) -> bool:
        """Takes in one message from the data connection. Each request in it is answered, now or later.

        False: nobody wants it; the broker may remember subscriptions of an earlier configuration.
        """
        is_for_us = False
        for heard in self._reception.read(inbound):
            is_for_us = True
            is_question = isinstance(heard, Question)
            row = self.delivery.accept(inbound, heard.origin.task) if is_question else self.delivery.refuse(inbound)
            self._take_in(heard, inbound, row, now)
        self.fill(now)
        return is_for_us

    def recover(self, now: Moment) -> None:
        """Takes over from the process before this one: its answers are known, its requests are run."""
        try:
            self._take_over_record(now)
        finally:
            self.delivery.taken_over()
        self.fill(now.monotonic_s)

    def _take_over_record(self, now: Moment) -> None:
        for held in self.delivery.held():
            self.quarantine.hold(held)
        self._answers.take_over(now)
        for left in self.delivery.unanswered(now):
            try:
                self._resume(left, now.monotonic_s)
            except Exception:  # it would come again at each start, and keep the board off the bus
                log.exception("a request on record cannot be run number=%s", left.row)
                self.delivery.drop(left.row)

    def _resume(self, left: StoredRequest, now: float) -> None:
        if left.is_given_up:
            log.error("a request on record ends the agent, and is not run number=%s", left.row)
        heard = [one for one in self._reception.read(left.message) if one.origin.task == left.task]
        for one in heard or [self._reception.unheard(left.message, left.task)]:
            if left.is_given_up:
                self._answers.refuse(Asker(one.origin, left.row), left.message, _DEADLY, now)
            else:
                self._take_in(one, left.message, left.row, now, is_resumed=True)

    def _take_in(
        self, heard: Question | Unreadable, inbound: Message, row: int | None, now: float, *, is_resumed: bool = False
    ) -> None:
        asker = Asker(heard.origin, row)
        if isinstance(heard, Unreadable):
            self._answers.refuse(asker, inbound, heard.error, now)
            return
        try:
            self._admit(heard, inbound, asker, now, is_resumed=is_resumed)
        except Refusal as refused:
            self._answers.refuse(asker, inbound, refused.error, now)
        except Exception:
            log.exception(_FAULT)
            self._answers.refuse(asker, inbound, Error(code=Code.INTERNAL, message=_FAULT), now)

    def _admit(self, question: Question, inbound: Message, asker: Asker, now: float, *, is_resumed: bool) -> None:
        """Queues a request, joins it to its twin, or repeats a known answer. Raises Refusal."""
        origin, task, envelope = question.origin, question.task, question.envelope
        key = key_of(origin, inbound)
        if self._answers.join(asker, inbound, key, now, lambda: self._admission(now).retry_after_s):
            return
        deadline_at, deadline_from = self._deadline(task, envelope, inbound)
        priority = task.config.priority if envelope.priority is None else envelope.priority
        if deadline_at <= now:
            limit = told_deadline(deadline_at - inbound.received_at, deadline_from)
            raise Refusal(Code.DEADLINE, f"{limit} had passed on arrival")
        if not is_resumed:  # it was admitted before
            self._check_open(priority, now)
            # Whatever becomes of it: from here on it costs us its template, which may take half a second.
            self._rates.take(self._rate_limits(task, origin.reply_topic), now)
        self._numbers += 1
        request = Request(
            number=self._numbers,
            origin=origin,
            row=asker.row,
            run=task.run(self._numbers, envelope, self._render),
            arrived_at=inbound.received_at,
            deadline_at=deadline_at,
            deadline_from=deadline_from,
            priority=priority,
            include_reasoning=envelope.options.reasoning == "include",
            min_score=task.min_score,
            supersedes=(task.name, inbound.topic + "\n" + origin.reply_topic) if task.config.keep == "latest" else None,
        )
        if (held := self.quarantine.find(request.run)) is not None:
            message = f"input: this one ended the engine twice (fingerprint {held.fingerprint}); it is not run again"
            raise Refusal(Code.QUARANTINED, message)
        if is_resumed:
            # Its caller may have the beginning already, and is not told it twice: pieces are not on record.
            request.run = replace(request.run, stream=False)
            self._answers.begin(request, key)
            self.queue.add(request)
            return
        superseded, losers = self._admission(now).enter(request)
        self._answers.begin(request, key)
        if superseded is not None:
            self._end_with(superseded, _SUPERSEDED, now)
        self._displace(losers, now)

    def _check_open(self, priority: int, now: float) -> None:
        """Raises Refusal where nobody of this priority is let in."""
        if self.is_draining:
            message = "the agent is draining and takes no new requests"
            raise Refusal(Code.DRAINING, message, max(DRAINING_RETRY_S, self._admission(now).retry_after_s))
        if (cause := self._limits.refusal(priority)) is not None:
            message = f"of priority {priority}, too little urgent while {self._limits.reason}"
            raise Refusal(Code(cause.value), message, RELAX_S)

    def _rate_limits(self, task: Task, reply_topic: str) -> list[RateLimit]:
        candidates = (
            ("reply topic", reply_topic, self._config.queue.rate_per_minute),
            (f"task {task.name}", "", task.config.rate_per_minute),
        )
        return [RateLimit(what, name, rate) for what, name, rate in candidates if rate is not None]

    def _deadline(self, task: Task, envelope: Envelope, inbound: Message) -> tuple[float, str]:
        """When the answer becomes worthless, and who says so."""
        limits_ms = {
            "request": envelope.deadline_ms,
            "task": task.config.deadline_ms,
            "configuration": self._config.queue.default_deadline_ms,
            _MEASURED: self.latency.deadline_ms(task.name),
            _DEFAULT: LONGEST_DEADLINE_MS,
        }
        source, limit_ms = next((source, limit) for source, limit in limits_ms.items() if limit is not None)
        if inbound.expiry_s is not None and inbound.expiry_s * 1000 < limit_ms:
            source, limit_ms = "message expiry", inbound.expiry_s * 1000
        return inbound.received_at + limit_ms / 1000, source

    def _displace(self, losers: list[Loser], now: float) -> None:
        self._statistics.totals.displaced_total += len(losers)
        for request, error in losers:
            self._end_with(request, error, now)

    def _running(self, now: float) -> Ahead:
        ahead = Ahead(slots=self._places)
        for active in self._active.values():
            if active.is_answered:  # the worker lets go of it at its next step
                ahead.count += 1
            else:
                request = active.request
                started_at = now if request.started_at is None else request.started_at
                ahead.run(self.latency.expect(request.kind), now - started_at, len(self._active))
        return ahead

    @property
    def _places(self) -> int:
        """How many requests may run at once."""
        return self._slots if self._limits.max_active is None else min(self._slots, self._limits.max_active)

    def _admission(self, now: float) -> Admission:
        loading_s = None if self._slots or self._ready_at is None else max(0.0, self._ready_at - now)
        return Admission(self.queue, self._running(now), self.latency, now, loading_s)

    def estimated_wait_ms(self, now: float) -> float | None:
        """How long a request would wait that came after all that are here; None = unknown."""
        wait_s = self._admission(now).wait_s
        return None if wait_s is None else wait_s * 1000

    def model_replaced(self) -> None:
        """Another worker, of another model: what waits is for it. What runs ends on the one before it."""
        self._worker += 1
        self.latency = Latency()
        self._is_held = False
        self._answers.forget_refusals()

    def hold(self) -> None:
        """Hands no request to the worker until `release`: all of them wait."""
        self._is_held = True

    def release(self, now: float) -> None:
        """Hands requests to the worker again."""
        self._is_held = False
        self.fill(now)

    def start_drain(self) -> None:
        """Refuses new requests; those that wait or run are answered."""
        self.is_draining = True

    def end_drain(self) -> None:
        self.is_draining = False

    def worker_ready(self, model: ModelName, ready: Ready, now: float) -> None:
        """A worker answers with this model: it gets the requests that wait."""
        self._model = model
        self._slots = ready.max_active
        self.latency.set_rates(ready.prefill_tok_s, ready.decode_tok_s)
        self.fill(now)

    def snapshot(self, now: float) -> RequestFacts:
        return self._statistics.facts(
            depth=len(self.queue),
            capacity=self.queue.capacity,
            oldest_ms=self.queue.oldest_ms(now),
            estimated_wait_ms=self.estimated_wait_ms(now),
            active=self.active,
            is_draining=self.is_draining,
            quarantined=self.quarantine.held,
            postponed_replies=self.delivery.postponed,
            lost_replies=self.delivery.lost,
            store_fault=self.delivery.fault,
        )

    def fill(self, now: float) -> None:
        """Gives free slots of the worker to those who wait.

        What ran when a worker died runs alone the second time: if it was not the cause, nobody else's request pays.
        """
        self.expire(now)
        while not self._is_held and len(self._active) < self._places and not self._is_suspect_running:
            request = self.queue.take()
            if request is None:
                return
            if request.attempts and self._active:
                self.queue.add(request)
                return
            request.started_at = now
            request.attempts += 1
            self._active[request.number] = _Active(request, self._worker, self._model)
            try:
                self._send(self._limited(request.run))
            except Exception:
                log.exception(_FAULT)
                del self._active[request.number]
                self._end_with(request, Error(code=Code.INTERNAL, message=_FAULT), now)

    @property
    def _is_suspect_running(self) -> bool:
        return any(active.request.attempts == MAX_ATTEMPTS for active in self._active.values())

    def _limited(self, run: Run) -> Run:
        """Text may be shorter than was asked for; an object that is cut off would be worth nothing."""
        most = self._limits.max_tokens
        if most is None or run.max_tokens <= most or not isinstance(run.plan, TextPlan):
            return run
        return replace(run, max_tokens=most)

    def expire(self, now: float) -> None:
        """Answers every request whose deadline has passed, waiting or running; forgets answers of long ago."""
        self._answers.expire(now)
        for request in self.queue.expire(now):
            self._end_with(request, outcomes.deadline_passed(request), now)
        for active in list(self._active.values()):
            request = active.request
            if request.deadline_at <= now and not active.is_answered:
                if request.started_at is not None:
                    beside = len(self._active)
                    self.latency.gave_up(request.kind, run_s=now - request.started_at, beside=beside, now=now)
                self._abandon(active, outcomes.deadline_passed(request), now)

    def _abandon(self, active: _Active, error: Error, now: float) -> None:
        """The caller is answered at once; the slot is free when the worker has let go."""
        self._active[active.request.number] = replace(active, is_answered=True)
        self._send(Cancel(id=active.request.number))
        self._end_with(active.request, error, now)

    def next_wake_up_at(self) -> float | None:
        """When `expire` next has something to do."""
        times = [a.request.deadline_at for a in self._active.values() if not a.is_answered]
        waiting = self.queue.next_deadline_at()
        return min(times if waiting is None else [*times, waiting], default=None)

    def cancel(self, request_id: str | int, reply_topic: str | None, now: float) -> int:
        """Cancels every request that goes by this id (and replies to this topic, if given); how many there were."""

        def is_meant(request: Request) -> bool:
            origin = request.origin
            return origin.id == request_id and reply_topic in (None, origin.reply_topic)

        return self._cancel_where(is_meant, Error(code=Code.CANCELLED, message="cancelled by command"), now)

    def cancel_all(self, message: str, now: float) -> int:
        return self._cancel_where(lambda _: True, Error(code=Code.CANCELLED, message=message), now)

    def _cancel_where(self, is_meant: Callable[[Request], bool], error: Error, now: float) -> int:
        waiting = self.queue.remove(is_meant)
        for request in waiting:
            self._end_with(request, error, now)
        running = [a for a in self._active.values() if not a.is_answered and is_meant(a.request)]
        for active in running:
            self._abandon(active, error, now)
        return len(waiting) + len(running)

    def worker_lost(
        self, reason: str, now: float, *, ready_at: float | None = None, is_blameless: bool = False
    ) -> None:
        """What ran is run once more by the next worker, and then given up.

        ready_at: when the next one will be ready, None = unknown. Deadlines that nobody named are put off until then;
        others that come before it are answered now. is_blameless: what ran is not why, and is run as if for the first
        time.
        """
        self._slots = 0
        self._ready_at = ready_at
        lost = [entry for entry in self._active.values() if entry.worker == self._worker]
        if is_blameless:
            for entry in lost:
                entry.request.attempts -= 1
        self._run_again(lost, reason, now)
        if ready_at is not None:
            self.queue.postpone(lambda request: request.deadline_from in {_MEASURED, _DEFAULT}, ready_at - now)
        self._displace(self._admission(now).withdraw(), now)

    def worker_delayed(self, now: float, *, ready_at: float | None) -> None:
        """There is no worker yet where one was expected. ready_at: as of `worker_lost`; this puts no deadline off."""
        self._ready_at = ready_at
        self._displace(self._admission(now).withdraw(), now)

    def former_worker_lost(self, reason: str, now: float) -> None:
        """What still ran on it is run once more by the one that took over."""
        self._run_again([entry for entry in self._active.values() if entry.worker != self._worker], reason, now)
        self.fill(now)

    def _run_again(self, lost: list[_Active], reason: str, now: float) -> None:
        # The newest first: of readings of one source that ran at once, it is the one that counts.
        for entry in sorted(lost, key=lambda entry: entry.request.number, reverse=True):
            request = entry.request
            del self._active[request.number]
            if entry.is_answered:
                continue
            if request.supersedes is not None and self.queue.latest(request.supersedes) is not None:
                self._end_with(request, _SUPERSEDED, now)
            elif request.attempts < MAX_ATTEMPTS:
                if request.partials:  # its caller has the beginning already, and is not told it twice
                    request.run = replace(request.run, stream=False)
                self.queue.add(request)
            else:
                self._hold(request)
                error = Error(code=Code.ENGINE_LOST, message=f"the engine was lost twice with this request: {reason}")
                self._end_with(request, error, now)

    def _hold(self, request: Request) -> None:
        one = Quarantined(fingerprint(request.run), request.origin.task, timestamp())
        log.error("request quarantined task=%r fingerprint=%s: it ended the worker twice", one.task, one.fingerprint)
        for let_go in self.quarantine.hold(one):
            self.delivery.release(let_go.fingerprint)
        self.delivery.hold(one)

    def release_quarantined(self, fingerprint: str) -> bool:
        """What is quarantined under it may be asked again. False: nothing is."""
        is_held = self.quarantine.release(fingerprint)
        if is_held:
            self.delivery.release(fingerprint)
            self._answers.forget_refusals()
        return is_held

    def give_up(self, reason: str, now: float) -> None:
        """There will be no worker: everything that waits is answered, and nothing new is taken."""
        self.is_draining = True
        error = Error(code=Code.ENGINE_LOST, message=reason)
        for request in self.queue.remove(lambda _: True):
            self._end_with(request, error, now)

    def partial(self, event: Partial) -> None:
        active = self._active.get(event.id)
        if active is None or active.is_answered:
            return
        self._answers.partial(active.request, event.delta)

    def finish(self, event: Answer, now: float) -> None:
        """The worker is done with a request: its slot is free, and the caller gets the answer."""
        active = self._active.pop(event.id, None)
        if active is not None and active.worker == self._worker and isinstance(event, Finished):
            self._measure(active.request, event, now)
        if active is not None and not active.is_answered:
            try:
                outcome = self._outcome(active, event, now)
            except Exception:
                log.exception("an answer could not be read id=%r", active.request.origin.log_id)
                error = Error(code=Code.INTERNAL, message="the answer met a fault of the agent")
                outcome = outcomes.refused(active.request, error, now)
            self._answers.end(active.request, outcome, now)
        self.expire(now)
        self._displace(self._admission(now).withdraw(), now)
        self.fill(now)

    def _measure(self, request: Request, event: Finished, now: float) -> None:
        if request.started_at is not None:
            run_s = now - request.started_at
            self.latency.measure(request.kind, share_s=event.share_s, run_s=run_s, batch=event.batch, now=now)

    def _outcome(self, active: _Active, event: Answer, now: float) -> Outcome:
        request = active.request
        if request.deadline_at <= now:  # before `expire` came to know it
            return outcomes.refused(request, outcomes.deadline_passed(request), now)
        if not isinstance(event, Finished):
            return outcomes.unfinished(request, event, now)
        return outcomes.finished(
            request,
            event,
            now,
            model=active.model,
            limits=[cause.value for cause in self._limits.causes],
            energy_j=None if self._joules_per_busy_s is None else self._joules_per_busy_s * event.share_s,
        )

    def _end_with(self, request: Request, error: Error, now: float) -> None:
        self._answers.end(request, outcomes.refused(request, error, now), now)
