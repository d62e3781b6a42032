"""A client with a session that outlives its connections; it sends requests and records the replies."""

from __future__ import annotations

import json
import random
import threading

import paho.mqtt.client as paho

from rigs.chaos.ledger import Ledger
from tests.helpers.caller import Caller

DEADLINE_MS = 600_000
# Requests in flight.
WINDOW = 24
LABELS = ("normal", "bearing fault", "cavitation")
WORDS = ("pump", "valve", "motor", "hall", "vibration", "pressure", "rises", "falls", "today", "again", "é", "水")
_REPLY_TOPIC = "edgeai/v1/reply/chaos"


class Asker:
    """Keeps WINDOW requests in flight. The echo engine answers, so the right answers are known."""

    def __init__(
        self, port: int, protocol: str, base: str, *, requests: int, seed: int, ledger: Ledger | None = None
    ) -> None:
        self.ledger = ledger or Ledger()
        # Before the agent's first connection, the broker keeps nothing for it.
        self.has_seen_agent = threading.Event()
        self._base, self._requests = base, requests
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._number = 0
        # Names by the number of the message; numbers that the broker has acknowledged.
        self._sent: dict[int, str] = {}
        self._acknowledged: set[int] = set()
        filters = (_REPLY_TOPIC, f"{base}/state")
        # paho holds a lock as it acknowledges that `publish` waits for: this object's lock is not taken there.
        acknowledge = self._acknowledged.add
        self._caller = Caller(
            port, protocol, filters, self._on_message, acknowledge, session="chaos", in_flight=WINDOW
        )  # fmt: skip

    @property
    def is_done(self) -> bool:
        return self._number >= self._requests and not self.ledger.unanswered

    def struck(self, fault: str) -> None:
        """The fault is about to happen."""
        with self._lock:
            self.ledger.struck(fault)

    def fill(self) -> None:
        """Sends until the window is full, and notes what the broker has taken."""
        with self._lock:
            while self._number < self._requests and self.ledger.unanswered < WINDOW:
                self._number += 1
                self._ask(str(self._number))
            for number in self._acknowledged & self._sent.keys():
                self.ledger.taken(self._sent.pop(number))
                self._acknowledged.discard(number)

    def close(self) -> None:
        self._caller.close()

    def _ask(self, name: str) -> None:
        task = self._random.choice(("generate", "triage"))
        text = expected = " ".join(self._random.choices(WORDS, k=self._random.randint(2, 8)))
        if task == "triage":
            expected = LABELS[len(text) % len(LABELS)]
            text = f"{text} {expected}"
        self.ledger.ask(name, expected)
        envelope = {"id": name, "input": text, "reply_to": _REPLY_TOPIC, "deadline_ms": DEADLINE_MS}
        envelope["options"] = {"max_tokens": 24}
        self._sent[self._caller.send(f"{self._base}/infer/{task}/request", json.dumps(envelope)).mid] = name

    def _on_message(self, message: paho.MQTTMessage) -> None:
        if message.topic == _REPLY_TOPIC:
            with self._lock:
                self.ledger.hear(bytes(message.payload))
        elif json.loads(message.payload)["state"] == "online":
            self.has_seen_agent.set()
