"""A sensor that asks the pool, or one board, and notes when it gets its answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho

from tests.helpers.caller import Caller

_REPLY_TOPIC = "edgeai/v1/reply/sensor"
ANSWER_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """waited_ms: from publish to reply. at_s: of the monotonic clock."""

    device: str
    status: str
    waited_ms: float
    at_s: float
    timing: dict[str, Any]

    @property
    def service_ms(self) -> float:
        """The engine's time."""
        return float(self.timing["prefill_ms"] or 0.0) + float(self.timing["decode_ms"] or 0.0)


class Sensor:
    """`answers` has each request's first reply, in order of arrival."""

    def __init__(self, port: int, *, is_kept: bool = False) -> None:
        """is_kept: its session outlives a connection."""
        self.answers: list[Answer] = []
        self._sent_at: dict[str, float] = {}
        self._arrived = threading.Condition()
        session = "sensor" if is_kept else None
        self._caller = Caller(port, "5", (_REPLY_TOPIC,), self._on_reply, session=session)

    def _on_reply(self, message: paho.MQTTMessage) -> None:
        now, reply = time.monotonic(), json.loads(message.payload)
        with self._arrived:
            sent_at = self._sent_at.pop(reply["id"], None)
            if sent_at is not None:
                answer = Answer(reply["device"], reply["status"], 1000 * (now - sent_at), now, reply["timing"])
                self.answers.append(answer)
                self._arrived.notify_all()

    def send(self, base: str, name: str, deadline_ms: int = 100_000) -> None:
        """base: of the topics of a pool or a board."""
        envelope = {"id": name, "input": "normal", "reply_to": _REPLY_TOPIC, "deadline_ms": deadline_ms}
        with self._arrived:
            self._sent_at[name] = time.monotonic()
        self._caller.send(f"{base}/infer/triage/request", json.dumps(envelope))

    def send_at(self, base: str, arrivals_s: Iterable[float], deadline_ms: int) -> None:
        """One request at each of these times, in seconds from now."""
        began = time.monotonic()
        for number, at_s in enumerate(arrivals_s):
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            self.send(base, f"t{number}", deadline_ms)

    def wait(self, count: int) -> None:
        """Until there are so many answers."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.answers) >= count, ANSWER_S), (
                f"{len(self.answers)} of {count} requests are answered"
            )

    def ask(self, base: str, name: str) -> Answer:
        count = len(self.answers) + 1
        self.send(base, name)
        self.wait(count)
        return self.answers[-1]

    def close(self) -> None:
        self._caller.close()
