"""START HERE. Builds every part of the daemon, starts them, gives each event to the part it is for, stops them.

One thread, that of `Agent.run`, owns all state. The network threads (mqtt/mqtt_link), the reader of the worker's pipe
(engine/process), the monitor of the board and the signal handlers only put events into its inbox.
"""

from __future__ import annotations

import logging
import random
import signal
import time
from pathlib import Path

from edge_agent.board.board import Board
from edge_agent.board.energy import EnergyMeter, EnergySample
from edge_agent.board.governor import EngineCapacity, Governor
from edge_agent.board.monitor import Monitor
from edge_agent.board.reading import BoardReading
from edge_agent.board.systemd_notify import notify, watchdog_interval_s
from edge_agent.commands.commands import Commands
from edge_agent.core.clock import moment
from edge_agent.core.config import Config
from edge_agent.core.errors import cut
from edge_agent.core.inbound import Message
from edge_agent.core.load_progress import LOAD_SILENCE_S
from edge_agent.core.model import Model
from edge_agent.core.protocol import (
    Cancelled,
    Failed,
    Finished,
    LoadFailed,
    Loading,
    Partial,
    Progress,
    Ready,
    Refused,
)
from edge_agent.core.topics import discovery_status
from edge_agent.inbox import Inbox, InboxEvent
from edge_agent.models.canary_watch import CanaryWatch
from edge_agent.models.record import open_in_force
from edge_agent.models.switch import How, ModelSwitch, Switched, SwitchFailed, switched_event
from edge_agent.mqtt.connections import Connections
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import TAKEN_OVER, Connected, Disconnected, Received
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.renderer import Renderer
from edge_agent.requests.tasks import load_tasks, prefixes_of
from edge_agent.status.presence import Presence, State
from edge_agent.status.publisher import StatusPublisher
from edge_agent.store.fsync import Synced
from edge_agent.watchdog import Vitals, stalled_part
from edge_agent.worker.process import WorkerExited
from edge_agent.worker.supervisor import (
    CanaryAnswered,
    FormerWorkerExited,
    FromWorker,
    Supervisor,
    WorkerEnd,
    WorkerEvent,
)

log = logging.getLogger(__name__)

HOME_ASSISTANT_SPREAD_S = (1.0, 10.0)
# A signal handler can only raise a flag: this is how long the loop may overlook it.
LONGEST_WAIT_S = 0.25
REPUBLISH_AFTER_S = 2.0
# What somebody else has put in the place of our retained messages, or taken away, is mended so often.
REFRESH_EVERY_S = 600.0
ALARMS_EVERY_S = 1.0
# Time to say on the bus why the agent is about to end.
GIVE_UP_AFTER_S = 3.0
GOODBYE_S = 5.0


