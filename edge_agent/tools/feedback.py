"""`edge-agent feedback`: tells a board over MQTT whether an answer was right."""

import re
import secrets
from typing import Any

from edge_agent.core.codes import CommandCode
from edge_agent.core.messages import json_publication
from edge_agent.tools.ask import require_board, require_connection
from edge_agent.tools.bus import Bus, NoAnswerError
from edge_agent.tools.client import Client, object_or_empty


def send_feedback(bus: Bus, task: str, request_id: str, said: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Returns the board's result. `said` has the fields of the feedback besides `id`. Raises NoAnswerError.

    An id of digits may be text or a number. If the board keeps no answer with the text, the number is tried.
    """
    result = _send(bus, task, {"id": request_id, **said}, timeout_s)
    error = result.get("error")
    is_unknown = isinstance(error, dict) and error.get("code") == CommandCode.NOT_FOUND
    # Not for 007, which is not the same id as 7.
    if is_unknown and re.fullmatch(r"0|-?[1-9]\d{0,99}", request_id, re.ASCII):
        return _send(bus, task, {"id": int(request_id), **said}, timeout_s)
    return result


def _send(bus: Bus, task: str, fields: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    topics, token = bus.topics, secrets.token_hex(8)
    with Client(f"feedback-{token}", bus.mqtt, {topics.state, topics.feedback_result(task)}) as client:
        require_connection(client, bus, timeout_s)
        require_board(client, bus)
        client.link.publish(json_publication(topics.feedback(task), fields, correlation=token.encode()))
        for message in client.messages(timeout_s):
            document = object_or_empty(message.payload)
            is_ours = message.correlation in (None, token.encode()) and document.get("id") == fields["id"]
            if message.topic == topics.feedback_result(task) and is_ours and not message.is_retained:
                return document
    raise NoAnswerError(
        f"no result from {topics.base} within {timeout_s:g} s: check its `feedback.enabled`, and whether this account "
        f"may write {topics.feedback(task)}"
    )
