"""What a factory asks of a board: readings, explanations, retries, mistakes, cancelled requests and bursts."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from typing import Any

import paho.mqtt.client as paho

from edge_agent.tools.demo.readings import held_out
from rigs.chaos.ledger import Ledger, answer_text
from rigs.soak.place import BASE, DIAGNOSIS, EXPLANATION, TRIAGE
from tests.helpers.caller import Caller

READINGS = 30
REPLY_TOPIC = "edgeai/v1/reply/soak"
BURST_EVERY_S, BURST = 60.0, 120
RELOAD_EVERY_S = 90.0
ANSWER_S = 60.0
# Of 100 requests.
SHARES = {
    "triage": 52, "diagnosis": 16, "sensor": 12, "explanation": 4,
    "retry": 6, "mistake": 4, "too late": 3, "cancelled": 3,
}  # fmt: skip
_TASKS = {"diagnosis": DIAGNOSIS, "explanation": EXPLANATION, "cancelled": "generate"}
# A burst fills the queue, so that any request may be refused.
_SERVED = frozenset({"ok", "busy"})
_ENDS = {
    "mistake": frozenset({"invalid"}),
    "too late": frozenset({"expired", "busy", "ok"}),
    "cancelled": frozenset({"cancelled", "ok", "busy"}),
}
_MISTAKES: tuple[tuple[str, object], ...] = (
    ("input", 42), ("input", None), ("priority", 10), ("deadline_ms", 0), ("options", {"wishes": 3}),
    ("options", {"temperature": 9}), ("reply_to", "cmd/drain"), ("stream", "yes"),
)  # fmt: skip


class Load:
    """Compares each answer with what was answered to the same question before, alone."""

    def __init__(self, port: int, protocol: str) -> None:
        self.ledger = Ledger()
        self.torn_streams = 0
        self.asked: Counter[str] = Counter()
        self._lock = threading.Condition()
        self._random = random.Random(0)
        self._readings = [one.payload for one in held_out()[:READINGS]]
        self._right: dict[tuple[str, str], str] = {}
        self._learned: dict[str, dict[str, Any]] | None = {}
        # By the request's name: the text of its stream so far.
        self._streams: dict[str, list[str]] = {}
        # Names by the number of the message; numbers that the broker has acknowledged.
        self._names: dict[int, str] = {}
        self._acknowledged: list[int] = []
        filters = (REPLY_TOPIC, "plant/+/triage", f"{BASE}/infer/+/response")
        self._caller = Caller(port, protocol, filters, self._on_message, self._acknowledged.append)
        self._due_at: dict[str, float] = {}

    @property
    def unanswered(self) -> int:
        return self.ledger.unanswered

    def learn(self) -> None:
        """Asks every question once, one after the other: these are the right answers."""
        learned = self._learned
        assert learned is not None
        for task in (TRIAGE, DIAGNOSIS, EXPLANATION):
            for reading in self._readings:
                name = f"{task} {len(learned)}"
                envelope = {"id": name, "input": reading, "reply_to": REPLY_TOPIC, "deadline_ms": 60_000}
                self._caller.send(f"{BASE}/infer/{task}/request", json.dumps(envelope))
                with self._lock:
                    is_answered = self._lock.wait_for(lambda name=name: name in learned, ANSWER_S)  # type: ignore[misc]
                    assert is_answered, "no answer to one question"
                if learned[name]["status"] == "ok":
                    self._right[task, reading] = answer_text(learned[name]["output"])
        assert self._right, "the agent answers nothing"
        self._learned = None

    def ask(self, count: int) -> None:
        """Requests of all kinds, by their shares."""
        for kind in self._random.choices(list(SHARES), list(SHARES.values()), k=count):
            self._ask(kind)

    def tick(self, now: float, *, has_bursts: bool) -> None:
        """Bursts and reloads when they are due; the broker's acknowledgements."""
        if has_bursts and self._is_due("burst", BURST_EVERY_S, now):
            for _ in range(BURST):
                self._ask("triage", counted_as="burst")
        if self._is_due("reload", RELOAD_EVERY_S, now):
            self._caller.send(f"{BASE}/cmd/reload", b"{}")
        for number in self._acknowledged[:]:
            if number in self._names:
                self.ledger.taken(self._names.pop(number))
            self._acknowledged.remove(number)

    def close(self) -> None:
        self._caller.close()

    def _is_due(self, what: str, every_s: float, now: float) -> bool:
        due_at = self._due_at.setdefault(what, now + every_s)
        if now < due_at:
            return False
        self._due_at[what] = now + every_s
        return True

    def _ask(self, kind: str, counted_as: str | None = None) -> None:
        self.asked[counted_as or kind] += 1
        name, reading = str(self.asked.total()), self._random.choice(self._readings)
        task = _TASKS.get(kind, TRIAGE)
        right = None if kind in _ENDS else self._right.get((task, reading))
        envelope: dict[str, object] = {"id": name, "input": reading, "reply_to": REPLY_TOPIC, "deadline_ms": 60_000}
        match kind:
            case "explanation":
                envelope["stream"] = True
                self._streams[name] = []
            case "mistake":
                envelope |= dict([self._random.choice(_MISTAKES)])
            case "too late":
                envelope["deadline_ms"] = 1
            case "cancelled":
                envelope["options"] = {"max_tokens": 200}
        topic, payload = f"{BASE}/infer/{task}/request", json.dumps(envelope)
        if kind == "sensor":
            topic, payload = f"plant/{name}/reading", reading
        times = 2 if kind == "retry" else 1
        with self._lock:
            self.ledger.ask(name, right, _ENDS.get(kind, _SERVED), times=times)
        for _ in range(times):
            number = self._caller.send(topic, payload).mid
        self._names[number] = name
        if kind == "cancelled":
            self._caller.send(f"{BASE}/cmd/cancel", json.dumps({"request_id": name, "reply_to": REPLY_TOPIC}))

    def _on_message(self, message: paho.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        reply = json.loads(payload)
        name = topic.split("/")[1] if topic.startswith("plant/") else str(reply["id"])
        with self._lock:
            if self._learned is not None:
                self._learned[name] = reply
                self._lock.notify()
                return
            if reply["status"] == "partial":
                self._streams[name].append(reply["delta"])
                return
            if self.ledger.hear(payload, name) is None:
                return
            deltas = self._streams.pop(name, None)
            if reply["status"] == "ok" and deltas is not None and "".join(deltas) != reply["output"]:
                self.torn_streams += 1
