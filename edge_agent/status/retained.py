"""The retained topics: what the board says of itself without being asked, and all of it to each broker it comes to."""

from __future__ import annotations

import logging
import time
from typing import Any

from edge_agent.board.board import Board
from edge_agent.board.energy import EnergyMeter
from edge_agent.board.governor import Governor
from edge_agent.board.identity import machine
from edge_agent.board.monitor import Monitor
from edge_agent.board.process import resident_mb
from edge_agent.board.systemd_notify import notify
from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.publications import json_publication
from edge_agent.mqtt.connections import Connections
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.tasks import Task
from edge_agent.status.alarms import Alarms
from edge_agent.status.health import Facts, health_document
from edge_agent.status.homeassistant import discovery, withdrawal
from edge_agent.status.presence import Presence, State, info_document
from edge_agent.worker.supervisor import Supervisor
from edge_agent.worker.throughput import Throughput

log = logging.getLogger(__name__)

# A watcher that was away for longer has no use for what happened before.
EVENT_EXPIRY_S = 86_400


class RetainedTopics:
    """Belongs to the agent's thread. What is published is what the parts say at that moment."""

    def __init__(
        self,
        config: Config,
        tasks: dict[str, Task],
        *,
        connections: Connections,
        presence: Presence,
        dispatcher: Dispatcher,
        supervisor: Supervisor,
        throughput: Throughput,
        board: Board,
        monitor: Monitor,
        governor: Governor,
        energy: EnergyMeter,
    ) -> None:
        self.alarms = Alarms(config.topics, connections.announce)
        self.health_sequence = 0
        self._config = config
        self._tasks = tasks
        self._connections = connections
        self._presence = presence
        self._dispatcher = dispatcher
        self._supervisor = supervisor
        self._throughput = throughput
        self._board = board
        self._monitor = monitor
        self._governor = governor
        self._energy = energy
        self._started_at = time.monotonic()

    def reconfigure(self, config: Config, tasks: dict[str, Task]) -> None:
        """For the next `publish_all`. Home Assistant forgets at once what it is to know elsewhere or no more."""
        before, after = self._config.homeassistant, config.homeassistant
        if before.enabled and (after.enabled is False or after.prefix != before.prefix):
            # Kept for a broker that is away: nobody would know of the old topic later.
            self._connections.tell(withdrawal(self._config))
        self._config, self._tasks = config, tasks

    def publish_all(self, *, with_ends: bool = False) -> None:
        """with_ends: the broker may also hold what an earlier process or somebody else left there; that is ended."""
        announce = self._connections.announce
        announce(self._presence.birth())
        self.alarms.publish_all(time.monotonic(), self._presence.session, clear_others=with_ends)
        one = self._supervisor
        info = info_document(self._config, self._board, one.model, self._tasks, worker=one.ready, previous=one.previous)
        announce(json_publication(self._config.topics.info, info, retain=True))
        to_home_assistant = discovery(self._config, self._board.model() or machine())
        if to_home_assistant and (to_home_assistant.payload or with_ends):
            announce(to_home_assistant)
        self.publish_health()

    def set_state(self, state: State, reason: str | None) -> None:
        self._presence.state, self._presence.reason = state, reason
        log.info("state=%s reason=%s", state.value, reason)
        self._connections.announce(self._presence.birth())

    def say_stopped(self) -> None:
        """The last word of an orderly end. Alarms end after the state: nobody is to think that their cause is gone."""
        self.set_state(State.STOPPED, None)
        self.alarms.withdraw()

    def tell_event(self, name: str, document: dict[str, Any]) -> None:
        """The one thing here that is not retained: it happened once."""
        topic, told = self._config.topics.event(name), {"ts": timestamp(), **document}
        self._connections.tell(json_publication(topic, told, expiry_s=EVENT_EXPIRY_S))

    def publish_health(self) -> None:
        self.health_sequence += 1
        expiry_s = max(1, round(3 * self._config.health.interval_s))
        health = health_document(self.facts())
        self._connections.announce(json_publication(self._config.topics.health, health, retain=True, expiry_s=expiry_s))
        notify(f"STATUS={self._presence.state.value}, {self._dispatcher.active} running")

    def look_for_alarms(self, now: float) -> None:
        requests = self._dispatcher.snapshot(now)
        has_changed = self.alarms.update(
            now,
            session=self._presence.session,
            reading=self._monitor.latest(now),
            queue_depth=requests.depth,
            overloaded_total=requests.totals.overloaded_total,
            worker_excess=self._supervisor.memory.excess,
        )
        if has_changed:
            self.publish_health()

    def facts(self) -> Facts:
        now = time.monotonic()
        worker, requests = self._supervisor.ready, self._dispatcher.snapshot(now)
        return Facts(
            ts=timestamp(),
            session=self._presence.session,
            seq=self.health_sequence,
            uptime_s=now - self._started_at,
            mqtt=self._connections.facts(now, postponed=requests.postponed_replies),
            requests=requests,
            is_loaded=worker is not None,
            is_fallback=self._supervisor.model.is_fallback,
            worker_silent_s=self._supervisor.silent_s(now),
            throughput=self._throughput,
            reading=self._monitor.latest(now),
            limits=self._governor.limits,
            energy=self._energy,
            agent_rss_mb=resident_mb(),
            worker_rss_mb=resident_mb(worker.pid) if worker else None,
            worker=worker,
            worker_restarts=self._supervisor.restarts,
            worker_end=None if self._supervisor.last_end is None else self._supervisor.last_end.how,
            worker_bound_mb=self._supervisor.memory.bound_mb,
            model=self._supervisor.model.bundle_name,
            alarms=self.alarms.severities,
        )
