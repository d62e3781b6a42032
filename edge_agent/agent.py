"""START HERE. Builds every part of the daemon, starts them, gives each event to the part it is for, stops them.

One thread, that of `Agent.run`, owns all state. The network threads (mqtt_link), the reader of the worker's pipe
(engine/process), the monitor of the board and the signal handlers only put events into its inbox.
"""

from __future__ import annotations

import itertools
import logging
import queue
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.alarm_board import AlarmBoard
from edge_agent.board.board import Board
from edge_agent.board.identity import machine
from edge_agent.board.monitor import Monitor
from edge_agent.board.process import resident_mb
from edge_agent.board.reading import BoardReading
from edge_agent.board_control import BoardControl
from edge_agent.clock import timestamp
from edge_agent.command_desk import CommandDesk
from edge_agent.commands import CommandError
from edge_agent.config import Config, ConfigError, load_config
from edge_agent.config_files import file_faults
from edge_agent.dispatcher import Dispatcher
from edge_agent.engine.process import EngineProcess, WorkerExited
from edge_agent.engine.protocol import (
    Cancelled,
    EngineSettings,
    Event,
    Failed,
    Finished,
    Load,
    LoadFailed,
    Partial,
    Progress,
    Ready,
    Refused,
    SetTasks,
)
from edge_agent.faults import how_ended, last_words
from edge_agent.health import Facts, Throughput, health_document
from edge_agent.homeassistant import discovery
from edge_agent.messages import encode
from edge_agent.model_store import Model, ModelError, open_model
from edge_agent.mqtt_link import TAKEN_OVER, Broken, Connected, Disconnected, Inbound, LinkEvent, MqttLink, Publication
from edge_agent.presence import Presence, State, info_document
from edge_agent.systemd_notify import notify, watchdog_interval_s
from edge_agent.tasks import load_tasks
from edge_agent.topics import discovery_status
from edge_agent.watchdog import Vitals, stalled

log = logging.getLogger(__name__)

MAX_INBOX = 1000
HOME_ASSISTANT_SPREAD_S = (1.0, 10.0)
# A signal handler can only raise a flag: this is how long the loop may overlook it.
LONGEST_WAIT_S = 0.25
REPUBLISH_AFTER_S = 2.0
# First and longest pause before a new worker; a worker that lived this long before it died starts at the first again.
RESTART_AFTER_S = (1.0, 30.0)
STABLE_AFTER_S = 60.0
ALARMS_EVERY_S = 1.0
# A watcher that was away for longer has no use for what happened before.
EVENT_EXPIRY_S = 86_400
UNSTABLE_WINDOW_S = 60.0
# Between two steps the worker tells of itself each second; the longest step is a full batch of a 3B model on a Pi 4.
WORKER_SILENCE_S = 120.0
# Time to say on the bus why the agent is about to end.
GIVE_UP_AFTER_S = 3.0
GOODBYE_S = 5.0

# What the other threads put into the inbox.
InboxEvent = LinkEvent | Event | WorkerExited | BoardReading


