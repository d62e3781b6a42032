"""A plain MQTT client for tests, like any sensor or dashboard with paho, without the agent's code."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from tests.helpers.caller import Caller
from tests.helpers.processes import WAIT_S

# A message that is published after a subscription arrives after the retained ones.
_END = "the/end"
Connect = Callable[..., "Client"]


@dataclass(frozen=True)
class Message:
    """One received message. `at` is in seconds of the monotonic clock."""

    topic: str
    payload: bytes
    retain: bool
    correlation: bytes | None
    content_type: str | None
    expiry_s: int | None
    at: float

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.payload)
        assert isinstance(document, dict)
        return document


class Client(Caller):
    """Every message received is kept, in order."""

    def __init__(
        self, port: int, protocol: str, user: tuple[str, str] | None = None, ca_file: Path | None = None
    ) -> None:
        self.port = port
        self.protocol = protocol
        self.messages: list[Message] = []
        self._arrived = threading.Condition()
        self._subscribed = 0
        super().__init__(port, protocol, on_message=self._keep, user=user, ca_file=ca_file)
        self._client.on_subscribe = self._on_subscribe

    def _keep(self, message: paho.MQTTMessage) -> None:
        properties = message.properties
        with self._arrived:
            self.messages.append(
                Message(
                    topic=message.topic,
                    payload=bytes(message.payload),
                    retain=message.retain,
                    correlation=getattr(properties, "CorrelationData", None),
                    content_type=getattr(properties, "ContentType", None),
                    expiry_s=getattr(properties, "MessageExpiryInterval", None),
                    at=time.monotonic(),
                )
            )
            self._arrived.notify_all()

    def _on_subscribe(self, *_: object) -> None:
        with self._arrived:
            self._subscribed += 1
            self._arrived.notify_all()

    def subscribe(self, *filters: str) -> None:
        """Returns when the broker has confirmed."""
        with self._arrived:
            wanted = self._subscribed + len(filters)
        for topic_filter in filters:
            self._client.subscribe(topic_filter, qos=1)
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._subscribed >= wanted, WAIT_S), f"no SUBACK for {filters}"

    def hear_retained(self) -> None:
        """Returns when all retained messages of the subscriptions have arrived."""
        self.subscribe(_END)
        before = len(self.on(_END))
        self.publish(_END, b"")
        self.wait(_END, count=before + 1)

    def publish(
        self,
        topic: str,
        payload: bytes | str | dict[str, Any],
        *,
        qos: int = 1,
        retain: bool = False,
        response_topic: str | None = None,
        correlation: bytes | None = None,
        content_type: str | None = None,
        expiry_s: int | None = None,
    ) -> None:
        """Returns when the broker has the message."""
        data = json.dumps(payload) if isinstance(payload, dict) else payload
        given = {
            "ResponseTopic": response_topic,
            "CorrelationData": correlation,
            "ContentType": content_type,
            "MessageExpiryInterval": expiry_s,
        }
        is_v5 = self.protocol == "5"
        properties = {name: value for name, value in given.items() if is_v5 and value is not None}
        self.send(topic, data, qos=qos, retain=retain, properties=properties).wait_for_publish(WAIT_S)

    def wait(self, topic: str, *, count: int = 1, timeout_s: float = WAIT_S) -> list[Message]:
        """The first `count` messages on a topic, including earlier ones."""
        with self._arrived:
            is_there = self._arrived.wait_for(lambda: len(self.on(topic)) >= count, timeout_s)
        got = self.on(topic)
        others = sorted({message.topic for message in self.messages})
        assert is_there, f"{len(got)} of {count} messages on {topic} within {timeout_s} s; heard: {others}"
        return got[:count]

    def exchange(
        self, topic: str, payload: bytes | str | dict[str, Any], answers: str, *, timeout_s: float = WAIT_S, **more: Any
    ) -> Message:
        """Publishes, and returns the next message on the topic of the answers."""
        heard = len(self.on(answers))
        self.publish(topic, payload, **more)
        return self.wait(answers, count=heard + 1, timeout_s=timeout_s)[heard]

    def wait_for(self, topic: str, is_wanted: Any, timeout_s: float = WAIT_S) -> Message:
        """The first message on a topic whose document `is_wanted`."""
        with self._arrived:
            found = self._arrived.wait_for(
                lambda: next((m for m in self.on(topic) if is_wanted(m.json)), None), timeout_s
            )
        heard = self.on(topic)
        last = heard[-1].payload[:500] if heard else None
        assert found is not None, f"none of {len(heard)} messages on {topic} in {timeout_s} s is it; the last: {last!r}"
        assert isinstance(found, Message)
        return found

    def wait_for_alarm(self, base: str, name: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """An alarm as it is raised; an empty message, which says that it is not, may come before."""
        topic = f"{base}/alarm/{name}"
        with self._arrived:
            is_there = self._arrived.wait_for(lambda: any(message.payload for message in self.on(topic)), timeout_s)
        assert is_there, f"no {topic} within {timeout_s} s"
        return next(message.json for message in self.on(topic) if message.payload)

    def on(self, topic: str) -> list[Message]:
        return [message for message in self.messages if message.topic == topic]
