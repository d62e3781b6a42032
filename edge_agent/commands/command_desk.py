"""One command's way: heard, checked, carried out, answered. Belongs to the agent's thread alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from edge_agent.commands.commands import (
    Authority,
    CancelFields,
    CommandError,
    DrainFields,
    Fields,
    ReleaseFields,
    RollbackFields,
    SwitchFields,
    encode_result,
    fields_of,
    parse_command,
)
from edge_agent.commands.nonces import FILE as NONCES
from edge_agent.commands.nonces import Nonces
from edge_agent.core.config import COMMANDS, Config
from edge_agent.core.errors import cut, shown
from edge_agent.core.inbound import Message
from edge_agent.core.publications import Publication, json_publication
from edge_agent.core.topics import reply_topic_fault
from edge_agent.models.switch_attempt import SwitchError

log = logging.getLogger(__name__)

# Their messages quote whoever sent the command, and stay out of the log.
_QUOTING = ("bad_json", "bad_field", "unknown_command", "not_found")
# Nothing is what clears a retained command: that must not carry it out.
_CHANGING_NOTHING = ("ping", "health")


class Answer(Protocol):
    """Sends a command's one result."""

    def __call__(self, data: Any = None, error: CommandError | SwitchError | None = None) -> None: ...


class Deeds(Protocol):
    """What commands do; the agent can. Each gives the result's data, or raises CommandError."""

    def ping(self) -> dict[str, Any]: ...
    def report_health(self) -> dict[str, Any]: ...
    def drain(self, timeout_s: float | None, done: Callable[[int], None]) -> None:
        """done: called with how many requests were cancelled, once the last has its answer."""

    def resume(self) -> None: ...
    def cancel(self, request_id: str | int, reply_to: str | None) -> int: ...
    def reload(self) -> dict[str, Any]: ...
    def release(self, fingerprint: str) -> None: ...
    def switch_model(self, bundle: str, *, allow_downgrade: bool, answer: Answer) -> None: ...
    def roll_back_model(self, answer: Answer) -> None: ...


class CommandDesk:
    """Hears commands under one configuration. Raises OSError if the key file cannot be read."""

    def __init__(self, config: Config, publish: Callable[[Publication], object], deeds: Deeds) -> None:
        self._publish = publish
        self._deeds = deeds
        self._key, self._nonces = _key(config), Nonces(config.state_dir / NONCES)
        self._authority, self._known_since = Authority(self._key, self._nonces), time.monotonic()
        self._config = config

    def reconfigure(self, config: Config) -> None:
        """Raises OSError if the key file cannot be read; nothing has changed then."""
        if (key := _key(config)) != self._key:
            self._key = key
            self._authority, self._known_since = Authority(key, self._nonces), time.monotonic()
        self._config = config

    def hear(self, message: Message) -> None:
        """Takes in one message below `cmd/`. It gets exactly one result."""
        operation = self._config.topics.operation_of_command(message.topic)
        if operation is None:
            return
        fields: dict[str, Any] = {}

        def answer(data: Any = None, error: CommandError | SwitchError | None = None) -> None:
            topic = message.response_topic
            if topic is None or reply_topic_fault(topic, self._config.reply_topics):
                topic = self._config.topics.command_result(operation)
            payload = encode_result(fields.get("id"), data, error)
            self._publish(json_publication(topic, payload, correlation=message.correlation))

        try:
            fields = parse_command(message.payload)
            self._check(operation, fields)
            if not message.payload.strip() and operation not in _CHANGING_NOTHING:
                raise CommandError("bad_json", "payload: should be an object, {} at least (got nothing)")
            self._execute(operation, fields, answer)
        except (CommandError, SwitchError) as error:
            told = "its result tells why" if error.code in _QUOTING else error.message
            log.info("command refused op=%r code=%s: %s", cut(operation), error.code, told)
            answer(error=error)
        except Exception:
            log.exception("command failed op=%r", cut(operation))
            answer(error=CommandError("internal", "the command met a fault of the agent"))

    def _check(self, operation: str, fields: dict[str, Any]) -> None:
        enabled = self._config.commands.allow
        if operation not in COMMANDS:
            message = f"command: there is no {shown(operation)}; there is {', '.join(COMMANDS)}"
            raise CommandError("unknown_command", message)
        if operation not in enabled:
            raise CommandError(
                "not_allowed", f"command: {operation} is not enabled here; enabled: {', '.join(enabled) or 'none'}"
            )
        self._authority.check(operation, fields, time.time(), time.monotonic() - self._known_since)

    def _execute(self, operation: str, fields: dict[str, Any], answer: Answer) -> None:
        # A kind of line for each: a flood of `ping` must not hide a `drain`.
        log.info(f"command op={operation}")
        if operation in ("ping", "health", "resume", "reload"):
            fields_of(Fields, fields)
        match operation:
            case "ping":
                answer(self._deeds.ping())
            case "health":
                answer(self._deeds.report_health())
            case "drain":
                timeout_s = fields_of(DrainFields, fields).timeout_s
                self._deeds.drain(timeout_s, lambda cancelled: answer({"cancelled": cancelled}))
            case "resume":
                self._deeds.resume()
                answer({})
            case "cancel":
                wanted = fields_of(CancelFields, fields)
                cancelled = self._deeds.cancel(wanted.request_id, wanted.reply_to)
                if cancelled == 0:
                    raise CommandError("not_found", f"request_id: nothing waits or runs as {shown(wanted.request_id)}")
                answer({"cancelled": cancelled})
            case "reload":
                answer(self._deeds.reload())
            case "model-switch":
                asked = fields_of(SwitchFields, fields)
                self._deeds.switch_model(asked.bundle, allow_downgrade=asked.allow_downgrade, answer=answer)
            case "model-rollback":
                fields_of(RollbackFields, fields)
                self._deeds.roll_back_model(answer)
            case "quarantine-release":
                self._deeds.release(fields_of(ReleaseFields, fields).fingerprint)
                answer({})


def _key(config: Config) -> bytes | None:
    key_file = config.commands.key_file
    return None if key_file is None else key_file.read_bytes().strip()
