"""Checks of the broker: whether it accepts this board, what it offers, what the board may do, and how fast it is."""

import logging
import secrets
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge_agent.core.config import Config, MqttConfig
from edge_agent.core.messages import clear_retained, json_publication
from edge_agent.core.topics import Topics, matches
from edge_agent.core.wording import cut, shown
from edge_agent.mqtt import outbox
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.mqtt.link import KEEPALIVE_S, FailedAt
from edge_agent.tools.client import Client, object_or_empty
from edge_agent.tools.doctor.check import Check, Verdict, failed, good, skipped, warning
from edge_agent.tools.watch.advice import advice_on
from edge_agent.tools.watch.site import texts_at

TIMEOUT_S = 5.0
WAIT_S = 3.0
ROUND_TRIPS = 7
# Linux acknowledges a TCP packet after 40 ms, or earlier with data of its own. A broker that waits for that adds more
# than this time to a round trip.
STALL_S = 0.025
_TOKEN_EXPIRY_S = 60
_CA_ADVICE = (
    "create the authority's certificate (mqtt.tls.ca_file) again, by openssl req -x509 -key ca.key with the same -subj "
    "and -addext keyUsage=critical,keyCertSign,cRLSign: Python requires it since 3.13; the broker's stays valid"
)
_OTHER_CA_ADVICE = "set mqtt.tls.ca_file to the certificate of the authority that signed the broker's"
# The advice by a part of OpenSSL's message, in small letters.
_TLS_ADVICE = {
    "key usage": _CA_ADVICE,
    "invalid ca certificate": _CA_ADVICE,
    "not valid for": "name the broker in mqtt.host as its certificate does, or add this name to it (subjectAltName)",
    "has expired": "renew the certificate of the broker or its authority; if both are valid, set this board's clock",
    "not yet valid": "set this board's clock",
    "self-signed": _OTHER_CA_ADVICE,
    "issuer certificate": _OTHER_CA_ADVICE,
}
_MODEL_FAILED = "model-load-failed"
_LOG_ADVICE = "read its log: journalctl -u edge-agent"
_START_ADVICE = "`systemctl status edge-agent` on it says why it does not run"
_START_WAIT_ADVICE = "wait until its model is loaded; on a slow card the first load takes minutes"
# Alarms and states hold long paths.
_MAX_CHARS = 400
_LISTENER_ADVICE = (
    "check that mqtt.port is the broker's TLS listener (usually 8883), that mqtt.tls.ca_file is the authority of "
    "its certificate and that mqtt.host is a name in it; or remove [mqtt.tls]"
)


def broker_checks(
    config: Config, *, is_running: bool, reports_agent: bool, is_own_account: bool = True
) -> Iterator[Check]:
    """Checks each broker, then sends messages through the first that accepts.

    Args:
        is_running: Whether the agent runs.
        reports_agent: Whether what the agent says of itself is to be reported, too.
        is_own_account: Whether the account is the board's; the rights of another one say nothing about the board.
    """
    client_id = f"{config.device.site}.{config.device.id}.doctor"
    is_accepted = False
    for host in config.mqtt.hosts:
        check = connection_check(config.mqtt.model_copy(update={"hosts": (host,)}), client_id)
        is_accepted |= check.verdict is Verdict.GOOD
        yield check
    if is_accepted:
        yield from traffic_checks(
            config, client_id, is_running=is_running, reports_agent=reports_agent, is_own_account=is_own_account
        )


def connection_check(mqtt: MqttConfig, client_id: str) -> Check:
    """Whether the only host of `mqtt` accepts a connection."""
    where = f"{mqtt.hosts[0]}:{mqtt.effective_port}"
    if faults := credential_faults(mqtt):
        advice = "correct these files or their keys in the configuration; only root may read those in credentials/"
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
                return failed("broker", f"{where} cannot be reached: {why}", "check the broker, then run doctor again")
    also = "a client's certificate (mqtt.tls.cert_file)" if mqtt.tls else "TLS ([mqtt.tls], usually port 8883)"
    found = f"{where} does not answer an MQTT {mqtt.protocol} CONNECT {tls}"
    return failed("broker", found, f"check mqtt.protocol, and whether the broker's listener requires {also}")