class Agent:
    """The daemon. `run` returns its exit code: 0 stopped, 1 failed."""

    def __init__(self, config: Config, config_path: Path, model: Model) -> None:
        self._config = config
        self._config_path = config_path
        self._topics = config.topics
        self._model = model
        # Urgency, order of arrival, event: the worker's come first, or it would stand idle behind a flood of requests.
        self._inbox: queue.PriorityQueue[tuple[bool, int, InboxEvent]] = queue.PriorityQueue(MAX_INBOX)
        self._arrivals = itertools.count()
        self._tasks = load_tasks(config)
        self._presence = Presence(self._topics)
        self._board = Board(config.board.root, config.models_dir)
        self._monitor = Monitor(self._board, self._deliver)
        self._alarms = AlarmBoard(self._topics, self._announce)
        prefix = f"{config.device.site}.{config.device.id}"
        self._data = MqttLink(f"{prefix}.data", config.mqtt, self._deliver, is_persistent=True)
        # Commands that came while this connection was down are stale: it starts clean each time.
        self._control = MqttLink(f"{prefix}.control", config.mqtt, self._deliver, will=self._presence.will)
        self._command_desk = CommandDesk(config, self._publish_result, self)
        self._engine: EngineProcess | None = None
        self._worker: Ready | None = None
        self._dispatcher = Dispatcher(config, self._tasks, self._publish_reply, self._send)
        self._dispatcher.model = model.name
        self._throughput = Throughput()
        self._board_control = BoardControl(config.governor, self._dispatcher, self._throughput, self._send)
        self._timers: dict[str, float] = {}
        self._started_at = time.monotonic()
        self._data_lost_at: float | None = self._started_at
        self._control_connected_at: float | None = None
        self._told: set[tuple[MqttLink, str]] = set()  # why a connection that is still down could not be made
        self._received = self._published = self._ignored = 0
        self._worker_restarts = 0
        self._worker_end: str | None = None
        self._restart_after_s = RESTART_AFTER_S[0]
        self._ready_at: float | None = None
        # How long a worker that died takes to be replaced; None = none was ever ready.
        self._reload_s: float | None = None
        self._heard_of_worker_at = self._started_at
        self._sequence = 0
        self._signals = 0
        self._signals_handled = 0
        self._is_stopping = False
        self._watchdog_s = watchdog_interval_s()
        self._stalled: str | None = None
        self._is_closed = threading.Event()
        self._drain_done: Callable[[int], None] | None = None
        self._exit_code: int | None = None

    def run(self) -> int:
        """Runs until a signal has drained the agent, or the model cannot be loaded."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hang_up)
        self._monitor.start()
        self._start_worker()
        filters = {self._topics.all_commands, self._topics.state}
        if self._config.homeassistant.enabled:
            filters.add(discovery_status(self._config.homeassistant.prefix))
        self._control.set_subscriptions(filters)
        self._data.set_subscriptions(self._dispatcher.filters)
        self._control.start()
        self._data.start()
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
        wake_up_at = [now + LONGEST_WAIT_S, *self._timers.values()]
        deadline_at = self._dispatcher.next_wake_up_at()
        if deadline_at is not None:
            wake_up_at.append(deadline_at)
        try:
            _, _, event = self._inbox.get(timeout=max(0.0, min(wake_up_at) - now))
        except queue.Empty:
            event = None
        now = time.monotonic()
        try:
            if event is not None:
                self._handle(event, now)
            self._tick(now)
        except Exception:
            # One message that we have a bug for must not take the board off the bus.
            log.exception("an event could not be handled")

    def _deliver(self, event: InboxEvent) -> None:
        """For the other threads: a full inbox slows them down; after the end nobody reads it, nor waits for it."""
        entry = (isinstance(event, LinkEvent), next(self._arrivals), event)
        while not self._is_closed.is_set():
            try:
                self._inbox.put(entry, timeout=LONGEST_WAIT_S)
            except queue.Full:
                continue
            return

    def _handle(self, event: InboxEvent, now: float) -> None:
        if not isinstance(event, (Inbound, Connected, Disconnected, BoardReading)):
            self._heard_of_worker_at = now
        match event:
            case Inbound():
                self._hear(event, now)
            case Finished() | Refused() | Failed() | Cancelled():
                self._dispatcher.answered(event, now)
            case Partial():
                self._dispatcher.partial(event)
            case Progress():
                self._throughput.count(event)
            case BoardReading():
                if self._board_control.observe(event, now):
                    self._publish_health()
            case Connected():
                self._on_connected(event.link, now)
            case Disconnected():
                self._on_disconnected(event, now)
            case Ready():
                self._on_ready(event, now)
            case LoadFailed(message=message):
                self._on_load_failed(message, now)
            case WorkerExited():
                self._on_worker_exited(event, now)

    def _tick(self, now: float) -> None:
        self._dispatcher.expire(now)
        self._watch_worker(now)
        self._monitor.supervise(now)
        if self._signals > self._signals_handled:
            self._signals_handled += 1
            self._on_stop_signal(now)
        for name, at in list(self._timers.items()):
            if at > now:
                continue
            del self._timers[name]
            match name:
                case "health":
                    self._publish_health()
                    self._timers["health"] = now + self._config.health.interval_s
                case "alarms":
                    self._look_for_alarms(now)
                    self._timers["alarms"] = now + ALARMS_EVERY_S
                case "watchdog":
                    self._feed_watchdog(now)
                case "republish" | "home-assistant":
                    self._publish_retained()
                case "restart":
                    self._restart_worker(now)
                case "drain":
                    cancelled = self._dispatcher.cancel_all("the drain ran out of time", now)
                    log.info("drain ran out of time cancelled=%d", cancelled)
                    self._end_drain(cancelled)
                case "reload":
                    self._reload_on_signal()
                case "give-up":
                    self._exit_code = 1
        if self._drain_done is not None and self._dispatcher.is_idle:
            self._end_drain(0)

    def _feed_watchdog(self, now: float) -> None:
        """Three times as often as systemd wants: a step of ours may be late."""
        assert self._watchdog_s is not None
        self._timers["watchdog"] = now + self._watchdog_s / 3
        is_worker_coming = "restart" in self._timers or (self._engine is not None and self._engine.is_running)
        read_at = self._board_control.read_at
        fault = stalled(
            Vitals(
                network={link.client_id: link.is_at_work for link in (self._data, self._control)},
                worker_silent_s=None if self._worker is None else now - self._heard_of_worker_at,
                is_worker_coming=is_worker_coming,
                monitor_silent_s=now - (self._started_at if read_at is None else read_at),
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
        if self._is_stopping:
            self._dispatcher.cancel_all("the agent was told twice to stop", now)
            self._exit_code = 0
            return
        self._is_stopping = True
        notify("STOPPING=1")
        log.info("stopping waiting=%d active=%d", len(self._dispatcher.queue), self._dispatcher.active)
        self._begin_drain("stopping", self._config.queue.drain_timeout_s, now, self._exit_after_drain)

    def _exit_after_drain(self, _cancelled: int) -> None:
        self._exit_code = 0

    def _hear(self, inbound: Inbound, now: float) -> None:
        self._received += 1
        try:
            if inbound.topic == self._topics.state:
                self._mend_state(inbound, now)
            elif self._is_from_home_assistant(inbound):
                self._on_home_assistant(inbound, now)
            elif inbound.retain:
                # A retained request or command would come again at every reconnect: it is old by definition.
                self._ignored += 1
                log.info("retained message dropped topic=%r", inbound.topic)
            elif inbound.link is self._control:
                self._command_desk.hear(inbound)
            elif not self._dispatcher.hear(inbound, now):
                self._ignored += 1
        finally:
            inbound.link.acknowledge(inbound)

    def _mend_state(self, inbound: Inbound, now: float) -> None:
        """A late will of a connection before this one must not be the last word on our state."""
        if session := self._presence.foreign_session(inbound.payload):
            self._alarms.session_heard(session, now)
        if inbound.payload != self._presence.birth().payload and self._presence.state is not State.OFFLINE:
            self._timers.setdefault("republish", now + REPUBLISH_AFTER_S)

    def _is_from_home_assistant(self, inbound: Inbound) -> bool:
        # On the data connection it would be a reading of a task that listens there, too.
        return inbound.link is self._control and inbound.topic == discovery_status(self._config.homeassistant.prefix)

    def _on_home_assistant(self, inbound: Inbound, now: float) -> None:
        """It has started and knows no states yet; not every board of a site tells it in the same second."""
        if inbound.payload == b"online" and not inbound.retain:
            spread_s = random.uniform(*HOME_ASSISTANT_SPREAD_S)  # noqa: S311
            self._timers.setdefault("home-assistant", now + spread_s)

    def _publish_reply(self, publication: Publication) -> bool:
        is_taken = self._data.publish(publication)
        self._published += is_taken
        return is_taken

    def _publish_result(self, publication: Publication) -> None:
        self._published += self._control.publish(publication)

    def _announce(self, publication: Publication) -> None:
        """What is true only now is not kept for later: at the next connection it is told anew, with its own session."""
        if self._control.is_connected:
            self._published += self._control.publish(publication)

    def _on_connected(self, link: MqttLink, now: float) -> None:
        log.info("connected client=%s", link.client_id)
        self._told = {(other, reason) for other, reason in self._told if other is not link}
        if link is self._data:
            self._data_lost_at = None
            return
        self._control_connected_at = now
        self._publish_retained(is_new_connection=True)
        # A broker that lost its retained messages at a restart may lose ours to the same start: say it once more.
        self._timers["republish"] = now + REPUBLISH_AFTER_S

    def _on_disconnected(self, event: Disconnected, now: float) -> None:
        if event.broken is Broken.LOST:
            log.warning("disconnected client=%s reason=%s", event.link.client_id, event.reason)
        elif (event.link, event.reason) not in self._told:
            # A broker that is away for a night is no news at each attempt.
            self._told.add((event.link, event.reason))
            log.warning(
                "not connected client=%s broker=%s reason=%s: it is tried again until it succeeds",
                event.link.client_id, event.link.broker, event.reason,
            )  # fmt: skip
        if event.reason == TAKEN_OVER:
            log.error("another client connects as %s: two agents have the same site and id", event.link.client_id)
            self._alarms.client_taken_over(now)
        if event.link is self._data:
            self._data_lost_at = self._data_lost_at or now
        else:
            self._control_connected_at = None

    def _publish_retained(self, *, is_new_connection: bool = False) -> None:
        self._announce(self._presence.birth())
        self._alarms.publish_all(time.monotonic(), self._presence.session, is_new_connection=is_new_connection)
        document = info_document(self._config, self._board, self._model, self._tasks, self._worker)
        self._announce(_document(self._topics.info, document, retain=True))
        to_home_assistant = discovery(self._config, self._board.model() or machine())
        if to_home_assistant and (to_home_assistant.payload or is_new_connection):
            self._announce(to_home_assistant)
        self._publish_health()

    def _set_state(self, state: State, reason: str | None) -> None:
        self._presence.state, self._presence.reason = state, reason
        log.info("state=%s reason=%s", state.value, reason)
        self._announce(self._presence.birth())

    def _publish_health(self) -> None:
        expiry_s = max(1, round(3 * self._config.health.interval_s))
        health = health_document(self._facts())
        self._announce(_document(self._topics.health, health, retain=True, expiry_s=expiry_s))
        notify(f"STATUS={self._presence.state.value}, {self._dispatcher.active} running")

    def _look_for_alarms(self, now: float) -> None:
        has_changed = self._alarms.look(
            now,
            session=self._presence.session,
            reading=self._board_control.reading,
            queue_depth=len(self._dispatcher.queue),
            overloaded_total=self._dispatcher.statistics.overloaded_total,
        )
        if has_changed:
            self._publish_health()

    def _facts(self) -> Facts:
        now = time.monotonic()
        self._sequence += 1
        links = (self._data, self._control)
        return Facts(
            ts=timestamp(),
            session=self._presence.session,
            seq=self._sequence,
            uptime_s=now - self._started_at,
            connected_s=None if self._control_connected_at is None else now - self._control_connected_at,
            reconnects=sum(max(0, link.connects - 1) for link in links),
            received=self._received,
            published=self._published,
            queued_out=sum(link.queued for link in links),
            dropped=sum(link.dropped for link in links) + self._ignored,
            disconnects_lately=sum(now - at < UNSTABLE_WINDOW_S for link in links for at in link.disconnects),
            data_lost_s=None if self._data_lost_at is None else now - self._data_lost_at,
            queue_depth=len(self._dispatcher.queue),
            queue_capacity=self._dispatcher.queue.capacity,
            oldest_ms=self._dispatcher.queue.oldest_ms(now),
            estimated_wait_ms=self._dispatcher.estimated_wait_ms(now),
            active=self._dispatcher.active,
            is_draining=self._dispatcher.is_draining,
            is_loaded=self._worker is not None,
            statistics=self._dispatcher.statistics,
            throughput=self._throughput,
            reading=self._board_control.reading,
            limits=self._dispatcher.limits,
            energy=self._dispatcher.energy,
            agent_rss_mb=resident_mb(),
            worker_rss_mb=resident_mb(self._worker.pid) if self._worker else None,
            worker=self._worker,
            worker_restarts=self._worker_restarts,
            model=self._model.bundle_name,
            alarms=self._alarms.severities,
        )

    def _start_worker(self) -> None:
        load = Load(
            model_path=str(self._model.path),
            settings=EngineSettings(**self._config.engine.model_dump()),
            tasks=tuple(task.prefix() for task in self._tasks.values()),
            model_sha256=self._model.name.sha256,
            adapters=self._model.adapters,
            state_dir=str(self._config.state_dir),
            is_restart=self._worker_restarts > 0,
        )
        self._throughput.worker_started()
        engine = EngineProcess(load, self._deliver)
        engine.start()
        # Only one that was started can be stopped.
        self._engine = engine
        log.info("worker pid=%s loads %s; its steps are measured if they never were", engine.pid, self._model.path)
        self._heard_of_worker_at = time.monotonic()

    def _restart_worker(self, now: float) -> None:
        """The model file is opened anew: if it is another one now, it must be as its manifest says, and be named so."""
        try:
            if not self._model.is_unchanged():
                configured = self._config.models["default"]
                self._model = open_model("default", configured.path, configured.public_key)
                self._dispatcher.model = self._model.name
            self._start_worker()
        except (ModelError, OSError) as error:
            log.warning("the worker cannot be started, restart_in_s=%.1f: %s", self._restart_after_s, error)
            self._schedule_restart(now)

    def _schedule_restart(self, now: float) -> None:
        self._timers["restart"] = now + self._restart_after_s
        self._restart_after_s = min(2 * self._restart_after_s, RESTART_AFTER_S[1])

    def _watch_worker(self, now: float) -> None:
        """A worker that owes an answer and says nothing is stopped or stuck: the next one runs what it left."""
        if self._engine is None or now - self._heard_of_worker_at < WORKER_SILENCE_S:
            return
        if self._worker is not None and self._dispatcher.active:
            log.error("worker silent_s=%.0f active=%d: it is killed", WORKER_SILENCE_S, self._dispatcher.active)
            self._heard_of_worker_at = now
            self._engine.kill()

    def _send(self, command: Any) -> None:
        if self._engine is not None:
            self._engine.send(command)

    def _on_ready(self, ready: Ready, now: float) -> None:
        is_first = self._presence.state is State.OFFLINE
        self._worker, self._ready_at = ready, now
        self._reload_s = ready.load_s - ready.measure_s
        self._dispatcher.slots = ready.max_active
        self._board_control.worker_ready(ready)
        self._dispatcher.latency.set_rates(ready.prefill_tok_s, ready.decode_tok_s)
        log.info("model ready load_s=%.1f threads=%d repacked_mib=%s", ready.load_s, ready.threads, ready.repacked_mib)
        if is_first:
            is_draining = self._dispatcher.is_draining
            self._set_state(State.DRAINING if is_draining else State.ONLINE, "drain" if is_draining else None)
            notify("READY=1")
        else:
            event = {"ts": timestamp(), "restarts": self._worker_restarts, "pid": ready.pid, "reason": self._worker_end}
            topic = self._topics.event("worker-restarted")
            self._published += self._control.publish(_document(topic, event, expiry_s=EVENT_EXPIRY_S))
        self._publish_retained()
        self._dispatcher.fill(now)

    def _on_load_failed(self, message: str, now: float) -> None:
        log.error("the model cannot be loaded: %s", message)
        if self._presence.state is not State.OFFLINE:
            return  # it was loaded before: the worker's end, which follows, leads to another try
        self._set_state(State.OFFLINE, f"model-load-failed: {message}")
        self._dispatcher.give_up(f"the model cannot be loaded: {message}", now)
        self._timers["give-up"] = now + GIVE_UP_AFTER_S

    def _on_worker_exited(self, event: WorkerExited, now: float) -> None:
        if self._ready_at is not None and now - self._ready_at > STABLE_AFTER_S:
            self._restart_after_s = RESTART_AFTER_S[0]
        self._worker = self._ready_at = None
        how = how_ended(event.returncode)
        ready_at = None if self._reload_s is None else now + self._restart_after_s + self._reload_s
        self._dispatcher.worker_lost(how, now, ready_at=ready_at)
        if self._exit_code is not None or "give-up" in self._timers:
            return
        log.error(
            "worker ended: %s restart_in_s=%.1f log=%s",
            how, self._restart_after_s, last_words(event.log_tail) or "nothing",
        )  # fmt: skip
        self._worker_restarts += 1
        self._worker_end = how
        self._alarms.worker_ended(now)
        self._schedule_restart(now)

    def ping(self) -> dict[str, Any]:
        return {"ts": timestamp(), "session": self._presence.session}

    def report_health(self) -> dict[str, Any]:
        self._publish_health()
        return {"seq": self._sequence}

    def drain(self, timeout_s: float | None, done: Callable[[int], None]) -> None:
        limit_s = self._config.queue.drain_timeout_s if timeout_s is None else timeout_s
        self._begin_drain("drain command", limit_s, time.monotonic(), done)

    def resume(self) -> None:
        if self._is_stopping:
            raise CommandError("stopping", "the agent is stopping and cannot resume")
        self._end_drain(0)
        self._dispatcher.is_draining = False
        if self._presence.state is State.DRAINING:
            self._set_state(State.ONLINE, None)

    def cancel(self, request_id: str | int, reply_to: str | None) -> int:
        return self._dispatcher.cancel(request_id, reply_to, time.monotonic())

    def reload(self) -> dict[str, Any]:
        """Takes over what can change while running; says what needs a restart. Raises CommandError."""
        try:
            config = load_config(self._config_path)
            if faults := file_faults(config):
                raise ConfigError(self._config_path, faults)
        except ConfigError as error:
            raise CommandError("bad_config", "; ".join(error.faults)) from error
        live = {"tasks", "queue", "health", "commands"}
        changed = [name for name in type(config).model_fields if getattr(config, name) != getattr(self._config, name)]
        config = self._config.model_copy(update={name: getattr(config, name) for name in live})
        self._command_desk.reconfigure(config)
        self._config = config
        self._tasks = load_tasks(config)
        self._dispatcher.reconfigure(config, self._tasks)
        self._send(SetTasks(tasks=tuple(task.prefix() for task in self._tasks.values())))
        self._data.set_subscriptions(self._dispatcher.filters)
        self._publish_retained()
        applied = [name for name in changed if name in live]
        needs_restart = [name for name in changed if name not in live]
        log.info("reloaded applied=%s needs_restart=%s", ",".join(applied) or "-", ",".join(needs_restart) or "-")
        return {"applied": applied, "needs_restart": needs_restart}

    def _begin_drain(self, reason: str, timeout_s: float, now: float, done: Callable[[int], None]) -> None:
        self._end_drain(0)
        self._dispatcher.is_draining = True
        if self._presence.state is not State.OFFLINE:
            self._set_state(State.DRAINING, reason)
        self._drain_done = done
        self._timers["drain"] = now + timeout_s

    def _end_drain(self, cancelled: int) -> None:
        """Every request has its answer, or the drain was called off."""
        self._timers.pop("drain", None)
        done, self._drain_done = self._drain_done, None
        if done is not None:
            done(cancelled)

    def _reload_on_signal(self) -> None:
        try:
            self.reload()
        except CommandError as error:
            log.warning("reload refused, the configuration stays as it was: %s", error.message)

    def _stop(self) -> None:
        """Replies first, the farewell next, the worker last."""
        self._is_closed.set()
        self._monitor.stop()
        self._data.stop(GOODBYE_S)
        if self._exit_code == 0:
            self._set_state(State.STOPPED, None)
        self._control.stop(GOODBYE_S)
        if self._engine is not None:
            self._engine.stop(GOODBYE_S)


def _document(
    topic: str, document: dict[str, Any], *, retain: bool = False, expiry_s: int | None = None
) -> Publication:
    return Publication(
        topic=topic, payload=encode(document), retain=retain, expiry_s=expiry_s, content_type="application/json"
    )
