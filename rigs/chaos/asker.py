"""A client with a persistent session that sends requests and records the replies."""

from __future__ import annotations

import json
import random
import threading
from functools import partial

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from rigs.chaos.ledger import Ledger, answer_text

DEADLINE_MS = 600_000
_REPLY_TOPIC = "edgeai/v1/reply/chaos"
LABELS = ("normal", "bearing fault", "cavitation")
TASKS = ("generate", "triage")
# For a model whose answers are learned first: how many questions, and tokens per answer.
QUESTIONS = 40
MAX_TOKENS = 24
LEARN_S = 60.0
_LEARN = "learn "
WORDS = ("pump", "valve", "motor", "hall", "vibration", "pressure", "rises", "falls", "today", "again", "é", "水")


class Asker:
    """Keeps `window` requests in flight."""

    def __init__(self, port: int, protocol: str, base: str, *, requests: int, window: int, seed: int) -> None:
        self.ledger = Ledger()
        # Before the agent's first connection, the broker keeps nothing for it.
        self.has_seen_agent = threading.Event()
        self._base, self._requests = base, requests
        self._random = random.Random(seed)
        self._lock = threading.Condition()
        # Learned answers by task and text. Empty = the echo engine, whose answers are known.
        self._right: dict[tuple[str, str], str] = {}
        self._learned: dict[str, str] = {}
        self._sent: dict[int, str] = {}
        self._taken_early: set[int] = set()
        self._number = 0
        self._window = window
        is_v5 = protocol == "5"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, "chaos", clean_session=None if is_v5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
        )  # fmt: skip
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 2)
        self._client.max_inflight_messages_set(window)
        if is_v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 3600
            self._client.connect("127.0.0.1", port, 10, clean_start=False, properties=properties)
        else:
            self._client.connect("127.0.0.1", port, 10)
        self._client.loop_start()

    @property
    def is_done(self) -> bool:
        with self._lock:
            return self._number >= self._requests and not self.ledger.unanswered

    @property
    def answered(self) -> int:
        return self.ledger.answered

    def learn(self) -> None:
        """Asks a model some questions one by one. Later requests repeat these, and must get the same answers."""
        for number in range(QUESTIONS):
            name, task, text = f"{_LEARN}{number}", TASKS[number % len(TASKS)], self._text()
            with self._lock:
                self._publish(name, task, text)
                is_answered = self._lock.wait_for(partial(self._learned.__contains__, name), LEARN_S)
                assert is_answered, "no answer to a lone question"
                self._right[task, text] = self._learned[name]

    def struck(self, fault: str) -> None:
        """The fault is about to happen."""
        with self._lock:
            self.ledger.struck(fault)

    def fill(self) -> None:
        """Sends until the window is full."""
        with self._lock:
            while self._number < self._requests and self.ledger.unanswered < self._window:
                self._number += 1
                self._ask(str(self._number), *self._question())

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _question(self) -> tuple[str, str]:
        if self._right:
            return self._random.choice(list(self._right))
        return self._random.choice(TASKS), self._text()

    def _text(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(2, 8)))

    def _ask(self, name: str, task: str, text: str) -> None:
        if self._right:
            expected = self._right[task, text]
        elif task == "triage":
            expected = LABELS[len(text) % len(LABELS)]
            text = f"{text} {expected}"
        else:
            expected = text
        self.ledger.ask(name, expected)
        self._sent[self._publish(name, task, text)] = name

    def _publish(self, name: str, task: str, text: str) -> int:
        envelope = {"id": name, "input": text, "reply_to": _REPLY_TOPIC, "deadline_ms": DEADLINE_MS}
        envelope["options"] = {"max_tokens": MAX_TOKENS}
        return self._client.publish(f"{self._base}/infer/{task}/request", json.dumps(envelope), qos=1).mid

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe([(_REPLY_TOPIC, 1), (f"{self._base}/state", 1)])

    def _on_publish(self, _client: object, _userdata: object, number: int, *_: object) -> None:
        # paho holds a lock here that `publish` waits for under this object's lock: to take that would be a deadlock.
        self._taken_early.add(number)

    def note_taken(self) -> None:
        with self._lock:
            for number in list(self._taken_early):
                if number in self._sent:
                    self.ledger.taken(self._sent.pop(number))
                    self._taken_early.discard(number)

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        if message.topic != _REPLY_TOPIC:
            if json.loads(message.payload)["state"] == "online":
                self.has_seen_agent.set()
            return
        with self._lock:
            reply = json.loads(message.payload)
            if str(reply["id"]).startswith(_LEARN):
                self._learned[reply["id"]] = answer_text(reply["output"])
                self._lock.notify_all()
            else:
                self.ledger.hear(bytes(message.payload))