def traffic_checks(
    config: Config, client_id: str, *, is_running: bool, reports_agent: bool = False, is_own_account: bool = True
) -> Iterator[Check]:
    """Publishes events on `event/doctor`, and one message below `<root>/reply`.

    Requests that arrive meanwhile are not answered.
    """
    topics, token = config.topics, secrets.token_hex(8)
    event_topic = topics.event("doctor")
    own = {topics.state, topics.health, topics.alarm("+")}
    wanted = {topics.all_requests, topics.all_commands, event_topic, *own, *config.reading_filters}
    with _muted(outbox.log, unless=is_own_account), Client(client_id, config.mqtt, wanted) as board:
        if not board.connect(WAIT_S):
            return
        link = board.link
        if config.mqtt.protocol == "5":
            yield features_check(link.limits, config.queue.max_payload_bytes)
        link.publish(json_publication(event_topic, {"token": token}))
        # What the board's own agent last said of itself, by the end of the topic.
        retained: dict[str, dict[str, Any]] = {}
        is_back = False
        for message in board.messages(WAIT_S):
            if any(matches(text, message.topic) for text in own):
                retained[message.topic.removeprefix(f"{topics.base}/")] = object_or_empty(message.payload)
            elif message.topic == event_topic and token.encode() in message.payload:
                is_back = True
                break
        refused = [(f"subscribe to {shown(text)}", why) for text, why in link.subscriptions.answers.items() if why]
        refused += [(f"publish below {shown(topics.base)}", why) for _, why in link.outbox.refusals]
        if reports_agent:
            yield from agent_check(retained)
        rights = rights_check(refused, topics.base, is_back=is_back)
        if rights.verdict is not Verdict.GOOD and not is_own_account:
            found = f"account {shown(config.mqtt.username)} has not the rights of the board, whose own are not checked"
            yield skipped("topics", found)
            return
        yield rights
        if not is_back:
            yield name_check(retained.get("state", {}), topics.base, is_running=is_running)
            return
        shared_replies = f"{config.mqtt.root}/reply"
        if config.mqtt.protocol == "5" and f"{shared_replies}/#" in config.reply_topics:
            yield replies_check(board, shared_replies)
        yield _unless_lost(board, retained_check(board, topics))
        yield name_check(retained.get("state", {}), topics.base, is_running=is_running)
        with Client(f"{client_id}.caller", config.mqtt, ()) as caller:
            yield _round_trip(board, caller, topics)


@contextmanager
def _muted(log: logging.Logger, *, unless: bool) -> Iterator[None]:
    """Mutes the log, unless told not to. Another account may lack the board's rights, so refusals are no errors."""
    log.disabled = not unless
    try:
        yield
    finally:
        log.disabled = False


def features_check(limits: dict[str, Any], max_payload_bytes: int) -> Check:
    """What the broker offers by the limits in its CONNACK, and what follows from what it lacks."""
    lacks = [
        f"{what}, so {so}"
        for name, what, so in (
            ("MaximumQoS", "QoS 1", "it refuses the agent's connection, whose last will has QoS 1"),
            ("RetainAvailable", "retained messages", "it refuses the agent's connection, whose last will is retained"),
            ("WildcardSubscriptionAvailable", "wildcards", "the agent hears neither requests nor commands"),
        )
        if limits.get(name) == 0
    ]
    if lacks:
        return failed("features", f"the broker lacks {'; '.join(lacks)}", "enable it, or use another broker")
    packet_bytes, keepalive_s = limits.get("MaximumPacketSize"), limits.get("ServerKeepAlive", 0)
    packets = "no packet limit announced" if packet_bytes is None else f"packets up to {packet_bytes} bytes"
    found = f"retained messages, wildcards, QoS 1, {packets}, {limits.get('ReceiveMaximum', 65535)} unacknowledged"
    if packet_bytes is not None and packet_bytes < max_payload_bytes:
        advice = (
            f"let the broker accept packets larger than queue.max_payload_bytes ({max_payload_bytes}); otherwise a "
            "longer request does not arrive, a longer reply becomes `failed`, and a longer `info` is not published"
        )
        return warning("features", found, advice)
    if keepalive_s > KEEPALIVE_S:
        found = f"the broker sets a keepalive of {keepalive_s} s; the agent asks for {KEEPALIVE_S} s"
        advice = f"lower it, because a dead board is shown as online for up to {1.5 * keepalive_s:.0f} s"
        return warning("features", found, advice)
    return good("features", found)


