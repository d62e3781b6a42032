"""PURE. What killed the worker twice, running alone the second time: it is not run again until somebody releases it."""

from __future__ import annotations

import hashlib

from edge_agent.core.protocol import Run
from edge_agent.store.rows import Quarantined

MAX_QUARANTINED = 100


def fingerprint(run: Run) -> str:
    """16 hex digits of task and prompt: who asks, and with which options, does not change what is in it."""
    asked = "\0".join((run.task, *(f"{message.role}\0{message.content}" for message in run.messages)))
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Quarantine:
    """At most MAX_QUARANTINED of them: the oldest are let go first."""

    def __init__(self) -> None:
        self._held: dict[str, Quarantined] = {}

    @property
    def held(self) -> tuple[Quarantined, ...]:
        """The oldest first."""
        return tuple(self._held.values())

    def find(self, run: Run) -> Quarantined | None:
        # Hashing costs nothing as long as nothing is held.
        return self._held.get(fingerprint(run)) if self._held else None

    def hold(self, one: Quarantined) -> list[Quarantined]:
        """Gives those that are let go for it."""
        self._held.pop(one.fingerprint, None)
        self._held[one.fingerprint] = one
        return [self._held.pop(next(iter(self._held))) for _ in range(len(self._held) - MAX_QUARANTINED)]

    def release(self, fingerprint: str) -> bool:
        """False: it is not held."""
        return self._held.pop(fingerprint, None) is not None