class Agent:
    """The daemon. `run` returns its exit code: 0 stopped, 1 failed."""

    def __init__(self, config: Config, config_path: Path, model: Model) -> None:
        self._topics = config.topics
        self._started_at = time.monotonic()
        self._inbox = Inbox()
        tasks = load_tasks(config)
        self._presence = Presence(self._topics)
        self._connections = Connections(config, self._inbox.deliver, self._presence.will, self._started_at)
        self._supervisor = Supervisor(
            config, model, prefixes_of(tasks), self._inbox.deliver, lambda: open_in_force(config)
        )
        journal_dir = config.state_dir if config.queue.journal == "disk" else None
        self._delivery = Delivery(journal_dir, self._connections.data, config.topics, self._inbox.deliver)
        self._renderer = Renderer()
        self._dispatcher = Dispatcher(config, tasks, self._delivery, self._supervisor.send, self._renderer.render)
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
            dispatcher=self._dispatcher,
            supervisor=self._supervisor,
            model_switch=self._model_switch,
            board=board,
            monitor=self._monitor,
            governor=self._governor,
            energy=self._energy,
        )
        interval_s = config.models["default"].canary_interval_s
        self._canary_watch = CanaryWatch(interval_s, self._supervisor, self._status.alarms.set_quality_fault)
        self._commands = Commands(
            config,
            config_path,
            publish=self._connections.publish,
            apply_config=self._apply_config,
            presence=self._presence,
            dispatcher=self._dispatcher,
            model_switch=self._model_switch,
            status=self._status,
        )
        self._timers: dict[str, float] = {}
        self._signals = 0
        self._signals_handled = 0
        self._watchdog_s = watchdog_interval_s()
        self._stalled: str | None = None
        self._exit_code: int | None = None

    def run(self) -> int:
        """Runs until a signal has drained the agent, or the model cannot be loaded."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hang_up)
        self._renderer.prepare(task.template for task in self._commands.config.tasks.values())
        self._delivery.start()
        self._dispatcher.recover(moment(time.monotonic()))
        self._monitor.start()
        self._supervisor.start(time.monotonic())
        self._connections.subscribe(self._commands.config, self._dispatcher.filters)
        self._connections.start()
        self._timers["health"] = self._timers["alarms"] = time.monotonic()
        if self._watchdog_s is not None:
            self._timers["watchdog"] = time.monotonic()
        try:
            while self._exit_code is None:
                self._step()
        finally:
            self._stop()
        return self._exit_code

    def _step(self) -> None:
        now = time.monotonic()
        parts_at = (self._dispatcher.next_wake_up_at(), self._supervisor.restart_at, self._commands.drain_ends_at)
        wake_up_at = [now + LONGEST_WAIT_S, *self._timers.values(), *(at for at in parts_at if at is not None)]
        event = self._inbox.take(min(wake_up_at) - now)
        now = time.monotonic()
        try:
            if event is not None:
                self._handle(event, now)
            self._tick(now)
        except Exception:
            # One message that we have a bug for must not take the board off the bus.
            log.exception("an event could not be handled")
        self._delivery.flush(now)

    def _handle(self, event: InboxEvent, now: float) -> None:
        match event:
            case Received():
                self._hear(event, now)
            case FromWorker():
                self._on_worker_event(self._supervisor.receive(event, now), now)
            case BoardReading():
                self._on_board_reading(event, now)
            case Connected():
                self._on_connected(event.link, now)
            case Disconnected():
                self._on_disconnected(event, now)
            case Synced():
                self._delivery.synced(event)

    def _on_worker_event(self, event: WorkerEvent | None, now: float) -> None:
        match event:
            case Finished() | Refused() | Failed() | Cancelled():
                self._dispatcher.finish(event, now)
            case CanaryAnswered(answer=answer):
                self._canary_watch.receive(answer, now)
            case Partial():
                self._dispatcher.partial(event)
            case Progress():
                self._supervisor.throughput.count(event)
            case Loading() if self._presence.state is State.OFFLINE:
                # A first load from a slow card may take longer than TimeoutStartSec=.
                notify(f"EXTEND_TIMEOUT_USEC={LOAD_SILENCE_S * 1e6:.0f}")
            case Ready():
                self._on_ready(event, now)
            case LoadFailed(message=message):
                self._on_load_failed(message, now)
            case WorkerExited():
                self._on_worker_exited(event, now)
            case FormerWorkerExited(how=how):
                self._dispatcher.former_worker_lost(how, now)

    def _on_board_reading(self, reading: BoardReading, now: float) -> None:
        self._energy.add(
            EnergySample(
                at_s=now,
                watts=reading.power.watts,
                busy_s=self._supervisor.throughput.busy_s,
                tokens=self._supervisor.throughput.computed_tokens,
                is_active=self._dispatcher.active > 0,
            )
        )
        self._dispatcher.set_energy_rate(self._energy.joules_per_busy_s)
        before = self._governor.limits
        limits = self._governor.decide(reading, now)
        if limits != before:
            self._dispatcher.apply_limits(limits)
            self._supervisor.send(limits.for_worker())
        if limits.level is not before.level:
            reason = limits.reason or "nothing is limited any more"
            log.warning("governor level=%s: %s", limits.level.name.lower(), reason)
            self._status.publish_health()
        self._supervisor.check_memory(reading.memory.available_mb, now)

    def _tick(self, now: float) -> None:
        if self._delivery.has_earlier:  # of which the disk told late
            self._dispatcher.recover(moment(now))
        self._dispatcher.expire(now)
        if self._supervisor.is_outgrown:
            self._dispatcher.hold()
        owes_answer, is_former_busy = self._dispatcher.active > 0, self._dispatcher.is_former_busy
        if end := self._supervisor.watch(now, owes_answer=owes_answer, is_former_busy=is_former_busy):
            self._dispatcher.worker_delayed(ready_at=end.ready_at)
            self._tell_end(end, now)
        self._monitor.supervise(now)
        if self._signals > self._signals_handled:
            self._signals_handled += 1
            self._on_stop_signal(now)
        for name, at in list(self._timers.items()):
            if at > now:
                continue
            del self._timers[name]
            match name:
                # What comes again is due again first: a fault of ours must not end it for good.
                case "health":
                    self._timers["health"] = now + self._commands.config.health.interval_s
                    self._status.publish_health()
                case "alarms":
                    self._timers["alarms"] = now + ALARMS_EVERY_S
                    self._status.update_alarms(now)
                case "watchdog":
                    self._feed_watchdog(now)
                case "republish" | "home-assistant":
                    self._status.publish_all()
                case "refresh":
                    self._timers["refresh"] = now + REFRESH_EVERY_S
                    self._status.publish_all(clear_others=True)
                case "reload":
                    self._commands.reload_on_signal()
                case "give-up":
                    self._exit_code = 1
        self._commands.tick(now)
        if self._commands.is_stopped:
            self._exit_code = 0
        self._connections.maintain(now)
        if "health" in self._timers:  # a reload may have made its interval shorter
            self._timers["health"] = min(self._timers["health"], now + self._commands.config.health.interval_s)
        if end_of_switch := self._model_switch.tick(now):
            self._on_switch_ended(end_of_switch, now)
        is_idle = self._dispatcher.is_idle and not self._governor.limits.causes and not self._model_switch.is_underway
        self._canary_watch.tick(now, is_idle=is_idle)

    def _feed_watchdog(self, now: float) -> None:
        """Three times as often as systemd wants: a step of ours may be late."""
        assert self._watchdog_s is not None
        self._timers["watchdog"] = now + self._watchdog_s / 3
        fault = stalled_part(
            Vitals(
                network=self._connections.threads_at_work,
                worker_silent_s=self._supervisor.silent_s(now),
                worker_dying_s=self._supervisor.dying_s(now),
                is_worker_coming=self._supervisor.is_coming or self._model_switch.is_underway,
                monitor_silent_s=now - self._monitor.advanced_at,
            )
        )
        if fault is None:
            notify("WATCHDOG=1")
        elif fault != self._stalled:
            log.error("the watchdog is not fed: %s", fault)
        self._stalled = fault

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def _on_hang_up(self, _number: int, _frame: object) -> None:
        self._timers["reload"] = 0.0

    def _on_stop_signal(self, now: float) -> None:
        if self._commands.is_stopping:
            self._dispatcher.cancel_all("the agent was told twice to stop", now)
            self._exit_code = 0
            return
        notify("STOPPING=1")
        self._commands.stop(now)

    def _apply_config(self, config: Config) -> None:
        """A reload has read this configuration."""
        logging.getLogger().setLevel(config.log.level)
        tasks = load_tasks(config)
        self._dispatcher.reconfigure(config, tasks)
        self._governor.reconfigure(config.governor)
        self._status.reconfigure(config, tasks)
        self._supervisor.set_prefixes(prefixes_of(tasks))
        self._connections.subscribe(config, self._dispatcher.filters)
        self._status.publish_all()

    def _hear(self, received: Received, now: float) -> None:
        connections, link, message = self._connections, received.link, received.message
        is_ignored = False
        try:
            if message.topic == self._topics.state:
                self._mend_state(message, now)
            elif self._is_from_home_assistant(received):
                self._on_home_assistant(message, now)
            elif message.is_retained:
                # A retained request or command would come again at every reconnect: it is old by definition.
                is_ignored = True
                log.info("retained message dropped topic=%r", cut(message.topic))
            elif link is connections.control:
                self._commands.receive(message)
            else:
                is_ignored = not self._dispatcher.receive(message, now)
        finally:
            connections.count_received(is_ignored=is_ignored)
            if link is connections.data:
                self._delivery.received(received)
            else:
                link.acknowledge(received)

    def _mend_state(self, message: Message, now: float) -> None:
        """A late will of a connection before this one must not be the last word on our state, nor anybody else's."""
        if session := self._presence.foreign_session(message.payload):
            self._status.alarms.foreign_session(session, now)
        if message.payload != self._presence.birth().payload:
            self._timers.setdefault("republish", now + REPUBLISH_AFTER_S)

    def _is_from_home_assistant(self, received: Received) -> bool:
        # On the data connection it would be a reading of a task that listens there, too.
        is_status = received.message.topic == discovery_status(self._commands.config.homeassistant.prefix)
        return is_status and received.link is self._connections.control

    def _on_home_assistant(self, message: Message, now: float) -> None:
        """It has started and knows no states yet; not every board of a site tells it in the same second."""
        if message.payload == b"online" and not message.is_retained:
            spread_s = random.uniform(*HOME_ASSISTANT_SPREAD_S)  # noqa: S311
            self._timers.setdefault("home-assistant", now + spread_s)

    def _on_connected(self, link: MqttLink, now: float) -> None:
        self._connections.on_connected(link, now)
        if link is self._connections.control:
            self._status.publish_all(clear_others=True)
            # A broker that lost its retained messages at a restart may lose ours to the same start: say it once more.
            self._timers["republish"] = now + REPUBLISH_AFTER_S
            self._timers["refresh"] = now + REFRESH_EVERY_S

    def _on_disconnected(self, event: Disconnected, now: float) -> None:
        self._connections.on_disconnected(event, now)
        if event.reason == TAKEN_OVER:
            self._status.alarms.client_taken_over(now)

    def _on_ready(self, ready: Ready, now: float) -> None:
        replaced = self._supervisor.became_ready(ready, now)
        if self._presence.state is not State.OFFLINE:
            end = self._supervisor.last_end
            restarts, reason = self._supervisor.restarts, end.how if end else None
            self._status.publish_event("worker-restarted", {"restarts": restarts, "pid": ready.pid, "reason": reason})
        if replaced is not None:
            self._dispatcher.model_replaced()
            self._status.publish_event("model-switched", switched_event(replaced, self._supervisor.model, How.REPLACED))
        self._serve(ready, now)

    def _on_switch_ended(self, end: Switched | SwitchFailed, now: float) -> None:
        if isinstance(end, Switched):
            self._status.publish_event("model-switched", end.event)
            self._serve(end.ready, now, was_asked=True)
        else:
            self._status.publish_event("model-switch-failed", end.event)
        self._commands.switch_ended(end)

    def _serve(self, ready: Ready, now: float, *, was_asked: bool = False) -> None:
        """A new worker answers. was_asked: a switch has just asked its canaries."""
        self._canary_watch.worker_ready(now, was_asked=was_asked)
        self._governor.set_capacity(
            EngineCapacity(
                decode_threads=ready.threads,
                prefill_threads=ready.prefill_threads,
                batch_tokens=ready.batch_tokens,
                max_active=ready.max_active,
            )
        )
        # A new worker starts without limits.
        self._supervisor.send(self._governor.limits.for_worker())
        if self._presence.state is State.OFFLINE:
            is_draining = self._dispatcher.is_draining
            state, reason = (State.DRAINING, "drain") if is_draining else (State.ONLINE, None)
            self._status.publish_state(state, reason)
            notify("READY=1")
        self._status.publish_all()
        self._dispatcher.worker_ready(self._supervisor.model.name, ready, now)

    def _on_load_failed(self, message: str, now: float) -> None:
        self._supervisor.load_failed(message)
        if self._supervisor.has_given_up:
            self._status.publish_state(State.OFFLINE, f"model-load-failed: {message}")
            self._dispatcher.give_up(f"the model cannot be loaded: {message}", now)
            self._timers["give-up"] = now + GIVE_UP_AFTER_S

    def _on_worker_exited(self, event: WorkerExited, now: float) -> None:
        end = self._supervisor.ended(event, now)
        self._dispatcher.worker_lost(end.how, now, ready_at=end.ready_at, is_blameless=end.is_outgrown)
        if not self._model_switch.is_holding:
            self._dispatcher.release(now)
        if not self._supervisor.has_given_up:
            self._tell_end(end, now)

    def _tell_end(self, end: WorkerEnd, now: float) -> None:
        """Of a worker that is started again."""
        self._status.alarms.worker_ended(end.how, now, is_out_of_memory=end.is_out_of_memory)
        self._status.publish_health()
        if self._presence.state is State.OFFLINE:
            self._status.publish_state(State.OFFLINE, f"model-load-failed: {end}; the worker is started again")

    def _stop(self) -> None:
        """Replies first, the farewell next, the worker last."""
        self._inbox.close()
        self._monitor.stop()
        now = time.monotonic()
        if end_of_switch := self._model_switch.stop(now):
            self._on_switch_ended(end_of_switch, now)
        self._delivery.stop(GOODBYE_S)
        self._connections.data.stop(GOODBYE_S)
        self._delivery.close()
        if self._exit_code == 0:
            self._status.publish_stopped()
        self._connections.control.stop(GOODBYE_S)
        self._supervisor.stop(GOODBYE_S)
        self._renderer.stop()
