"""What the broker retains of this board: its state, info, health and alarms."""

from __future__ import annotations

import json
import queue
import secrets
import time
from typing import Any

from edge_agent.core.config import Config
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Connected, Disconnected, LinkEvent, Received
from edge_agent.tools.diag.part import Part
from edge_agent.tools.diag.redaction import without_value

# From the connection on; all that is retained comes at once.
_HEARD_S = 1.5
_MOST_MESSAGES = 50
_MOST_BYTES = 100_000


def retained(part: Part, config: Config, limit_s: float) -> None:
    """Asks the first broker that answers within limit_s seconds."""
    if faults := credential_faults(config.mqtt):
        part.misses("; ".join(without_value(fault) for fault in faults))
        return
    topics = config.topics
    # Bounded: somebody else may publish there without end.
    events: queue.Queue[LinkEvent] = queue.Queue(1000)
    link = MqttLink(f"diag-{secrets.token_hex(8)}", config.mqtt, events.put, wants_retained=True)
    link.set_subscriptions({topics.state, topics.info, topics.health, topics.alarm("+")})
    found: dict[str, Any] = {}
    why = "no answer"
    link.start()
    end_at = time.monotonic() + limit_s
    is_heard = False
    try:
        while len(found) < _MOST_MESSAGES and (left_s := end_at - time.monotonic()) > 0:
            try:
                event = events.get(timeout=left_s)
            except queue.Empty:
                break
            match event:
                case Connected():
                    is_heard, end_at = True, min(end_at, time.monotonic() + _HEARD_S)
                case Disconnected(reason=reason):
                    why = reason
                case Received(message=message):
                    link.acknowledge(event)
                    if message.payload:
                        found[message.topic] = {"retained": message.is_retained, "message": _message(message.payload)}
    finally:
        link.stop(0.5)
    if not is_heard:
        part.misses(f"the broker {config.mqtt.brokers}: {why}")
        return
    part.document("retained.json", found)
    if missing := [topic for topic in (topics.state, topics.info, topics.health) if topic not in found]:
        part.misses(f"the broker has nothing on {', '.join(missing)}")


def _message(payload: bytes) -> Any:
    if len(payload) > _MOST_BYTES:
        return f"{len(payload)} bytes: too long"
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return f"{len(payload)} bytes that are no JSON"