def rights_check(refused: list[tuple[str, str]], base: str, *, is_back: bool) -> Check:
    """What this board may do, by what the broker refused, with its reasons, and whether the event came back."""
    advice = (
        f"in the broker's access list, let this user read and write below {base}/#; "
        "usually the rules expect mqtt.username to be the device's id"
    )
    if refused:
        return failed("topics", f"this board may not {', '.join(f'{what} ({why})' for what, why in refused)}", advice)
    if not is_back:
        # MQTT 3.1.1 brokers drop messages that they do not allow, without a word.
        return warning("topics", f"messages published below {shown(base)} do not come back", advice)
    return good("topics", f"may subscribe and publish below {base}")


def replies_check(board: Client, place: str) -> Check:
    """Whether this board may publish replies where callers expect them."""
    refusals = board.link.outbox.refusals
    before = len(refusals)
    board.link.publish(json_publication(f"{place}/doctor", {}))
    board.wait_until_sent(WAIT_S)
    if len(refusals) == before:
        return good("replies", f"may publish below {place}")
    return warning(
        "replies",
        f"this board may not publish below {shown(place)}",
        f"in the broker's access list, let this user write {place}/#; until then, replies go to the task's own topic",
    )


def name_check(state: dict[str, Any], base: str, *, is_running: bool) -> Check:
    """Whether another board uses this name, by the state that the broker retains of this board."""
    current = state.get("state")
    if current in ("online", "draining") and not is_running:
        return warning(
            "name",
            f"an agent is {current} as {base}, although none runs here with this state_dir",
            f"if it has just died, {_START_ADVICE}; if it runs in a container or with another state_dir, all is well; "
            "otherwise another board has this device.id: give each its own",
        )
    return good("name", f"{base} is {shown(current) if current else 'not known to the broker yet'}")


def agent_check(retained: dict[str, dict[str, Any]]) -> Iterator[Check]:
    """What this board's agent says of itself. `retained` has its state, health and alarms, by the end of the topic."""
    state, health = retained.get("state", {}), retained.get("health", {})
    current, reason = state.get("state"), state.get("reason")
    if not isinstance(current, str):
        yield warning("agent", "it has told the broker nothing", f"if it should run, {_START_ADVICE}")
        return
    if current == "stopped":
        yield warning("agent", "it is stopped", f"unless this is intended, {_START_ADVICE}")
        return
    condition = cut(current if reason is None else f"{current} ({reason})", _MAX_CHARS)
    if current == "offline" and reason == "starting":
        yield warning("agent", f"it is {condition}", _START_WAIT_ADVICE)
        return
    if current == "offline" and reason == "connection-lost":
        yield failed("agent", f"it is {condition}", f"{_START_ADVICE}; if it hangs, restart it")
        return
    alarms = {
        topic.removeprefix("alarm/"): cut(str(document.get("message")), _MAX_CHARS)
        for topic, document in retained.items()
        if topic.startswith("alarm/") and document and document.get("session") == state.get("session")
    }
    reasons = [name for name in texts_at(health, "reasons") if name not in alarms]
    faults = [*(f"{name}: {message}" for name, message in alarms.items()), *map(cut, reasons)]
    overall = health.get("overall") if health.get("session") == state.get("session") else None
    if overall:
        found = "; ".join([f"it is {condition}, {cut(str(overall))}", *faults])
    else:
        # Its broker keeps what a board said that has died together with an earlier broker.
        found = f"it said that it is {condition}, but its health is missing"
        if faults:
            found += f"; its last alarms: {'; '.join(faults)}"
    is_critical = current == "offline" or overall == "critical"
    if overall == "ok" and not is_critical:
        yield good("agent", found)
    else:
        # An alarm's message says what to do.
        phrases = [reason, *reasons] if isinstance(reason, str) else reasons
        if _MODEL_FAILED in alarms or any(phrase.startswith(_MODEL_FAILED) for phrase in phrases):
            # A model that does not load needs more than the wait that is the advice on one that is not loaded.
            phrases = [_MODEL_FAILED, *(phrase for phrase in reasons if phrase != "model-not-loaded")]
        advised = {phrase: words for phrase in phrases if (words := advice_on(phrase))}
        advice = "; ".join(f"{cut(phrase)}: {words}" for phrase, words in advised.items())
        yield (failed if is_critical else warning)("agent", found, advice or _LOG_ADVICE)


