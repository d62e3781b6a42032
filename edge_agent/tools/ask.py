"""`edge-agent ask`: one request over MQTT, as any client would send it."""

from __future__ import annotations

import secrets
from typing import Any

from edge_agent.core.config import MqttConfig
from edge_agent.core.envelope import is_json
from edge_agent.core.errors import cut
from edge_agent.core.publications import json_publication
from edge_agent.core.strict_json import parse_json
from edge_agent.core.topics import Topics, ask_reply_topic
from edge_agent.mqtt.link_events import Connected, Disconnected, Received
from edge_agent.tools.exchange import Exchange, NoAnswerError, object_of

# How long after its deadline an answer that says so may still be under way.
GRACE_S = 5.0


def input_of(text: str) -> Any:
    """A command line's INPUT: what begins like a JSON object or array is one, else it is text. Raises NotJsonError."""
    return parse_json(text) if is_json(text, None) else text


def ask(
    mqtt: MqttConfig, topics: Topics, task: str, value: Any, *, deadline_ms: int, fields: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Sends one request and gives the terminal reply. fields: further envelope fields. Raises NoAnswerError."""
    unique = secrets.token_hex(8)
    reply_topic = ask_reply_topic(topics.root, unique)
    envelope = {**(fields or {}), "id": unique, "input": value, "reply_to": reply_topic, "deadline_ms": deadline_ms}
    timeout_s = deadline_ms / 1000 + GRACE_S
    state = ""
    missing = f"no connection to the broker {mqtt.brokers}"
    # A board that does not allow this reply topic says so on the task's default one.
    filters = {reply_topic, topics.response(task), topics.state}
    with Exchange(f"ask-{unique}", mqtt, filters, timeout_s=timeout_s, wants_retained=True) as exchange:
        for event in exchange.events():
            match event:
                case Connected() if not exchange.is_sent:
                    exchange.send(json_publication(topics.request(task), envelope))
                    missing = f"no reply from {topics.base} within {timeout_s:.1f} s (broker {mqtt.brokers})"
                case Disconnected(reason=reason) if not exchange.is_sent:
                    raise NoAnswerError(f"{missing}: {reason}")
                case Received(message=message) if message.topic == topics.state:
                    state = _state(object_of(message.payload))
                case Received(message=message):
                    reply = object_of(message.payload)
                    if reply.get("id") == unique and reply.get("status") != "partial":
                        return reply
                case _:
                    pass
    raise NoAnswerError(f"{missing}{state}")


def _state(document: dict[str, Any]) -> str:
    """Why there may be no reply: what the board says of itself, if it is not plainly there."""
    state, reason = document.get("state"), document.get("reason")
    if state == "online" or not isinstance(state, str):
        return ""
    return cut(f"; it is {state} ({reason})" if isinstance(reason, str) else f"; it is {state}")
