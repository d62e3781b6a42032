"""Whether the broker lets this board say and hear what it has to, and whether somebody else goes by its name."""

from __future__ import annotations

import json
import queue
import secrets
import time
from collections.abc import Callable, Iterator

from edge_agent.core.config import Config
from edge_agent.core.errors import shown
from edge_agent.core.publications import Publication
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Connected, LinkEvent, Received
from edge_agent.status.presence import State
from edge_agent.tools.doctor.check import Check, Verdict

WAIT_S = 3.0
EVENT = "doctor"
_ADVICE = "let the broker's access list have this user read and write below"
_MINE = "mostly the rule is that mqtt.username is the device's id"


def rights(config: Config, client_id: str, *, is_running: bool) -> Iterator[Check]:
    """Of the first broker that answers. is_running: an agent is expected to be online here.

    Publishes one event, `event/doctor`, and waits for it to come back; hears requests meanwhile, and answers none.
    """
    topics = config.topics
    event_topic, token = topics.event(EVENT), secrets.token_hex(8)
    readings = {text for task in config.tasks.values() for text in task.subscribe}
    wanted = {topics.all_requests, topics.all_commands, topics.state, event_topic, *readings}
    events: queue.Queue[LinkEvent] = queue.Queue(1000)
    link = MqttLink(client_id, config.mqtt, events.put, wants_retained=True)
    link.set_subscriptions(wanted)
    state: bytes | None = None
    is_back = False

    def hears_until(is_done: Callable[[], bool]) -> None:
        nonlocal state, is_back
        give_up_at = time.monotonic() + WAIT_S
        while not is_done() and time.monotonic() < give_up_at:
            try:
                event = events.get(timeout=0.05)
            except queue.Empty:
                continue
            if isinstance(event, Received):
                link.acknowledge(event)
                message = event.message
                if message.topic == topics.state:
                    state = message.payload
                is_back |= message.topic == event_topic and token.encode() in message.payload

    link.start()
    try:
        is_up = _connected(events)
        hears_until(lambda: not is_up or len(link.subscriptions.answers) == len(wanted))
        if is_up:
            link.publish(Publication(topic=event_topic, payload=json.dumps({"token": token}).encode()))
            hears_until(lambda: is_back or bool(link.outbox.refusals))
    finally:
        link.stop(0.5)
    if not is_up:
        return
    yield _topics(
        refused={text: why for text, why in link.subscriptions.answers.items() if why is not None},
        unanswered=wanted - link.subscriptions.answers.keys(),
        publishing=next((words for _, words in link.outbox.refusals), None),
        is_back=is_back,
        base=topics.base,
    )
    yield name(state, topics.base, is_running=is_running)


def _connected(events: queue.Queue[LinkEvent]) -> bool:
    try:
        return isinstance(events.get(timeout=WAIT_S), Connected)
    except queue.Empty:
        return False


def _topics(
    *, refused: dict[str, str], unanswered: set[str], publishing: str | None, is_back: bool, base: str
) -> Check:
    def told(verdict: Verdict, found: str, advice: str | None) -> Check:
        return Check(name="topics", verdict=verdict, found=found, advice=advice)

    faults = [f"to hear {shown(text)} ({why})" for text, why in sorted(refused.items())]
    if publishing is not None:
        faults.append(f"to publish below {shown(base)} ({publishing})")
    if faults:
        return told(Verdict.FAILED, f"the broker refuses {', '.join(faults)}", f"{_ADVICE} {base}/#; {_MINE}")
    if unanswered:
        told_topics = ", ".join(map(shown, sorted(unanswered)))
        return told(Verdict.WARNING, f"no answer to subscriptions of {told_topics}", "check the broker's log")
    if not is_back:
        # Brokers of MQTT 3.1.1 throw away what they do not allow, and say nothing.
        return told(
            Verdict.WARNING,
            f"what is published below {shown(base)} does not come back",
            f"{_ADVICE} {base}/#; {_MINE}",
        )
    return told(Verdict.GOOD, f"may hear and publish below {base}", None)


def name(state: bytes | None, base: str, *, is_running: bool) -> Check:
    """state: what is retained of this board; None = nothing."""
    try:
        document = json.loads(state) if state else {}
    except (ValueError, RecursionError):
        document = {}
    told = document.get("state") if isinstance(document, dict) else None
    if told in (State.ONLINE, State.DRAINING) and not is_running:
        return Check(
            name="name",
            verdict=Verdict.WARNING,
            found=f"somebody is {told} as {base}, and no service runs here",
            advice="if no agent was started here by hand, another board has this device.id: give each its own",
        )
    return Check(name="name", verdict=Verdict.GOOD, found=f"{base} is {shown(told) if told else 'not known there yet'}")