def retained_check(board: Client, topics: Topics) -> Check:
    """Whether a new subscription with a wildcard brings a retained `event/doctor`, which is removed again."""
    topic, token = topics.event("doctor"), secrets.token_hex(8)
    board.link.subscriptions.replace(())
    board.link.publish(json_publication(topic, {"token": token}, retain=True, expiry_s=_TOKEN_EXPIRY_S))
    board.wait_until_sent(WAIT_S)
    board.link.subscriptions.replace({topics.event("+")})
    is_brought = hears(board, token, is_retained=True)
    board.link.publish(clear_retained(topic))
    if is_brought:
        return good("retained", "a new subscription receives retained messages, even with wildcards")
    return warning(
        "retained",
        "a new subscription with wildcards does not receive retained messages (as with RabbitMQ)",
        "dashboards should name each board's topics; `edge-agent watch` shows a board once it publishes health, and "
        "one that was offline before only with --expect",
    )


def _unless_lost(board: Client, check: Check) -> Check:
    """The check, unless the connection has ended, because that is then what is wrong."""
    for _ in board.messages(0.1):  # Takes what came before the end.
        pass
    if board.is_connected:
        return check
    found = f"the connection broke in the meantime: {board.reason}"
    return failed(check.name, found, "see the broker's log, then run doctor again")


def _round_trip(board: Client, caller: Client, topics: Topics) -> Check:
    if not caller.connect(WAIT_S):
        found = f"the broker does not accept a second connection: {caller.reason or 'no answer'}"
        return _unless_lost(board, skipped("round trip", found))
    prompt_s, late_s = (_round_trips_s(board, caller, topics, is_late=is_late) for is_late in (False, True))
    if not prompt_s or not late_s:
        found = f"no answer came within {WAIT_S:.0f} s"
        return _unless_lost(board, warning("round trip", found, "check the broker's load, then run doctor again"))
    return round_trip_check(prompt_s, late_s)


def _round_trips_s(board: Client, caller: Client, topics: Topics, *, is_late: bool) -> list[float]:
    """Times from the caller's message at QoS 1 to the board's answer; empty if one did not come.

    With `is_late` the caller's kernel acknowledges TCP packets late. The first round trip, which sets that, does not
    count.
    """
    question, answer = topics.event("doctor"), topics.event("doctor-answer")
    board.link.subscriptions.replace({question})
    caller.link.subscriptions.replace({answer})
    caller.link.delays_tcp_acks = is_late
    times = []
    for _ in range(ROUND_TRIPS + 1):
        token = secrets.token_hex(8)
        started_at = time.monotonic()
        for sender, topic, receiver in ((caller, question, board), (board, answer, caller)):
            sender.link.publish(json_publication(topic, {"token": token}))
            if not hears(receiver, token):
                return []
        times.append(time.monotonic() - started_at)
    return times[1:]


def round_trip_check(prompt_s: list[float], late_s: list[float]) -> Check:
    """Whether the broker waits for TCP acknowledgements, by round trips of a caller that sends them promptly, or late.

    The fastest late round trip counts, because on an uneven network medians differ by chance.
    """
    usual_s, late_ms = statistics.median(prompt_s), 1000 * statistics.median(late_s)
    found = f"{late_ms:.1f} ms from a QoS 1 message to its answer, not counting an agent's work"
    if min(late_s) - usual_s < STALL_S:
        return good("round trip", found)
    return warning(
        "round trip",
        f"{found}; {1000 * usual_s:.1f} ms if the client's kernel acknowledges each packet at once: the broker holds "
        "packets back (Nagle's algorithm)",
        "write `set_tcp_nodelay true` into mosquitto.conf and restart it; let clients set TCP_NODELAY too",
    )


def hears(client: Client, token: str, *, is_retained: bool = False) -> bool:
    """Whether a message with this token comes within WAIT_S."""
    messages = client.messages(WAIT_S)
    return any(token.encode() in message.payload and message.is_retained >= is_retained for message in messages)
