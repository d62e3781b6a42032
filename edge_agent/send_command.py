"""`edge-agent command`: one command over MQTT to the configuration's board, and its result."""

from __future__ import annotations

import json
import queue
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from edge_agent.ask import NoAnswerError
from edge_agent.commands import Authority
from edge_agent.config import Config
from edge_agent.mqtt_link import Disconnected, Inbound, LinkEvent, MqttLink
from edge_agent.publications import json_publication


def send_command(config: Config, operation: str, fields: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Sends it once the board is there, signed where a key is configured, and gives the result.

    It is not sent again: after a NoAnswerError it may have been carried out, or be under way. Raises OSError if the
    key cannot be read.
    """
    topics, unique = config.topics, secrets.token_hex(8)
    events: queue.Queue[LinkEvent] = queue.Queue()
    link = MqttLink(f"command-{unique}", config.mqtt, events.put, wants_retained=True)
    link.set_subscriptions({topics.state, topics.command_result(operation)})
    key = None if config.commands.key_file is None else config.commands.key_file.read_bytes().strip()
    give_up_at = time.monotonic() + timeout_s
    missing = f"no connection to the broker {config.mqtt.brokers}"
    session: str | None = None
    failures = 0
    link.start()
    try:
        while True:
            try:
                event = events.get(timeout=max(0.0, give_up_at - time.monotonic()))
            except queue.Empty:
                raise NoAnswerError(f"{missing} within {timeout_s:g} s") from None
            if isinstance(event, Disconnected):
                failures += 1
                if session is not None:
                    raise NoAnswerError(f"{missing}, the connection to the broker was lost: {event.reason}")
                if failures >= len(config.mqtt.hosts):
                    raise NoAnswerError(f"{missing}: {event.reason}")
            elif not isinstance(event, Inbound):
                missing = f"{topics.base} is not on the bus (broker {config.mqtt.brokers}), nothing was sent"
            elif event.topic != topics.state:
                link.acknowledge(event)
                result = _object(event.payload)
                if session is not None and result.get("id") == unique:
                    return result
            else:
                link.acknowledge(event)
                there = _session(_object(event.payload))
                if session is None and there is not None:
                    session, missing = there, f"no result from {topics.base}"
                    command = _signed(operation, {**fields, "id": unique}, key)
                    link.publish(json_publication(topics.command(operation), command))
                elif session is not None and there != session:
                    raise NoAnswerError(f"{missing}, which left the bus or came back to it meanwhile")
    finally:
        link.stop(1.0)


def _signed(operation: str, fields: dict[str, Any], key: bytes | None) -> dict[str, Any]:
    if key is None:
        return fields
    whole = {**fields, "ts": datetime.now(UTC).isoformat(), "nonce": secrets.token_hex(8)}
    whole.pop("hmac", None)
    return {**whole, "hmac": Authority(key).sign(operation, whole)}


def _session(state: dict[str, Any]) -> str | None:
    """That of a board which hears commands; while its model loads it is `offline`, and does."""
    is_there = state.get("state") in ("online", "draining", "offline") and state.get("reason") != "connection-lost"
    session = state.get("session")
    return session if is_there and isinstance(session, str) else None


def _object(payload: bytes) -> dict[str, Any]:
    """Anybody may publish anything."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
