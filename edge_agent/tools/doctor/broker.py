"""Checks of the broker: can it be reached, does it accept this board, and may the board use its topics?"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator

from edge_agent.core.config import Config, MqttConfig
from edge_agent.core.messages import json_publication
from edge_agent.core.wording import shown
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.mqtt.link import FailedAt
from edge_agent.tools.client import Client, object_or_empty
from edge_agent.tools.doctor.check import Check, Verdict, failed, good, warning

TIMEOUT_S, WAIT_S = 5.0, 3.0
_CA_ADVICE = (
    "create the authority's certificate (mqtt.tls.ca_file) again, by openssl req -x509 -key ca.key with the same -subj "
    "and -addext keyUsage=critical,keyCertSign,cRLSign: Python requires it since 3.13; the broker's stays valid"
)
_OTHER_CA_ADVICE = "let mqtt.tls.ca_file name the certificate of the authority that signed the broker's"
# Part of OpenSSL's message, in small letters -> advice.
_TLS_ADVICE = {
    "key usage": _CA_ADVICE,
    "invalid ca certificate": _CA_ADVICE,
    "not valid for": "name the broker in mqtt.host as its certificate does, or add this name to it (subjectAltName)",
    "has expired": "renew the certificate of the broker or its authority; if both are valid, set this board's clock",
    "not yet valid": "set this board's clock",
    "self-signed": _OTHER_CA_ADVICE,
    "issuer certificate": _OTHER_CA_ADVICE,
}
_LISTENER_ADVICE = (
    "check that mqtt.port is the broker's TLS listener (usually 8883), that mqtt.tls.ca_file is the authority of "
    "its certificate and that mqtt.host is a name in it; or leave [mqtt.tls] out"
)


def broker_checks(config: Config, *, is_running: bool) -> Iterator[Check]:
    """Each broker, then topics and name at the first one that accepts. is_running: the service runs on this board."""
    client_id = f"{config.device.site}.{config.device.id}.doctor"
    is_accepted = False
    for host in config.mqtt.hosts:
        check = connection_check(config.mqtt.model_copy(update={"hosts": (host,)}), client_id)
        is_accepted |= check.verdict is Verdict.GOOD
        yield check
    if is_accepted:
        yield from topic_checks(config, client_id, is_running=is_running)


def connection_check(mqtt: MqttConfig, client_id: str) -> Check:
    """Whether the only host of `mqtt` accepts a connection."""
    where = f"{mqtt.hosts[0]}:{mqtt.effective_port}"
    if faults := credential_faults(mqtt):
        advice = "correct these files, or their keys in the configuration; only root may read those in credentials/"
        return failed("broker", "; ".join(faults), advice)
    try:
        socket.create_connection((mqtt.hosts[0], mqtt.effective_port), TIMEOUT_S).close()
    except OSError as error:
        advice = "check mqtt.host and mqtt.port, the network and the broker's listener"
        return failed("broker", f"{where} cannot be reached: {error.strerror or error}", advice)
    tls = "with TLS" if mqtt.tls else "without TLS"
    with Client(client_id, mqtt, ()) as client:
        if client.connect(TIMEOUT_S):
            return good("broker", f"{where}, MQTT {mqtt.protocol}, {tls}")
        why = client.reason
        match client.failed_at:
            case FailedAt.REFUSED:
                advice = "check mqtt.username, mqtt.password_file and the broker's access list"
                return failed("broker", f"{where} refuses the connection: {why}", advice)
            case FailedAt.NOT_REACHED if mqtt.tls:
                advice = next((known for words, known in _TLS_ADVICE.items() if words in why.lower()), _LISTENER_ADVICE)
                return failed("broker", f"{where} can be reached, but not with TLS: {why}", advice)
            case FailedAt.NOT_REACHED:
                return failed("broker", f"{where} cannot be reached: {why}", "check the broker, and ask again")
    also = "a client's certificate (mqtt.tls.cert_file)" if mqtt.tls else "TLS ([mqtt.tls], usually port 8883)"
    found = f"{where} does not answer a CONNECT of MQTT {mqtt.protocol} {tls}"
    return failed("broker", found, f"check mqtt.protocol, and whether the broker's listener requires {also}")


def topic_checks(config: Config, client_id: str, *, is_running: bool) -> Iterator[Check]:
    """Publishes one event, `event/doctor`, and waits until it comes back. Requests that arrive are not answered."""
    topics, token = config.topics, secrets.token_hex(8)
    event_topic = topics.event("doctor")
    readings = {text for task in config.tasks.values() for text in task.subscribe}
    wanted = {topics.all_requests, topics.all_commands, topics.state, event_topic, *readings}
    state = b""
    is_back = False

    def receive_until(is_done: Callable[[], bool]) -> None:
        nonlocal state, is_back
        give_up_at = time.monotonic() + WAIT_S
        while not is_done() and time.monotonic() < give_up_at:
            if (message := client.receive(0.05)) is not None:
                state = message.payload if message.topic == topics.state else state
                is_back |= message.topic == event_topic and token.encode() in message.payload

    with Client(client_id, config.mqtt, wanted) as client:
        if not client.connect(WAIT_S):
            return
        link = client.link
        receive_until(lambda: len(link.subscriptions.answers) == len(wanted))
        link.publish(json_publication(event_topic, {"token": token}))
        receive_until(lambda: is_back or bool(link.outbox.refusals))
        refused = [(f"to subscribe to {shown(text)}", why) for text, why in link.subscriptions.answers.items() if why]
        refused += [(f"to publish below {shown(topics.base)}", why) for _, why in link.outbox.refusals]
    yield rights_check(refused, topics.base, is_back=is_back)
    yield name_check(state, topics.base, is_running=is_running)


def rights_check(refused: list[tuple[str, str]], base: str, *, is_back: bool) -> Check:
    """refused: what, with the broker's reason. is_back: the event came back."""
    advice = (
        f"let the broker's access list allow this user to read and write below {base}/#; "
        "usually the rule is that mqtt.username is the device's id"
    )
    if refused:
        return failed("topics", f"the broker refuses {', '.join(f'{what} ({why})' for what, why in refused)}", advice)
    if not is_back:
        # MQTT 3.1.1 brokers drop messages that they do not allow, without a word.
        return warning("topics", f"messages published below {shown(base)} do not come back", advice)
    return good("topics", f"may subscribe and publish below {base}")


def name_check(state: bytes, base: str, *, is_running: bool) -> Check:
    """Whether another board uses this name. state: what the broker retains of this board."""
    current = object_or_empty(state).get("state")
    if current in ("online", "draining") and not is_running:
        return warning(
            "name",
            f"an agent is {current} as {base}, and no service runs here",
            "if no agent was started here by hand, another board has this device.id: give each its own",
        )
    return good("name", f"{base} is {shown(current) if current else 'not known there yet'}")
