"""START HERE: builds every part of the daemon, gives each event to the part that it is for, stops them all.

The thread of `Agent.run` owns all state. The other threads (the network's, the worker pipe's, the renderer's, the board
monitor's, fsync's and the pool's) hand it events through its inbox. The signal handler notes the signal's number.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.board.board import Board
from edge_agent.board.energy import EnergyMeter, EnergySample
from edge_agent.board.governor import Governor
from edge_agent.board.monitor import Monitor
from edge_agent.board.reading import BoardReading
from edge_agent.board.systemd_notify import notify
from edge_agent.commands.commands import Commands
from edge_agent.core import pipe
from edge_agent.core.clock import moment
from edge_agent.core.config import Config
from edge_agent.core.kinds.task import DEFAULT_TEMPLATE
from edge_agent.core.model import Model, ModelError
from edge_agent.core.wording import cut, shown_path
from edge_agent.inbox import Inbox, InboxEvent
from edge_agent.models.canary_watch import CanaryWatch
from edge_agent.models.model_retry import ModelRetry
from edge_agent.models.record import in_force, without_config_key
from edge_agent.models.revocation_watch import RevocationWatch
from edge_agent.models.switch import ModelSwitch, Switched, SwitchFailed
from edge_agent.mqtt.connections import Connections
from edge_agent.mqtt.link import TAKEN_OVER, Connected, ConnectionFailed, Published, Received
from edge_agent.requests.answerers import Answerers
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.origin import SharedRequest
from edge_agent.requests.renderer import Rendered, Renderer
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.tasks import prefixes_of, with_built_in
from edge_agent.run_note import FAILED, MODEL_CHANGED, STOPPED, RunNote
from edge_agent.status.presence import Presence, State
from edge_agent.status.publisher import StatusPublisher
from edge_agent.store.database import FILE
from edge_agent.store.fsync import Synced
from edge_agent.store.store import Store
from edge_agent.watchdog import Watchdog, stalled_part
from edge_agent.worker.process import WorkerExited
from edge_agent.worker.supervisor import CanaryAnswered, FromWorker, Supervisor

if TYPE_CHECKING:
    from edge_agent.pool.link import PoolLink
    from edge_agent.signals.feed import Feed

log = logging.getLogger(__name__)

# A signal wakes no one: the loop notices it after at most this long.
MAX_WAIT_S = 0.25
# The longest wait while requests wait for promises to be judged.
_JUDGING_WAIT_S = 0.02
# Each connection and the worker get this long to end.
GOODBYE_S = 5.0


class Agent:
    """The daemon. `run` returns its exit code: 0 stopped, 1 failed."""

    def __init__(self, config: Config, config_path: Path, model: Model, model_fault: str | None = None) -> None:
        """`model_fault` says why no model can be used; `model` is then a placeholder."""
        tasks = with_built_in(config.tasks)
        self._inbox = Inbox()
        self._presence = Presence(config.topics)
        self._connections = Connections(
            config, self._inbox.deliver, self._presence.begin_session_with_will, time.monotonic()
        )
        self._supervisor = Supervisor(config, model, prefixes_of(tasks.values()), self._inbox.deliver)
        database = config.state_dir / FILE if config.queue.journal == "disk" else None
        self._store = Store(database, self._inbox.deliver)
        self._delivery = Delivery(self._store, self._connections.data, config.topics)
        self._renderer = Renderer(self._inbox.deliver)
        self._dispatcher = Dispatcher(
            config,
            tasks,
            self._delivery,
            self._supervisor.send,
            self._renderer.ask,
            answerers=Answerers(ScoreMaps(model, f"{config.device.site}/{config.device.id}", self._store), model),
            weights_sha256=model.weights_sha256,
        )
        self._pool = _pool_link(config, self._inbox.deliver)
        self._feed = _feed(config, self._connections)
        board = Board(config.board.root, config.models_dir)
        self._monitor = Monitor(board, self._inbox.deliver)
        self._governor = Governor(config.governor)
        self._energy = EnergyMeter()
        self._model_switch = ModelSwitch(
            config,
            self._supervisor,
            self._dispatcher,
            spare_mb=lambda now: self._governor.spare_mb(self._monitor.latest(now).memory),
        )
        self._status = StatusPublisher(
            config,
            tasks,
            connections=self._connections,
            presence=self._presence,
            delivery=self._delivery,
            dispatcher=self._dispatcher,
            supervisor=self._supervisor,
            model_switch=self._model_switch,
            board=board,
            monitor=self._monitor,
            governor=self._governor,
            energy=self._energy,
        )
        for part in (self._pool, self._feed):
            if part is not None:
                self._status.add_part(part)
        interval_s = config.models["default"].canary_interval_s
        self._canary_watch = CanaryWatch(interval_s, self._supervisor, self._status.alarms.set_quality_fault)
        self._revocation_watch = RevocationWatch(config, self._supervisor, self._status.alarms.set_revocations)
        self._commands = Commands(
            config,
            config_path,
            publish=self._connections.control.publish,
            apply_config=self._apply_config,
            presence=self._presence,
            dispatcher=self._dispatcher,
            model_switch=self._model_switch,
            status=self._status,
        )
        self._run_note = RunNote(config.state_dir)
        self._watchdog = Watchdog(self._run_note.set_end)
        self._signals: deque[int] = deque()
        self._model_retry = ModelRetry(config)
        # The one that the newest `event/model-fallback` named.
        self._named_fallback: Model | None = None
        self._model_fault = model_fault
        # How this run ends; None while the agent serves.
        self._end: str | None = None

    def run(self) -> int:
        """Runs until a signal has drained the agent, or the model's files have changed."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        if any(task.template != DEFAULT_TEMPLATE for task in self._commands.config.tasks.values()):
            self._renderer.start_process()
        self._delivery.start()
        self._learn_if_needed()
        if self._model_fault is not None:
            self._do_without_model(self._model_fault, time.monotonic())
        self._dispatcher.admission.recover(moment(time.monotonic()))
        self._monitor.start()
        if self._model_fault is None:
            self._supervisor.start(time.monotonic())
        self._connections.subscribe(self._commands.config)
        # Before the connection, because paho sends twice what is published while it connects.
        if last_end := self._run_note.begin():
            log.warning("the previous run did not end normally: %s", last_end)
            self._status.publish_event("agent-restarted", {"reason": last_end})
        self._connections.start()
        for part in (self._pool, self._feed):
            if part is not None:
                part.start()
        try:
            while self._end is None:
                self._step()
        finally:
            self._stop()
        return 0 if self._end == STOPPED else 1

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals.append(number)

    def _step(self) -> None:
        """Waits for an event, or until something is due; handles the event and all that is due."""
        now = time.monotonic()
        due_at = (
            now + (MAX_WAIT_S if self._dispatcher.admission.answerers.is_judged else _JUDGING_WAIT_S),
            self._status.due_at,
            self._dispatcher.next_wake_up_at(),
            self._supervisor.restart_at,
            self._commands.drain_ends_at,
            None if self._feed is None else self._feed.next_turn_at(now),
        )
        event = self._inbox.take(min(at for at in due_at if at is not None) - now)
        now = time.monotonic()
        try:
            if event is not None:
                self._handle(event, now)
            self._tick(now)
        except Exception:
            # One message that meets a bug must not take the board off the bus.
            log.exception("an event could not be handled")
        self._delivery.flush(now)

    def _handle(self, event: InboxEvent, now: float) -> None:
        """Gives an event to the part that it is for."""
        match self._supervisor.receive(event, now) if isinstance(event, FromWorker) else event:
            case Received() as received:
                self._on_message(received, now)
            case SharedRequest() as shared:
                self._dispatcher.admission.receive_shared(shared, now)
            case pipe.Finished() | pipe.Failed() | pipe.Cancelled() as answer:
                self._dispatcher.on_worker_answer(answer, now)
            case pipe.Partial() as partial:
                self._dispatcher.send_partial(partial)
            case CanaryAnswered(answer=answer):
                self._canary_watch.receive(answer, now)
            case pipe.Progress() as progress:
                self._supervisor.throughput.count(progress)
            case Rendered() as rendered:
                self._dispatcher.admission.on_rendered(rendered, now)
            case BoardReading() as reading:
                self._on_board_reading(reading, now)
            case Synced() as synced:
                self._delivery.on_synced(synced)
            case Connected(link=link):
                self._connections.on_connected(link, now)
                if link is self._connections.control:
                    self._status.on_connected(now)
                else:
                    # The broker may have lost what it retained.
                    self._dispatcher.admission.replies.changes.clear()
            case ConnectionFailed() as failed:
                self._connections.on_connection_failed(failed, now)
                if failed.reason == TAKEN_OVER:
                    self._status.alarms.on_taken_over(now)
            case Published():
                pass  # `flush` takes the results
            case pipe.Loading() if self._presence.state is State.OFFLINE:
                # A first load from a slow card may take longer than TimeoutStartSec=.
                notify(f"EXTEND_TIMEOUT_USEC={pipe.LOAD_SILENCE_S * 1e6:.0f}")
            case pipe.Priors(scores=priors):
                self._dispatcher.admission.answerers.set_priors(priors)
                if self._presence.state is not State.OFFLINE:
                    self._status.publish_all()
            case pipe.Ready() as ready:
                self._on_ready(ready, now)
            case pipe.LoadFailed(message=message):
                self._on_load_failed(message, now)
            case WorkerExited() as exited:
                self._on_worker_end(self._supervisor.on_ended(exited, now), now)

    def _on_message(self, received: Received, now: float) -> None:
        """Acknowledges a message whatever becomes of it; a request once it is on the disk."""
        is_control, is_ignored = received.link is self._connections.control, False
        message = received.message
        try:
            if is_control and self._status.receive(message, now):
                return
            if message.is_retained:
                # A retained request or command comes again at every reconnect, so it is old by definition.
                is_ignored = True
                log.info("retained message dropped topic=%r", cut(message.topic))
            elif is_control:
                self._commands.receive(message)
            elif (task := self._commands.config.topics.task_of_feedback(message.topic)) is not None:
                is_ignored = not self._dispatcher.admission.answerers.receive_feedback(task, message, now)
            else:
                is_ignored = not self._dispatcher.admission.receive(message, now)
        finally:
            self._connections.count_received(is_ignored=is_ignored)
            if is_control:
                received.link.acknowledge(received)
            else:
                self._delivery.acknowledge_when_stored(received)

    def _on_board_reading(self, reading: BoardReading, now: float) -> None:
        throughput = self._supervisor.throughput
        self._energy.add(
            EnergySample(
                at_s=now,
                watts=reading.power.watts,
                busy_s=throughput.busy_s,
                tokens=throughput.computed_tokens,
                is_active=self._dispatcher.active > 0,
            )
        )
        self._dispatcher.joules_per_busy_s = self._energy.joules_per_busy_s
        before = self._governor.limits
        limits = self._governor.decide(reading, now)
        if limits != before:
            self._dispatcher.slots.limits = limits
            self._supervisor.send(limits.for_worker())
        if limits.level is not before.level:
            log.warning("governor level=%s: %s", limits.level.name.lower(), limits.reason or "there are no limits")
            self._status.publish_health()
        if self._dispatcher.is_idle:
            self._supervisor.replace_outgrown(now)

    def _on_ready(self, ready: pipe.Ready, now: float) -> None:
        self._supervisor.on_ready(ready, now)
        if self._presence.state is not State.OFFLINE:
            event = {"restarts": self._supervisor.restarts, "pid": ready.pid, "reason": self._supervisor.last_end}
            self._status.publish_event("worker-restarted", event)
        self._prepare_worker(ready, now, was_asked=False)
        self._put_into_service(now)

    def _on_switch_ended(self, end: Switched | SwitchFailed, now: float) -> None:
        if isinstance(end, Switched):
            self._status.publish_event("model-switched", end.event)
            self._learn_if_needed()
            self._prepare_worker(end.ready, now, was_asked=True)
            self._put_into_service(now)
            if not self._dispatcher.admission.answerers.is_judged:
                # `info` names the new model before the command is answered.
                self._status.publish_all()
        else:
            self._status.publish_event("model-switch-failed", end.event)
        self._commands.on_switch_ended(end)

    def _prepare_worker(self, ready: pipe.Ready, now: float, *, was_asked: bool) -> None:
        """Prepares a new worker that can answer. `was_asked` is true if a switch has just asked it the canaries."""
        self._model_retry.stop()
        self._model_fault = self._dispatcher.admission.gave_up_because = None
        self._status.alarms.set_model_fault(None)
        self._canary_watch.on_worker_ready(now, was_asked=was_asked)
        self._governor.set_capacity(ready)
        # It starts without limits.
        self._supervisor.send(self._governor.limits.for_worker())

    def _put_into_service(self, now: float) -> None:
        """Lets a new worker answer requests from now on, unless promises about its answers are still to be judged."""
        ready, model = self._supervisor.ready, self._supervisor.model
        if ready is None or not self._dispatcher.admission.answerers.is_judged:
            return
        # Before anything is published: a fault there must not keep requests waiting.
        self._dispatcher.on_worker_ready(model, ready, now)
        if model.is_fallback and model is not self._named_fallback:
            old = {"folder": in_force(self._commands.config).name}
            self._status.publish_event("model-fallback", {"model": model.key, "old": old, "new": model.identity()})
            self._named_fallback = model
        if self._presence.state is State.OFFLINE:
            is_draining = self._dispatcher.admission.is_draining
            state, reason = (State.DRAINING, "drain") if is_draining else (State.ONLINE, None)
            self._status.publish_state(state, reason)
            notify("READY=1")
        self._status.publish_all()

    def _on_load_failed(self, message: str, now: float) -> None:
        self._supervisor.on_load_failed(message)
        if self._supervisor.has_given_up:
            self._do_without_model(message, now)

    def _do_without_model(self, fault: str, now: float) -> None:
        """Tells callers and the bus why no model can be used, and tries again later."""
        self._model_retry.schedule(now)
        if fault == self._model_fault and self._dispatcher.admission.gave_up_because is not None:
            return
        self._model_fault = fault
        log.error("no model can be used, trying again: %s", fault)
        path = shown_path(in_force(self._commands.config))
        self._status.alarms.set_model_fault(fault if path in fault else f"{path}: {fault}")
        self._dispatcher.give_up(f"the model cannot be loaded: {fault}", now)
        self._status.publish_state(State.OFFLINE, f"model-load-failed: {fault}")
        # The service has started, and ending it would only hide what is wrong.
        notify("READY=1")

    def _try_model_again(self, now: float) -> None:
        if self._model_switch.is_underway:
            return
        match self._model_retry.tick(now):
            case Model() as model:
                log.info("the model can be opened now: %s", shown_path(model.source))
                self._dispatcher.on_model_replaced(model)
                self._learn_if_needed()
                try:
                    self._supervisor.load(model, now)
                except OSError as error:
                    self._do_without_model(f"no worker can be started: {error}", now)
            case ModelError() as error:
                self._do_without_model(without_config_key(error), now)

    def _on_worker_end(self, how: str, now: float) -> None:
        """Queues its requests again and reports its end; the supervisor starts the next worker."""
        self._dispatcher.on_worker_lost(how, now, ready_at=self._supervisor.next_ready_at)
        if self._supervisor.has_given_up:
            return
        self._status.alarms.on_worker_ended(how, now)
        self._status.publish_health()
        if self._presence.state is State.OFFLINE:
            self._status.publish_state(State.OFFLINE, f"model-load-failed: {how}; the worker is started again")

    def _tick(self, now: float) -> None:
        """Does what is due by now, in every part."""
        self._handle_signals(now)
        self._store.maintain()
        if self._feed is not None:
            for reading in self._feed.tick(now):
                self._dispatcher.admission.receive(reading, now)
        self._dispatcher.fill_slots(now)
        if how := self._supervisor.restart_or_kill(now):
            if self._supervisor.has_given_up:
                self._do_without_model(how, now)
            else:
                self._on_worker_end(how, now)
        if self._supervisor.has_changed_files:
            log.error("the files of the model have changed: the agent ends, and its next start verifies them")
            self._status.publish_state(State.OFFLINE, "model-changed")
            self._end = MODEL_CHANGED
        if switch_end := self._model_switch.tick(now):
            self._on_switch_ended(switch_end, now)
        self._try_model_again(now)
        is_idle = self._dispatcher.is_idle and not self._governor.limits.causes and not self._model_switch.is_underway
        self._revocation_watch.tick(now)
        self._canary_watch.tick(now, is_idle=is_idle)
        self._tick_answerers(now)
        if self._pool is not None:
            unable_to_reply_s = self._connections.data_lost_s(now)
            self._pool.set_places(self._dispatcher.spare_slots, unable_to_reply_s=unable_to_reply_s)
        self._monitor.replace_hung_thread(now)
        self._connections.reconnect_stuck()
        # Nothing depends on what became of these messages.
        self._connections.control.outbox.take_results()
        self._watchdog.tick(lambda: self._stalled_part(now), now)
        self._status.tick(now)
        self._commands.tick(now)
        if self._commands.is_stopped:
            self._end = STOPPED

    def _tick_answerers(self, now: float) -> None:
        answerers = self._dispatcher.admission.answerers
        was_judged = answerers.is_judged
        events = answerers.tick(now)
        for name, document in events:
            self._status.publish_event(name, document)
        if self._supervisor.ready is not None and not self._dispatcher.slots.has_worker:
            self._put_into_service(now)
        elif events or answerers.is_judged is not was_judged:
            # `info` says where scores come from, and health has waited.
            self._status.publish_all()

    def _stalled_part(self, now: float) -> str | None:
        return stalled_part(
            network=self._connections.network_threads_alive | (self._feed.network_threads_alive if self._feed else {}),
            worker_silent_s=self._supervisor.silent_s(now),
            has_or_expects_worker=self._supervisor.has_or_expects_worker
            or self._model_switch.is_underway
            or self._model_fault is not None,
            monitor_silent_s=now - self._monitor.advanced_at,
        )

    def _handle_signals(self, now: float) -> None:
        while self._signals:
            if self._signals.popleft() == signal.SIGHUP:
                self._commands.reload_on_signal()
            elif not self._commands.is_stopping:
                notify("STOPPING=1")
                self._commands.stop(now)
            else:
                self._dispatcher.cancel("a second signal stops the agent at once", now, gives_back=True)
                self._end = STOPPED

    def _apply_config(self, config: Config) -> None:
        """Makes every part use the configuration of a reload."""
        logging.getLogger().setLevel(config.log.level)
        tasks = with_built_in(config.tasks)
        self._dispatcher.reconfigure(config, tasks)
        self._dispatcher.admission.answerers.reconfigure(config, tasks)
        self._learn_if_needed()
        self._governor.reconfigure(config.governor)
        self._status.reconfigure(config, tasks)
        self._supervisor.set_prefixes(prefixes_of(tasks.values()))
        self._connections.subscribe(config)
        self._status.publish_all()

    def _learn_if_needed(self) -> None:
        """Replaces the plain `Answerers` with `Learning` once there is something to learn, or to delete."""
        config, model, before = self._commands.config, self._supervisor.model, self._dispatcher.admission.answerers
        is_needed = config.feedback.enabled or model.students or self._store.has_rows("answers")
        if not is_needed or type(before) is not Answerers:
            return
        from edge_agent.learning.learning import Learning  # noqa: PLC0415 - a board that does not learn pays for none

        publish = self._connections.control.publish
        learning = Learning(before.score_maps, config, with_built_in(config.tasks), self._store, model, publish)
        self._dispatcher.admission.answerers = learning
        self._status.add_part(learning)

    def _stop(self) -> None:
        """Sends the replies first, then the state; ends the worker and the renderer last."""
        now = time.monotonic()
        self._inbox.close()
        if self._pool is not None:
            self._pool.set_places(0)
        self._monitor.stop()
        if self._feed is not None:
            self._feed.stop(GOODBYE_S)
        if switch_end := self._model_switch.stop(now):
            self._on_switch_ended(switch_end, now)
        self._delivery.stop(GOODBYE_S)
        self._connections.data.stop(GOODBYE_S)
        self._delivery.close()
        if self._pool is not None:
            # This comes last because it acknowledges the claims whose replies have left.
            self._pool.stop(GOODBYE_S)
        if self._end == STOPPED:
            self._status.publish_stopped()
        self._connections.control.stop(GOODBYE_S)
        self._supervisor.stop(GOODBYE_S)
        self._renderer.stop()
        self._run_note.set_end(self._end or FAILED)


def _feed(config: Config, connections: Connections) -> Feed | None:
    """None if no table of `[signals]` is configured; then its modules are not even imported."""
    if not config.signals:
        return None
    from edge_agent.signals.feed import Feed  # noqa: PLC0415 - most boards get whole readings

    return Feed(config, connections.control)


def _pool_link(config: Config, deliver: Callable[[SharedRequest], object]) -> PoolLink | None:
    """None if the board is in no pool; then pika is not even imported."""
    if config.pool is None:
        return None
    from edge_agent.pool.link import PoolLink  # noqa: PLC0415 - pika is an extra

    return PoolLink(config, deliver)
