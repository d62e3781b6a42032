"""`edge-agent ask`: one request over MQTT, as any client would send it."""

import secrets
import time
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
# A retained state arrives with the subscription.
STATE_WAIT_S = 3.0


def parse_input(text: str) -> Any:
    """A command line's INPUT, read as JSON if it begins like an object or array, else as text. Raises NotJsonError."""
    return parse_json(text) if is_json(text, None) else text


def ask(
    bus: Bus, task: str, value: Any, *, deadline_ms: int, fields: dict[str, Any], pool: str | None = None
) -> dict[str, Any]:
    """Asks the board, or a pool of the site, and returns the terminal reply. Raises NoAnswerError.

    A board whose state says that it cannot answer is not asked, or no longer waited for.
    `fields` are further fields of the envelope.
    """
    mqtt, state_topic = bus.mqtt, bus.topics.state
    topics = bus.topics if pool is None else pool_topics(mqtt.root, bus.site, pool)
    request_id = secrets.token_hex(8)
    reply_topic = ask_reply_topic(mqtt.root, request_id)
    envelope = {**fields, "id": request_id, "input": value, "reply_to": reply_topic, "deadline_ms": deadline_ms}
    # What people try is no fair sample of the readings, so it must not decide about promises.
    envelope["audit"] = False
    timeout_s = deadline_ms / 1000 + GRACE_S
    state: dict[str, Any] = {}
    # A board that refuses this reply topic says so on the task's default one.
    filters = {reply_topic, topics.response(task), *({state_topic} if pool is None else ())}
    with Client(f"ask-{request_id}", mqtt, filters) as client:
        require_connection(client, bus, timeout_s)
        if pool is None:
            state = require_board(client, bus)
        client.link.publish(json_publication(topics.request(task), envelope))
        give_up_at = time.monotonic() + timeout_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            message = client.receive(left_s)
            if not client.is_connected:
                lost = f"the connection to the broker {mqtt.brokers} was lost: {client.reason}"
                raise NoAnswerError(f"{lost}; {topics.base} may have the request all the same")
            if message is None:
                continue
            document = object_or_empty(message.payload)
            if message.topic == state_topic:
                state = document
                if _is_away(state):
                    raise NoAnswerError(
                        f"{topics.base} (broker {mqtt.brokers}) went away before it answered{_state_words(state)}; "
                        "it may answer the request once it is back"
                    )
            elif document.get("id") == request_id and document.get("status") != "partial":
                return document
    words = "" if state.get("state") == "online" else _state_words(state)
    raise NoAnswerError(f"no reply from {topics.base} within {timeout_s:.1f} s (broker {mqtt.brokers}){words}")


def require_connection(client: Client, bus: Bus, timeout_s: float) -> None:
    """Connects to the broker. Raises NoAnswerError."""
    if not client.connect(timeout_s):
        raise NoAnswerError(f"no connection to the broker {bus.mqtt.brokers}: {client.reason or 'no answer'}")


def require_board(client: Client, bus: Bus) -> dict[str, Any]:
    """Waits for the board's state and returns it. Raises NoAnswerError for a board that is away or unknown here."""
    where = f"{bus.topics.base} (broker {bus.mqtt.brokers})"
    for message in client.messages(STATE_WAIT_S):
        if message.topic == bus.topics.state and message.payload:
            state = object_or_empty(message.payload)
            if _is_away(state):
                raise NoAnswerError(f"{where} cannot answer{_state_words(state)}, so nothing was sent")
            return state
    raise NoAnswerError(
        f"the broker has no state of {where}, so nothing was sent: check site and device, and whether this account may "
        f"read {bus.topics.state}"
    )


def _is_away(state: dict[str, Any]) -> bool:
    return state.get("state") == "stopped" or state.get("reason") == "connection-lost"


def _state_words(document: dict[str, Any]) -> str:
    """The board's state as the end of a sentence; empty if there is none."""
    state, reason = document.get("state"), document.get("reason")
    if not isinstance(state, str):
        return ""
    return cut(f"; it is {state} ({reason})" if isinstance(reason, str) else f"; it is {state}")
