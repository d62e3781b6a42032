"""What a factory asks of a board: readings, explanations, retries, mistakes, cancelled requests and bursts."""

import itertools
import json
import random
from collections import Counter

from edge_agent.tools.demo.readings import held_out
from rigs.load.asking import Load
from rigs.load.ledger import answer_text
from rigs.soak.site import BASE, DIAGNOSIS, EXPLANATION, TRIAGE

READINGS = 30
BURST_EVERY_S, BURST = 60.0, 120
RELOAD_EVERY_S = 90.0
ANSWER_S = 60.0
# How many of 100 requests are of each kind.
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


class Factory(Load):
    """Compares each answer with what was answered to the same question before, alone."""

    def __init__(self, port: int, protocol: str) -> None:
        super().__init__(port, protocol, reply_filters=("plant/+/triage", f"{BASE}/infer/+/response"))
        self.asked: Counter[str] = Counter()
        self._random = random.Random(0)
        self._readings = [one.payload for one in held_out()[:READINGS]]
        self._right: dict[tuple[str, str], str] = {}
        self._due_at: dict[str, float] = {}

    def learn(self) -> None:
        """Asks every question once, one after the other, which gives the right answers."""
        for task, reading in itertools.product((TRIAGE, DIAGNOSIS, EXPLANATION), self._readings):
            answer = self.ask(f"{BASE}/infer/{task}/request", reading, deadline_ms=60_000).result(ANSWER_S)
            if answer.status == "ok":
                self._right[task, reading] = answer_text(answer.reply["output"])
        assert self._right, "the agent answers nothing"

    def ask_for(self, count: int) -> None:
        """Sends `count` requests of all kinds, by their shares."""
        for kind in self._random.choices(list(SHARES), list(SHARES.values()), k=count):
            self._ask(kind)

    def tick(self, now: float, *, has_bursts: bool) -> None:
        """Sends bursts and reloads when they are due."""
        if has_bursts and self._is_due("burst", BURST_EVERY_S, now):
            for _ in range(BURST):
                self._ask("triage", counted_as="burst")
        if self._is_due("reload", RELOAD_EVERY_S, now):
            self.command(f"{BASE}/cmd/reload", "{}")

    def _is_due(self, what: str, every_s: float, now: float) -> bool:
        due_at = self._due_at.setdefault(what, now + every_s)
        if now < due_at:
            return False
        self._due_at[what] = now + every_s
        return True

    def _ask(self, kind: str, counted_as: str | None = None) -> None:
        self.asked[counted_as or kind] += 1
        name, reading = self.new_name(), self._random.choice(self._readings)
        task = _TASKS.get(kind, TRIAGE)
        envelope: dict[str, object] = {"id": name, "input": reading, "reply_to": self.reply_to, "deadline_ms": 60_000}
        match kind:
            case "explanation":
                envelope["stream"] = True
            case "mistake":
                envelope |= dict([self._random.choice(_MISTAKES)])
            case "too late":
                envelope["deadline_ms"] = 1
            case "cancelled":
                envelope["options"] = {"max_tokens": 200}
        topic, payload = f"{BASE}/infer/{task}/request", json.dumps(envelope)
        if kind == "sensor":
            topic, payload = f"plant/{name}/reading", reading
        self.send(
            topic,
            payload,
            name,
            expected=None if kind in _ENDS else self._right.get((task, reading)),
            ends=_ENDS.get(kind, _SERVED),
            times=2 if kind == "retry" else 1,
            is_stream=kind == "explanation",
        )
        if kind == "cancelled":
            self.command(f"{BASE}/cmd/cancel", json.dumps({"request_id": name, "reply_to": self.reply_to}))
