"""`edge-agent command`: one command over MQTT to the configuration's board, and its result."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from edge_agent.commands.commands import Authority
from edge_agent.core.config import Config
from edge_agent.core.publications import json_publication
from edge_agent.mqtt.link_events import Disconnected, Received
from edge_agent.tools.exchange import Exchange, NoAnswerError, object_of


def send_command(config: Config, operation: str, fields: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Sends it once the board is there, signed where a key is configured, and gives the result.

    It is not sent again: after a NoAnswerError it may have been carried out, or be under way. Raises OSError if the
    key cannot be read.
    """
    topics, unique = config.topics, secrets.token_hex(8)
    fields = {"id": unique, **fields}
    key = None if config.commands.key_file is None else config.commands.key_file.read_bytes().strip()
    missing = f"no connection to the broker {config.mqtt.brokers}"
    session: str | None = None
    filters = {topics.state, topics.command_result(operation)}
    name = f"command-{unique}"
    with Exchange(name, config.mqtt, filters, timeout_s=timeout_s, wants_retained=True) as exchange:
        for event in exchange.events():
            if isinstance(event, Disconnected):
                how = ", the connection to the broker was lost" if exchange.is_sent else ""
                raise NoAnswerError(f"{missing}{how}: {event.reason}")
            if not isinstance(event, Received):
                missing = f"{topics.base} is not on the bus (broker {config.mqtt.brokers}), nothing was sent"
            elif event.message.topic != topics.state:
                result = object_of(event.message.payload)
                if exchange.is_sent and result.get("id") == fields["id"]:
                    return result
            else:
                there = _session(object_of(event.message.payload))
                if session is None and there is not None:
                    session, missing = there, f"no result from {topics.base}"
                    command = _signed(operation, fields, key)
                    exchange.send(json_publication(topics.command(operation), command))
                elif session is not None and there != session:
                    raise NoAnswerError(f"{missing}, which left the bus or came back to it meanwhile")
    raise NoAnswerError(f"{missing} within {timeout_s:g} s")


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
