"""`edge-agent command`: one command over MQTT to a board, and its result."""

import getpass
import os
import secrets
import socket
import time
from datetime import UTC, datetime
from typing import Any

from edge_agent.commands.authority import sign
from edge_agent.commands.fields import MAX_BY_CHARS
from edge_agent.core.messages import json_publication
from edge_agent.tools.ask import require_connection
from edge_agent.tools.bus import Bus, NoAnswerError
from edge_agent.tools.client import Client, object_or_empty
from edge_agent.tools.watch.site import is_on_bus


def send_command(
    bus: Bus, operation: str, fields: dict[str, Any], *, timeout_s: float, by: str | None = None
) -> dict[str, Any]:
    """Sends a command once the board is on the bus, signed where a key is named, and returns the result.

    Its sender is `by`, or this account and host. It is sent once, and may have been carried out despite a
    NoAnswerError. Raises OSError if the key cannot be read.
    """
    mqtt, topics, command_id = bus.mqtt, bus.topics, secrets.token_hex(8)
    fields = {"id": command_id, **fields}
    key = None if bus.command_key is None else bus.command_key.read_bytes().strip()
    give_up_at = time.monotonic() + timeout_s
    missing = f"{topics.base} is not on the bus (broker {mqtt.brokers}), so nothing was sent"
    session: str | None = None
    filters = {topics.state, topics.command_result(operation)}
    with Client(f"command-{command_id}", mqtt, filters) as client:
        require_connection(client, bus, timeout_s)
        while (left_s := give_up_at - time.monotonic()) > 0:
            message = client.receive(left_s)
            if not client.is_connected:
                raise NoAnswerError(f"{missing}, the connection to the broker was lost: {client.reason}")
            if message is None:
                continue
            document = object_or_empty(message.payload)
            if message.topic != topics.state:
                if session is not None and document.get("id") == fields["id"]:
                    return document
                continue
            current = _session(document)
            if session is None and current is not None:
                session, missing = current, f"no result from {topics.base}"
                # 0.1 refuses the field.
                if not str(document.get("version")).startswith("0.1."):
                    fields = {"by": by or _account()[:MAX_BY_CHARS], **fields}
                client.link.publish(json_publication(topics.command(operation), _signed(operation, fields, key)))
            elif session is not None and current != session:
                raise NoAnswerError(f"{missing}, which left the bus or returned to it in the meantime")
    raise NoAnswerError(f"{missing} within {timeout_s:g} s")


def _account() -> str:
    """Who runs this, such as `ana@pc-7`."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # The account has no name.
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _signed(operation: str, fields: dict[str, Any], key: bytes | None) -> dict[str, Any]:
    if key is None:
        return fields
    whole = {**fields, "ts": datetime.now(UTC).isoformat(), "nonce": secrets.token_hex(8)}
    whole.pop("hmac", None)
    return {**whole, "hmac": sign(key, operation, whole)}


def _session(state: dict[str, Any]) -> str | None:
    """The session of a board that accepts commands; while its model loads it is `offline` and accepts them."""
    session = state.get("session")
    return session if is_on_bus(state) and isinstance(session, str) else None
