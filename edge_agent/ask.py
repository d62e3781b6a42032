"""`edge-agent ask`: one request over MQTT, as any client would send it."""

from __future__ import annotations

import json
import queue
import secrets
import time
from typing import Any

from edge_agent.config import MqttConfig
from edge_agent.messages import is_json, parse_json
from edge_agent.mqtt_link import Connected, Disconnected, Inbound, LinkEvent, MqttLink
from edge_agent.publications import json_publication
from edge_agent.topics import Topics, ask_reply_topic

# How long after its deadline an answer that says so may still be under way.
GRACE_S = 5.0


class NoAnswerError(Exception):
    """No broker, or no reply in time."""


def input_of(text: str) -> Any:
    """A command line's INPUT: what begins like a JSON object or array is one, else it is text. Raises NotJsonError."""
    return parse_json(text) if is_json(text, None) else text


def _object(payload: bytes) -> dict[str, Any]:
    """Anybody may publish anything on a reply topic."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def ask(
    mqtt: MqttConfig, topics: Topics, task: str, value: Any, *, deadline_ms: int, fields: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Sends one request and gives the terminal reply. fields: further envelope fields. Raises NoAnswerError."""
    unique = secrets.token_hex(8)
    reply_topic = ask_reply_topic(topics.root, unique)
    events: queue.Queue[LinkEvent] = queue.Queue()
    link = MqttLink(f"ask-{unique}", mqtt, events.put)
    # A board that does not allow this reply topic says so on the task's default one.
    link.set_subscriptions({reply_topic, topics.response(task)})
    link.start()
    envelope = {**(fields or {}), "id": unique, "input": value, "reply_to": reply_topic, "deadline_ms": deadline_ms}
    request = json_publication(topics.request(task), envelope)
    give_up_at = time.monotonic() + deadline_ms / 1000 + GRACE_S
    where = mqtt.brokers
    is_sent = False
    failures = 0
    try:
        while True:
            try:
                event = events.get(timeout=max(0.0, give_up_at - time.monotonic()))
            except queue.Empty:
                raise NoAnswerError(
                    f"no reply from {topics.base} within {deadline_ms / 1000 + GRACE_S:.1f} s (broker {where})"
                    if is_sent
                    else f"no connection to the broker {where}"
                ) from None
            match event:
                case Connected() if not is_sent:
                    link.publish(request)
                    is_sent = True
                case Disconnected(reason=reason) if not is_sent:
                    failures += 1
                    if failures < len(mqtt.hosts):
                        continue
                    raise NoAnswerError(f"no connection to the broker {where}: {reason}")
                case Inbound():
                    link.acknowledge(event)
                    reply = _object(event.payload)
                    if reply.get("id") == unique and reply.get("status") != "partial":
                        return reply
                case _:
                    pass
    finally:
        link.stop(1.0)
