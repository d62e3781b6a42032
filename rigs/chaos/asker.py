"""A client that keeps a window of requests in flight whose right answers are known."""

import random

from rigs.load.asking import Load
from rigs.load.ledger import Ledger

DEADLINE_MS = 600_000
# Requests in flight.
WINDOW = 24
LABELS = ("normal", "bearing fault", "cavitation")
WORDS = ("pump", "valve", "motor", "hall", "vibration", "pressure", "rises", "falls", "today", "again", "é", "水")


class Asker(Load):
    """Asks the echo engine. Its session outlives its connections."""

    def __init__(
        self, port: int, protocol: str, base: str, *, requests: int, seed: int, ledger: Ledger | None = None
    ) -> None:
        super().__init__(port, protocol, name="chaos", is_kept=True, in_flight=WINDOW, ledger=ledger)
        self._base, self._left = base, requests
        self._random = random.Random(seed)

    @property
    def is_done(self) -> bool:
        return not self._left and not self.ledger.unanswered

    def fill(self) -> None:
        """Sends until the window is full."""
        while self._left and self.ledger.unanswered < WINDOW:
            self._left -= 1
            self._ask()
        self.note_acknowledged()

    def _ask(self) -> None:
        task = self._random.choice(("generate", "triage"))
        text = expected = " ".join(self._random.choices(WORDS, k=self._random.randint(2, 8)))
        if task == "triage":
            expected = LABELS[len(text) % len(LABELS)]
            text = f"{text} {expected}"
        more = {"deadline_ms": DEADLINE_MS, "options": {"max_tokens": 24}}
        self.ask(f"{self._base}/infer/{task}/request", text, expected=expected, **more)
