"""Commands from the bus, and the signals that do the same: checked, carried out, each answered exactly once."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.commands.authority import NONCES_FILE, Authority
from edge_agent.commands.fields import (
    CancelFields,
    CommandFields,
    DrainFields,
    ExportFields,
    ReleaseFields,
    RollbackFields,
    SwitchFields,
    parse_command,
    parse_fields,
    result_publication,
)
from edge_agent.core.clock import timestamp
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.config import OPERATIONS, Config
from edge_agent.core.config_file import ConfigError
from edge_agent.core.messages import Message, Publication
from edge_agent.core.topics import reply_topic_fault
from edge_agent.core.wording import cut, shown
from edge_agent.loader import file_faults, load_config
from edge_agent.models.switch import ModelSwitch, Switched, SwitchFailed
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.status.presence import Presence, State
from edge_agent.status.publisher import StatusPublisher

log = logging.getLogger(__name__)

# Messages of these codes quote the sender and stay out of the log.
_QUOTING_CODES = {
    *(CommandCode.UNKNOWN_COMMAND, CommandCode.BAD_JSON, CommandCode.BAD_FIELD),
    *(CommandCode.UNKNOWN_TASK, CommandCode.NOT_FOUND),
}
# An empty payload also clears a retained command, which must not carry it out.
_ALLOWED_EMPTY = ("ping", "health")
# Operations that change what the board does. Model switches are not here, because they have events of their own.
_WITH_EVENT = ("drain", "resume", "reload", "quarantine-release")
# What a reload applies; everything else needs a restart.
LIVE_TABLES = ("tasks", "queue", "health", "feedback", "commands", "governor", "homeassistant", "log")


@dataclass(slots=True)
class _OpenCommand:
    """A command that is to be answered."""

    topic: str
    correlation: bytes | None
    id: Any = None  # As the caller gave it; None until the payload is parsed.


class Commands:
    """Belongs to the agent's thread. Raises OSError if the key file cannot be read.

    `publish` also takes a result for a broker that is away now. `apply_config` makes every part use a configuration.
    """

    def __init__(
        self,
        config: Config,
        config_path: Path,
        *,
        publish: Callable[[Publication], object],
        apply_config: Callable[[Config], None],
        presence: Presence,
        dispatcher: Dispatcher,
        model_switch: ModelSwitch,
        status: StatusPublisher,
    ) -> None:
        self.config = config
        # Whether a drain that cannot be called off has begun, and whether it has ended.
        self.is_stopping = self.is_stopped = False
        self._config_path = config_path
        self._publish = publish
        self._apply_config = apply_config
        self._presence = presence
        self._dispatcher = dispatcher
        self._model_switch = model_switch
        self._status = status
        # When a drain cancels the rest; None while there is no drain.
        self.drain_ends_at: float | None = None
        # None if a signal asked for the drain.
        self._drain_command: _OpenCommand | None = None
        self._switch_command: _OpenCommand | None = None
        # Never replaced, because nonces that could not be written to the disk are only in its memory.
        self._authority = Authority(_signing_key(config), config.state_dir / NONCES_FILE)

    def receive(self, message: Message) -> None:
        """Handles one message below `cmd/`."""
        operation = self.config.topics.operation_of_command(message.topic)
        if operation is None:
            return
        topic = message.response_topic
        if topic is None or reply_topic_fault(topic, self.config.reply_topics):
            topic = self.config.topics.command_result(operation)
        command = _OpenCommand(topic, message.correlation)
        try:
            fields = parse_command(message.payload)
            command.id = fields.get("id")
            self._check(operation, fields)
            if not message.payload.strip() and operation not in _ALLOWED_EMPTY:
                raise CommandError(CommandCode.BAD_JSON, "payload: should be an object, at least {} (got nothing)")
            # One kind of line per command, so that a flood of `ping` does not hide a `drain` from the log.
            log.info(f"command op={operation}")
            data = self._execute(operation, fields, command)
            if operation in _WITH_EVENT:
                self._status.publish_event("command", {"op": operation, "by": fields.get("by"), **(data or {})})
        except CommandError as error:
            reason = "its result says why" if error.code in _QUOTING_CODES else error.message
            log.info("command refused op=%r code=%s: %s", cut(operation), error.code, reason)
            self._answer(command, error=(error.code, error.message))
        except Exception:
            log.exception("command failed op=%r", cut(operation))
            self._answer(command, error=("internal", "the command failed because of a bug in the agent"))
        else:
            if data is not None:
                self._answer(command, data)

    def _answer(self, command: _OpenCommand | None, data: Any = None, error: tuple[str, str] | None = None) -> None:
        """Sends the data, or the error's code and message."""
        if command is not None:
            self._publish(result_publication(command.topic, command.correlation, command.id, data, error))

    def _check(self, operation: str, fields: dict[str, Any]) -> None:
        """Raises CommandError if the command does not exist, is not enabled, or is not signed."""
        enabled = self.config.commands.allow
        if operation not in OPERATIONS:
            message = f"command: should be one of {', '.join(OPERATIONS)} (got {shown(operation)})"
            raise CommandError(CommandCode.UNKNOWN_COMMAND, message)
        if operation not in enabled:
            allowed = ", ".join(enabled) or "none"
            raise CommandError(CommandCode.NOT_ALLOWED, f"command: {operation} is not enabled here; enabled: {allowed}")
        self._authority.check(operation, fields, time.time())

    def _execute(self, operation: str, fields: dict[str, Any], command: _OpenCommand) -> dict[str, Any] | None:
        """Gives the result's data, or None if the command is answered later. Raises CommandError."""
        if operation in ("ping", "health", "resume", "reload"):
            parse_fields(CommandFields, fields)
        match operation:
            case "ping":
                return {"ts": timestamp(), "session": self._presence.session}
            case "health":
                return {"seq": self._status.publish_health()}
            case "drain":
                timeout_s = parse_fields(DrainFields, fields).timeout_s
                self._start_drain("drain command", timeout_s, time.monotonic(), command)
                return None
            case "resume":
                return self._resume()
            case "cancel":
                return self._cancel(parse_fields(CancelFields, fields))
            case "reload":
                return self.reload()
            case "model-switch":
                wanted = parse_fields(SwitchFields, fields)
                self._check_can_switch()
                is_started = self._model_switch.start(
                    wanted.bundle, allow_downgrade=wanted.allow_downgrade, by=wanted.by
                )
            case "model-rollback":
                by = parse_fields(RollbackFields, fields).by
                self._check_can_switch()
                is_started = self._model_switch.roll_back(by=by)
            case "feedback-export":
                page = parse_fields(ExportFields, fields)
                return self._dispatcher.admission.answerers.export(page.task, after=page.after, limit=page.limit)
            case _:
                return self._release(parse_fields(ReleaseFields, fields).fingerprint)
        if not is_started:
            return {"changed": False}
        self._switch_command = command
        return None

    def _cancel(self, wanted: CancelFields) -> dict[str, Any]:
        cancelled = self._dispatcher.cancel(
            "cancelled by command", time.monotonic(), request_id=wanted.request_id, reply_topic=wanted.reply_to
        )
        if cancelled == 0:
            raise CommandError(
                CommandCode.NOT_FOUND, f"request_id: no request {shown(wanted.request_id)} waits or runs"
            )
        return {"cancelled": cancelled}

    def _release(self, fingerprint: str) -> dict[str, Any]:
        if not self._dispatcher.admission.release_quarantined(fingerprint):
            raise CommandError(
                CommandCode.NOT_QUARANTINED, f"fingerprint: should be one of those in health (got {fingerprint})"
            )
        return {}

    def _check_can_switch(self) -> None:
        if self.is_stopping:
            raise CommandError(CommandCode.STOPPING, "the agent is stopping and does not switch models")
        if self._dispatcher.admission.is_draining:
            raise CommandError(CommandCode.DRAINING, "the agent is draining: resume first")

    def on_switch_ended(self, end: Switched | SwitchFailed) -> None:
        command, self._switch_command = self._switch_command, None
        if isinstance(end, Switched):
            self._answer(command, end.data)
        else:
            self._answer(command, error=(end.error.code, end.error.message))

    def stop(self, now: float) -> None:
        """Begins a drain that cannot be called off. At its end, `is_stopped` is true."""
        self.is_stopping = True
        log.info("stopping waiting=%d active=%d", self._dispatcher.waiting, self._dispatcher.active)
        self._start_drain("stopping", None, now, None)

    def _start_drain(self, reason: str, timeout_s: float | None, now: float, command: _OpenCommand | None) -> None:
        self._end_drain(0)
        self._dispatcher.admission.is_draining = True
        # Set before anything is published, so that a fault there does not leave a drain without an end.
        self.drain_ends_at = now + (self.config.queue.drain_timeout_s if timeout_s is None else timeout_s)
        self._drain_command = command
        if self._presence.state is not State.OFFLINE:
            self._status.publish_state(State.DRAINING, reason)
            self._status.publish_health()

    def tick(self, now: float) -> None:
        """Ends a drain that is done or out of time."""
        if self.drain_ends_at is None:
            return
        if now >= self.drain_ends_at:
            cancelled = self._dispatcher.cancel("the drain ran out of time", now, gives_back=True)
            log.info("drain ran out of time cancelled=%d", cancelled)
            self._end_drain(cancelled)
        elif self._dispatcher.is_idle:
            self._end_drain(0)

    def _end_drain(self, cancelled: int) -> None:
        if self.drain_ends_at is None:
            return
        self.drain_ends_at = None
        self.is_stopped = self.is_stopping
        command, self._drain_command = self._drain_command, None
        self._answer(command, {"cancelled": cancelled})

    def _resume(self) -> dict[str, Any]:
        if self.is_stopping:
            raise CommandError(CommandCode.STOPPING, "the agent is stopping and cannot resume")
        self._end_drain(0)
        self._dispatcher.admission.is_draining = False
        if self._presence.state is State.DRAINING:
            self._status.publish_state(State.ONLINE, None)
            self._status.publish_health()
        return {}

    def reload(self) -> dict[str, Any]:
        """Applies what can change while the agent runs; gives what was applied, and what needs a restart.

        Raises CommandError.
        """
        try:
            config = load_config(self._config_path, file_faults)
        except ConfigError as error:
            raise CommandError(CommandCode.BAD_CONFIG, "; ".join(error.faults)) from error
        needs_restart = []
        if config.queue.journal != (journal := self.config.queue.journal):
            needs_restart.append("queue.journal")
            config = config.model_copy(update={"queue": config.queue.model_copy(update={"journal": journal})})
        changed = [name for name in type(config).model_fields if getattr(config, name) != getattr(self.config, name)]
        config = self.config.model_copy(update={name: getattr(config, name) for name in LIVE_TABLES})
        self._authority.key = _signing_key(config)
        self.config = config
        self._apply_config(config)
        applied = [name for name in changed if name in LIVE_TABLES]
        needs_restart += [name for name in changed if name not in LIVE_TABLES]
        log.info("reloaded applied=%s needs_restart=%s", ",".join(applied) or "-", ",".join(needs_restart) or "-")
        return {"applied": applied, "needs_restart": needs_restart}

    def reload_on_signal(self) -> None:
        try:
            self._status.publish_event("command", {"op": "reload", "by": None, **self.reload()})
        except CommandError as error:
            log.warning("reload refused, the configuration stays as it was: %s", error.message)


def _signing_key(config: Config) -> bytes | None:
    """Raises OSError."""
    key_file = config.commands.key_file
    return None if key_file is None else key_file.read_bytes().strip()
