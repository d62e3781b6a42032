"""Publishes what the board reports about itself: state, info, health, alarms, events and Home Assistant discovery."""

import hashlib
import logging
import math
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.energy import EnergyMeter
from edge_agent.board.governor import Governor, Level
from edge_agent.board.monitor import Monitor
from edge_agent.board.process import resident_mb
from edge_agent.board.systemd_notify import notify
from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.kinds.registry import BUILT_IN_TASK
from edge_agent.core.messages import Message, json_publication
from edge_agent.core.topics import discovery_status
from edge_agent.models.switch import ModelSwitch
from edge_agent.mqtt.connections import Connections
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.tasks import Task
from edge_agent.status.alarms import Alarms
from edge_agent.status.health import ABSENT_SECTIONS, Part, health_document
from edge_agent.status.homeassistant import discovery, withdrawal
from edge_agent.status.presence import Presence, State
from edge_agent.worker.supervisor import Supervisor

log = logging.getLogger(__name__)

ALARMS_EVERY_S = 1.0
# After a connection, a start of Home Assistant, or a foreign message on our state, others may be busy for this long.
REPUBLISH_AFTER_S = 2.0
# A watcher that was away for longer has no use for old events.
EVENT_EXPIRY_S = 86_400


class StatusPublisher:
    """Belongs to the agent's thread. Each document is made of what the parts report at that moment."""

    def __init__(
        self,
        config: Config,
        tasks: dict[str, Task],
        *,
        presence: Presence,
        connections: Connections,
        delivery: Delivery,
        dispatcher: Dispatcher,
        supervisor: Supervisor,
        model_switch: ModelSwitch,
        board: Board,
        monitor: Monitor,
        governor: Governor,
        energy: EnergyMeter,
    ) -> None:
        self.alarms = Alarms(config.topics, connections.publish_if_connected)
        self.health_sequence = 0
        self._config = config
        self._tasks = tasks
        self._presence = presence
        self._connections = connections
        self._delivery = delivery
        self._dispatcher = dispatcher
        self._supervisor = supervisor
        self._model_switch = model_switch
        self._board = board
        self._monitor = monitor
        self._governor = governor
        self._energy = energy
        self._parts: list[Part] = []
        self._started_at = time.monotonic()
        self._alarms_at = self._health_at = self._started_at
        self._republish_at = math.inf

    def add_part(self, part: Part) -> None:
        """Includes an optional part in health, reasons and alarms from now on."""
        self._parts.append(part)

    @property
    def due_at(self) -> float:
        """When `tick` has something to do."""
        return min(self._alarms_at, self._health_at, self._republish_at)

    def tick(self, now: float) -> None:
        """Publishes what is due. Sets the next time before that, so that a fault does not end the repetition."""
        if now >= self._alarms_at:
            self._alarms_at = now + ALARMS_EVERY_S
            self.update_alarms(now)
        if now >= self._health_at:
            self._health_at = now + self._config.health.interval_s
            self.publish_health()
        if now >= self._republish_at:
            self._republish_at = math.inf
            self.publish_all()

    def on_connected(self, now: float) -> None:
        """Publishes what a new control connection calls for."""
        self.publish_all(clear_others=True)
        # A broker that lost its retained messages in a restart may lose these in the same start.
        self._republish_at = now + REPUBLISH_AFTER_S

    def receive(self, message: Message, now: float) -> bool:
        """Takes a message on our state topic, or of Home Assistant. Returns False if it is for another part."""
        if message.topic == self._config.topics.state:
            if session := self._presence.foreign_session(message.payload):
                self.alarms.on_foreign_session(session, now)
            # Neither another client nor the late will of an earlier connection may have the last word on our state.
            is_outdated = message.payload != self._presence.birth().payload
        elif message.topic == discovery_status(self._config.homeassistant.prefix):
            is_outdated = message.payload == b"online" and not message.is_retained
        else:
            return False
        if is_outdated:
            self._republish_at = min(self._republish_at, now + REPUBLISH_AFTER_S)
        return True

    def reconfigure(self, config: Config, tasks: dict[str, Task]) -> None:
        """Takes a configuration, which applies from the next `publish_all` on."""
        before, after = self._config.homeassistant, config.homeassistant
        if before.enabled and (after.enabled is False or after.prefix != before.prefix):
            # Kept for a broker that is away, because the old topic is not known later.
            self._connections.control.publish(withdrawal(self._config))
        self._config, self._tasks = config, tasks
        self._health_at = min(self._health_at, time.monotonic() + config.health.interval_s)

    def publish_all(self, *, clear_others: bool = False) -> None:
        """Publishes all retained topics. `clear_others` ends what earlier processes or other clients left there."""
        publish, now = self._connections.publish_if_connected, time.monotonic()
        publish(self._presence.birth())
        self.alarms.publish_all(now, self._presence.session, clear_others=clear_others)
        publish(json_publication(self._config.topics.info, self._info(), retain=True))
        device = discovery(self._config, self._board.model() or platform.machine())
        if device and (device.payload or clear_others):
            publish(device)
        self.publish_health()

    def _info(self) -> dict[str, Any]:
        """What this board is and what it can do. What only a worker knows is null until one is ready."""
        ready, model = self._supervisor.ready, self._supervisor.model
        unserved = self._unserved_tasks()
        names = ", ".join(unserved)
        no_model = f"the bundle has no model made for the labels and template of: {names}" if unserved else None
        warning = "; ".join(filter(None, (model.warning, no_model)))
        return {
            "schema": 1,
            "ts": timestamp(),
            "site": self._config.device.site,
            "device": self._config.device.id,
            "board": {"model": self._board.model(), "machine": platform.machine()},
            "cpu_features": self._board.cpu_features(),
            "tasks": {
                name: {**task.describe(), **self._dispatcher.admission.answerers.describe(task)}
                for name, task in self._tasks.items()
                # The built-in task is there whatever the model is.
                if name != BUILT_IN_TASK or task.is_served_by(model)
            },
            "models": [{**model.describe(), **self._model_switch.describe(), "warning": warning or None}],
            "limits": {
                **{name: getattr(ready, name, None) for name in ("context_tokens", "max_active")},
                "queue_capacity": self._config.queue.capacity,
                "max_payload_bytes": self._config.queue.max_payload_bytes,
                "default_deadline_ms": self._config.queue.default_deadline_ms,
                "health_interval_s": self._config.health.interval_s,
                "reply_topics": list(self._config.reply_topics),
                "commands": list(self._config.commands.allow),
            },
            "engine": {name: getattr(ready, name, None) for name in ("threads", "prefill_threads", "batch_tokens")},
            "versions": {
                "edge_agent": __version__,
                "llama_cpp_python": _installed_version("llama-cpp-python"),
                "paho_mqtt": _installed_version("paho-mqtt"),
                "folder": _version_folder(Path(sys.prefix)),
            },
            "config_sha256": _config_sha256(self._config),
        }

    def _unserved_tasks(self) -> list[str]:
        """The configured tasks that the bundle in force has no model for; none until it is loaded."""
        return [] if self._supervisor.ready is None else self._dispatcher.unserved_tasks(self._supervisor.model)

    def publish_state(self, state: State, reason: str | None) -> None:
        self._presence.state, self._presence.reason = state, reason
        unseen = "" if self._connections.control.is_connected else " (no broker knows it yet: not connected)"
        log.info("state=%s reason=%s%s", state.value, reason, unseen)
        self._connections.publish_if_connected(self._presence.birth())

    def publish_stopped(self) -> None:
        """Ends an orderly run. Alarms end after the state, so that their causes do not look solved."""
        self.publish_state(State.STOPPED, None)
        self.alarms.withdraw()

    def publish_event(self, name: str, document: dict[str, Any]) -> None:
        """Publishes an event. It is not retained, because it happened once, but kept until a broker has it."""
        event = json_publication(
            self._config.topics.event(name), {"ts": timestamp(), **document}, expiry_s=EVENT_EXPIRY_S
        )
        self._connections.control.publish(event)

    def publish_health(self) -> int:
        """Publishes health, unless promises are still to be judged. Returns the number of this or the next document."""
        if not self._dispatcher.admission.answerers.is_judged:
            return self.health_sequence + 1
        self.health_sequence += 1
        expiry_s = max(1, round(3 * self._config.health.interval_s))
        topic, health = self._config.topics.health, self.health(time.monotonic())
        self._connections.publish_if_connected(json_publication(topic, health, retain=True, expiry_s=expiry_s))
        status = f"STATUS={self._presence.state.value}, {health['inference']['active']} running"
        notify("; ".join((status, *health["reasons"])))
        return self.health_sequence

    def update_alarms(self, now: float) -> None:
        has_changed = self.alarms.update(
            now,
            session=self._presence.session,
            reading=self._monitor.latest(now),
            findings={name: finding for part in self._parts for name, finding in part.findings(now).items()},
            expires=self._supervisor.model.expires,
            queue_depth=self._dispatcher.waiting,
            overloaded_total=self._dispatcher.replies.overloaded_total,
            failed_in_a_row=self._dispatcher.replies.failed_in_a_row,
            last_failure=self._dispatcher.replies.last_failure,
            worker_ready_since=self._supervisor.ready_since,
            is_worker_silent=self._supervisor.is_silent(now),
            odd_inputs=self._dispatcher.replies.odd_inputs.shares(self._supervisor.model.held_out_odd),
        )
        if has_changed:
            self.publish_health()

    def health(self, now: float) -> dict[str, Any]:
        """The health document of this moment."""
        reading, limits = self._monitor.latest(now), self._governor.limits
        optional_sections = dict(ABSENT_SECTIONS)
        for part in self._parts:
            optional_sections |= part.as_health(now)
        return health_document(
            [
                {
                    "ts": timestamp(),
                    "session": self._presence.session,
                    "seq": self.health_sequence,
                    "uptime_s": now - self._started_at,
                },
                self._connections.as_health(now, postponed=self._delivery.postponed, lost=self._delivery.lost),
                self._dispatcher.as_health(now),
                reading.as_health(),
                self._energy.as_health(),
                {"memory": {"agent_rss_mb": resident_mb()}},
                self._supervisor.as_health(),
                limits.as_health(),
                optional_sections,
            ],
            reasons={
                **self._connections.reasons(now),
                **self._supervisor.reasons(),
                **self._dispatcher.reasons(),
                **{reason: holds for part in self._parts for reason, holds in part.reasons().items()},
                "task-without-model": bool(self._unserved_tasks()),
                "limited": limits.level is not Level.NORMAL,
                "sensor-errors": reading.has_faults,
            },
            alarms=self.alarms.severities,
            unmeasured=self.alarms.unmeasured,
            is_loading=self._presence.is_starting or self._model_switch.is_underway,
        )


def _version_folder(program: Path) -> str | None:
    """The name of the folder in /opt/edge-agent/versions, which tells builds of one version apart."""
    return program.name if program.parent.name == "versions" else None


def _config_sha256(config: Config) -> str:
    """The first 16 digits of the hash of the keys that are set, because another version may have other defaults."""
    document = config.model_dump_json(exclude_unset=True, warnings=False)
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # The agent alone needs no engine, because its model may be `echo:`.
        return None
