"""What a factory asks of a board: readings, explanations, retries, mistakes, changes of mind, and who looks on."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial

from edge_agent.tools.demo.readings import held_out
from rigs.chaos.ledger import Ledger, answer_text
from rigs.soak.line import Line
from rigs.soak.place import BASE, DIAGNOSIS, EXPLANATION, TRIAGE

READINGS = 60
REPLY_TOPIC = "edgeai/v1/reply/soak"
BURST_EVERY_S, BURST = 60.0, 120
RELOAD_EVERY_S = 90.0
VISITOR_EVERY_S = 7.0
ANSWER_S = 60.0
# Of 100 requests.
SHARES = {
    "triage": 52, "diagnosis": 16, "sensor": 12, "explanation": 4,
    "retry": 6, "mistake": 4, "too late": 3, "cancelled": 3,
}  # fmt: skip
_TASKS = {"triage": TRIAGE, "diagnosis": DIAGNOSIS, "explanation": EXPLANATION, "retry": TRIAGE}
# The kinds whose latency is watched: each is one request, answered as soon as may be.
TIMED = ("triage", "diagnosis", "explanation", "sensor")
# While the queue is full of a burst, a request may be refused.
_SERVED = frozenset({"ok", "busy"})
_MISTAKES: tuple[tuple[str, object], ...] = (
    ("input", 42), ("input", None), ("priority", 10), ("deadline_ms", 0), ("options", {"wishes": 3}),
    ("options", {"temperature": 9}), ("reply_to", "cmd/drain"), ("stream", "yes"), ("input", ""),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Sent:
    kind: str
    at: float


class Load:
    """Asks when `tick` is called. Answers are compared with what was answered to the same question before, alone."""

    def __init__(self, port: int, protocol: str, *, seed: int = 0) -> None:
        self.ledger = Ledger()
        # Milliseconds from the caller's publish to its answer, by kind, since they were last taken.
        self._latency_ms: dict[str, list[float]] = defaultdict(list)
        self.visits = self.visits_without_health = self.torn_streams = 0
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._readings = [one.payload for one in held_out()[:READINGS]]
        self._right: dict[tuple[str, str], str] = {}
        self._sent: dict[str, _Sent] = {}
        self._streams: dict[str, list[str]] = {}
        self._numbers: dict[int, str] = {}
        self._taken: list[int] = []
        self._number = 0
        self._port, self._protocol = port, protocol
        self._line = Line(
            port, protocol, (REPLY_TOPIC, "plant/+/triage", f"{BASE}/infer/+/response"), self._hear, self._taken.append
        )
        self._visitor: Line | None = None
        self._visitor_heard: set[str] = set()
        self._next = dict.fromkeys(("burst", "reload", "visitor"), 0.0)

    @property
    def unanswered(self) -> int:
        return self.ledger.unanswered

    def learn(self, readings: int = READINGS) -> None:
        """Asks every question once, one after the other: these are the right answers. readings: asks so many only."""
        self._readings = self._readings[:readings]
        answers: dict[str, str | None] = {}
        heard = threading.Condition()

        def hear(_topic: str, payload: bytes) -> None:
            reply = json.loads(payload)
            with heard:
                answers[reply["id"]] = answer_text(reply["output"]) if reply["status"] == "ok" else None
                heard.notify()

        line = Line(self._port, self._protocol, (f"{REPLY_TOPIC}/learn",), hear)
        for task in (TRIAGE, DIAGNOSIS, EXPLANATION):
            for reading in self._readings:
                name = f"{task} {len(answers)}"
                envelope = {"id": name, "input": reading, "reply_to": f"{REPLY_TOPIC}/learn", "deadline_ms": 60_000}
                line.publish(f"{BASE}/infer/{task}/request", json.dumps(envelope))
                with heard:
                    assert heard.wait_for(partial(answers.__contains__, name), ANSWER_S), "no answer to a lone question"
                if (answer := answers[name]) is not None:
                    self._right[task, reading] = answer
        line.close()
        assert self._right, "the agent answers nothing"

    def ask_some(self, count: int) -> None:
        """As many requests, of all kinds."""
        for kind in self._random.choices(list(SHARES), list(SHARES.values()), k=count):
            self._ask(kind)

    def tick(self, now: float, *, has_bursts: bool) -> None:
        """What comes by the clock: bursts, reloads, visitors."""
        if has_bursts and self._is_due("burst", BURST_EVERY_S, now):
            for _ in range(BURST):
                self._ask("triage", is_burst=True)
        if self._is_due("reload", RELOAD_EVERY_S, now):
            self._line.publish(f"{BASE}/cmd/reload", b"")
        if self._is_due("visitor", VISITOR_EVERY_S, now):
            self._visit()
        self._note_taken()

    def take_latencies(self) -> dict[str, list[float]]:
        with self._lock:
            taken, self._latency_ms = self._latency_ms, defaultdict(list)
            return dict(taken)

    def close(self) -> None:
        self._note_taken()
        self._leave()
        self._line.close()

    def _is_due(self, what: str, every_s: float, now: float) -> bool:
        is_first = not self._next[what]
        if now < self._next[what]:
            return False
        self._next[what] = now + every_s
        return not is_first

    def _ask(self, kind: str, *, is_burst: bool = False) -> None:
        self._number += 1
        self.asked["burst" if is_burst else kind] += 1
        name, reading = str(self._number), self._random.choice(self._readings)
        if kind == "sensor":
            self._publish(name, kind, f"plant/{name}/reading", reading, self._right.get((TRIAGE, reading)), _SERVED)
            return
        task = _TASKS.get(kind, TRIAGE)
        envelope: dict[str, object] = {"id": name, "input": reading, "reply_to": REPLY_TOPIC, "deadline_ms": 60_000}
        expected, ends, times = self._right.get((task, reading)), _SERVED, 1
        match kind:
            case "explanation":
                envelope["stream"] = True
                self._streams[name] = []
            case "retry":
                times = 2
            case "mistake":
                field, value = self._random.choice(_MISTAKES)
                envelope[field] = value
                # Its refusal cannot go where it names; an empty input is a text like any other.
                expected, ends = None, frozenset({"ok", "busy"} if (field, value) == ("input", "") else {"invalid"})
            case "too late":
                envelope["deadline_ms"] = 1
                expected, ends = None, frozenset({"expired", "busy", "ok"})
            case "cancelled":
                task, envelope["input"] = "generate", f"Tell of {reading}"
                envelope["options"] = {"max_tokens": 200}
                expected, ends = None, frozenset({"cancelled", "ok", "busy"})
        topic, payload = f"{BASE}/infer/{task}/request", json.dumps(envelope)
        self._publish(name, "burst" if is_burst else kind, topic, payload, expected, ends, times)
        if kind == "cancelled":
            self._line.publish(f"{BASE}/cmd/cancel", json.dumps({"request_id": name, "reply_to": REPLY_TOPIC}))

    def _publish(
        self, name: str, kind: str, topic: str, payload: str, expected: str | None, ends: frozenset[str], times: int = 1
    ) -> None:
        with self._lock:
            self.ledger.ask(name, expected, ends, times=times)
            self._sent[name] = _Sent(kind, time.monotonic())
        for _ in range(times):
            number = self._line.publish(topic, payload)
        self._numbers[number] = name

    def _note_taken(self) -> None:
        for number in self._taken[:]:
            if number in self._numbers:
                self.ledger.taken(self._numbers.pop(number))
            self._taken.remove(number)

    def _hear(self, topic: str, payload: bytes) -> None:
        reply = json.loads(payload)
        name = topic.split("/")[1] if topic.startswith("plant/") else str(reply["id"])
        with self._lock:
            if reply["status"] == "partial":
                self._streams[name].append(reply["delta"])
                return
            first = self.ledger.hear(payload, name)
            if first is None:
                return
            sent = self._sent.pop(name)
            if reply["status"] == "ok" and sent.kind in TIMED:
                self._latency_ms[sent.kind].append((time.monotonic() - sent.at) * 1000)
            told = self._streams.pop(name, None)
            if told is not None and reply["status"] == "ok" and "".join(told) != reply["output"]:
                self.torn_streams += 1

    def _visit(self) -> None:
        """Somebody who looked at the board goes, the next one comes: what is retained is there at once."""
        self._leave()
        self._visitor_heard = set()
        self._visitor = Line(
            self._port, self._protocol, (f"{BASE}/#",), lambda topic, _: self._visitor_heard.add(topic.rsplit("/")[-1])
        )

    def _leave(self) -> None:
        if self._visitor is None:
            return
        self._visitor.close()
        self.visits += 1
        self.visits_without_health += not {"state", "info", "health"} <= self._visitor_heard
        self._visitor = None
