"""`edge-agent ask`: one request over MQTT, as any client would send it."""

import secrets
from typing import Any

from edge_agent.core.envelope import is_json
from edge_agent.core.messages import json_publication
from edge_agent.core.strict_json import parse_json
from edge_agent.core.topics import ask_reply_topic, pool_topics
from edge_agent.core.wording import cut
from edge_agent.tools.bus import Bus, NoAnswerError
from edge_agent.tools.client import Client, object_or_empty

# A reply that says `expired` may arrive this long after the deadline.
GRACE_S = 5.0


def parse_input(text: str) -> Any:
    """A command line's INPUT: JSON if it begins like an object or array, else the text itself. Raises NotJsonError."""
    return parse_json(text) if is_json(text, None) else text


def ask(
    bus: Bus, task: str, value: Any, *, deadline_ms: int, fields: dict[str, Any], pool: str | None = None
) -> dict[str, Any]:
    """Asks the board, or a pool of the site, and returns the terminal reply. Raises NoAnswerError.

    `fields` are further fields of the envelope.
    """
    mqtt, state_topic = bus.mqtt, bus.topics.state
    topics = bus.topics if pool is None else pool_topics(mqtt.root, bus.site, pool)
    request_id = secrets.token_hex(8)
    reply_topic = ask_reply_topic(mqtt.root, request_id)
    envelope = {**fields, "id": request_id, "input": value, "reply_to": reply_topic, "deadline_ms": deadline_ms}
    timeout_s = deadline_ms / 1000 + GRACE_S
    state = ""
    # A board that refuses this reply topic says so on the task's default one.
    filters = {reply_topic, topics.response(task), *({state_topic} if pool is None else ())}
    with Client(f"ask-{request_id}", mqtt, filters) as client:
        if not client.connect(timeout_s):
            raise NoAnswerError(f"no connection to the broker {mqtt.brokers}: {client.reason or 'no answer'}")
        client.link.publish(json_publication(topics.request(task), envelope))
        for message in client.messages(timeout_s):
            document = object_or_empty(message.payload)
            if message.topic == state_topic:
                state = _state_words(document)
            elif document.get("id") == request_id and document.get("status") != "partial":
                return document
    raise NoAnswerError(f"no reply from {topics.base} within {timeout_s:.1f} s (broker {mqtt.brokers}){state}")


def _state_words(document: dict[str, Any]) -> str:
    """Why there may be no reply: the board's own state, unless it is online."""
    state, reason = document.get("state"), document.get("reason")
    if state == "online" or not isinstance(state, str):
        return ""
    return cut(f"; it is {state} ({reason})" if isinstance(reason, str) else f"; it is {state}")
