"""What commands and signals have the agent do: tell, drain, resume, cancel, take over a configuration or a model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.board.governor import Governor
from edge_agent.commands.command_desk import Answer, CommandDesk
from edge_agent.commands.commands import CommandError
from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.config_file import ConfigError
from edge_agent.loader import file_faults, load_config
from edge_agent.models.switch import ModelSwitch
from edge_agent.mqtt.connections import Connections
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.tasks import load_tasks, prefixes_of
from edge_agent.status.presence import Presence, State
from edge_agent.status.publisher import StatusPublisher
from edge_agent.worker.supervisor import Supervisor

log = logging.getLogger(__name__)

# What a reload takes over.
_LIVE = ("tasks", "queue", "health", "commands", "governor", "homeassistant", "log")


class Operations:
    """Belongs to the agent's thread. config: what is in force."""

    def __init__(
        self,
        config: Config,
        config_path: Path,
        *,
        connections: Connections,
        presence: Presence,
        dispatcher: Dispatcher,
        supervisor: Supervisor,
        governor: Governor,
        status: StatusPublisher,
        model_switch: ModelSwitch,
    ) -> None:
        self.config = config
        self.desk = CommandDesk(config, connections.publish, self)
        self.is_stopping = False
        # When the requests that a drain waits for are cancelled; None = there is no drain.
        self.drain_ends_at: float | None = None
        self._drained: Callable[[int], None] | None = None
        self._config_path = config_path
        self._connections = connections
        self._presence = presence
        self._dispatcher = dispatcher
        self._supervisor = supervisor
        self._governor = governor
        self._status = status
        self._model_switch = model_switch

    def ping(self) -> dict[str, Any]:
        return {"ts": timestamp(), "session": self._presence.session}

    def report_health(self) -> dict[str, Any]:
        self._status.publish_health()
        return {"seq": self._status.health_sequence}

    def cancel(self, request_id: str | int, reply_to: str | None) -> int:
        return self._dispatcher.cancel(request_id, reply_to, time.monotonic())

    def release(self, fingerprint: str) -> None:
        if not self._dispatcher.release_quarantined(fingerprint):
            raise CommandError("not_quarantined", f"fingerprint: none of those in health (got {fingerprint})")

    def switch_model(self, bundle: str, *, allow_downgrade: bool, answer: Answer) -> None:
        self._check_not_draining()
        self._model_switch.switch(bundle, allow_downgrade=allow_downgrade, now=time.monotonic(), answer=answer)

    def roll_back_model(self, answer: Answer) -> None:
        self._check_not_draining()
        self._model_switch.roll_back(now=time.monotonic(), answer=answer)

    def drain(self, timeout_s: float | None, done: Callable[[int], None]) -> None:
        self._begin_drain("drain command", timeout_s, time.monotonic(), done)

    def resume(self) -> None:
        if self.is_stopping:
            raise CommandError("stopping", "the agent is stopping and cannot resume")
        self._end_drain(0)
        self._dispatcher.end_drain()
        if self._presence.state is State.DRAINING:
            self._status.publish_state(State.ONLINE, None)
            self._status.publish_health()

    def stop(self, now: float, done: Callable[[int], None]) -> None:
        """A drain that nobody calls off. done: as of `drain`."""
        self.is_stopping = True
        log.info("stopping waiting=%d active=%d", self._dispatcher.waiting, self._dispatcher.active)
        self._begin_drain("stopping", None, now, done)

    def tick(self, now: float) -> None:
        """Ends a drain that is done, or out of time."""
        if self.drain_ends_at is None:
            return
        if now >= self.drain_ends_at:
            cancelled = self._dispatcher.cancel_all("the drain ran out of time", now)
            log.info("drain ran out of time cancelled=%d", cancelled)
            self._end_drain(cancelled)
        elif self._dispatcher.is_idle:
            self._end_drain(0)

    def reload(self) -> dict[str, Any]:
        """Takes over what can change while running; says what needs a restart. Raises CommandError."""
        try:
            config = load_config(self._config_path, file_faults)
        except ConfigError as error:
            raise CommandError("bad_config", "; ".join(error.faults)) from error
        needs_restart = []
        if config.queue.journal != (journal := self.config.queue.journal):
            needs_restart.append("queue.journal")
            config = config.model_copy(update={"queue": config.queue.model_copy(update={"journal": journal})})
        changed = [name for name in type(config).model_fields if getattr(config, name) != getattr(self.config, name)]
        config = self.config.model_copy(update={name: getattr(config, name) for name in _LIVE})
        self.desk.reconfigure(config)
        self.config = config
        logging.getLogger().setLevel(config.log.level)
        tasks = load_tasks(config)
        self._dispatcher.reconfigure(config, tasks)
        self._governor.reconfigure(config.governor)
        self._status.reconfigure(config, tasks)
        self._supervisor.set_tasks(prefixes_of(tasks))
        self._connections.subscribe(config, self._dispatcher.filters)
        self._status.publish_all()
        applied = [name for name in changed if name in _LIVE]
        needs_restart += [name for name in changed if name not in _LIVE]
        log.info("reloaded applied=%s needs_restart=%s", ",".join(applied) or "-", ",".join(needs_restart) or "-")
        return {"applied": applied, "needs_restart": needs_restart}

    def reload_on_signal(self) -> None:
        try:
            self.reload()
        except CommandError as error:
            log.warning("reload refused, the configuration stays as it was: %s", error.message)

    def _check_not_draining(self) -> None:
        if self.is_stopping or self._supervisor.has_given_up:
            raise CommandError("stopping", "the agent is stopping and switches no model")
        if self._dispatcher.is_draining:
            raise CommandError("draining", "the agent is draining: resume first")

    def _begin_drain(self, reason: str, timeout_s: float | None, now: float, done: Callable[[int], None]) -> None:
        """timeout_s: None = as configured."""
        self._end_drain(0)
        self._dispatcher.start_drain()
        # First: whatever goes wrong with what is told of it, a drain has an end.
        self._drained = done
        self.drain_ends_at = now + (self.config.queue.drain_timeout_s if timeout_s is None else timeout_s)
        if self._presence.state is not State.OFFLINE:
            self._status.publish_state(State.DRAINING, reason)
            self._status.publish_health()

    def _end_drain(self, cancelled: int) -> None:
        """Every request has its answer, or the drain was called off."""
        self.drain_ends_at = None
        done, self._drained = self._drained, None
        if done is not None:
            done(cancelled)
