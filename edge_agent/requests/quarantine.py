"""Inputs that killed the worker twice, running alone the second time. They run again only after their release."""

import hashlib
import logging

from edge_agent.core.clock import timestamp
from edge_agent.core.codes import Code, Refusal
from edge_agent.core.pipe import EngineRequest
from edge_agent.store.store import Quarantined, Store

log = logging.getLogger(__name__)

# The oldest are released first.
MAX_QUARANTINED = 100


class Quarantine:
    """Kept in the store, too: later processes do not run these inputs either."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: dict[str, Quarantined] = {}

    @property
    def entries(self) -> tuple[Quarantined, ...]:
        """The oldest first."""
        return tuple(self._entries.values())

    def restore(self) -> None:
        self._entries |= {entry.fingerprint: entry for entry in self._store.quarantined()}

    def check(self, run: EngineRequest) -> None:
        """Raises Refusal(quarantined)."""
        if self._entries and (digest := fingerprint(run)) in self._entries:
            message = f"input: this input has ended the engine twice (fingerprint {digest}), so it is not run again"
            raise Refusal(Code.QUARANTINED, message)

    def hold(self, run: EngineRequest) -> None:
        entry = Quarantined(fingerprint(run), run.task, timestamp())
        log.error(
            "request quarantined task=%r fingerprint=%s: it ended the worker twice", entry.task, entry.fingerprint
        )
        self._entries.pop(entry.fingerprint, None)
        self._entries[entry.fingerprint] = entry
        self._store.add_quarantined(entry)
        if len(self._entries) > MAX_QUARANTINED:
            self.release(next(iter(self._entries)))

    def release(self, digest: str) -> bool:
        """False: no input with this fingerprint is held."""
        if self._entries.pop(digest, None) is None:
            return False
        self._store.remove_quarantined(digest)
        return True


def fingerprint(run: EngineRequest) -> str:
    """16 hex digits of task and prompt. The caller and the options do not count."""
    asked = "\0".join((run.task, *(f"{message.role}\0{message.content}" for message in run.messages)))
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:16]
