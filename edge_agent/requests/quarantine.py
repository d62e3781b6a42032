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
    """Kept in the store, too, so that later processes do not run these inputs either."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: dict[str, Quarantined] = {}

    @property
    def entries(self) -> tuple[Quarantined, ...]:
        """The oldest first."""
        return tuple(self._entries.values())

    def restore(self) -> None:
        self._entries |= {entry.fingerprint: entry for entry in self._store.quarantined()}

    def check(self, engine_request: EngineRequest) -> None:
        """Raises Refusal(quarantined)."""
        if self._entries and (digest := fingerprint(engine_request)) in self._entries:
            message = f"input: this input has ended the engine twice (fingerprint {digest}), so it is not run again"
            raise Refusal(Code.QUARANTINED, message)

    def hold(self, engine_request: EngineRequest) -> None:
        entry = Quarantined(fingerprint(engine_request), engine_request.task, timestamp())
        log.error(
            "request quarantined task=%r fingerprint=%s: it ended the worker twice", entry.task, entry.fingerprint
        )
        self._entries.pop(entry.fingerprint, None)
        self._entries[entry.fingerprint] = entry
        self._store.add_quarantined(entry)
        if len(self._entries) > MAX_QUARANTINED:
            self.release(next(iter(self._entries)))

    def release(self, digest: str) -> bool:
        """Returns whether an input with this fingerprint was held."""
        if self._entries.pop(digest, None) is None:
            return False
        self._store.remove_quarantined(digest)
        return True


def fingerprint(engine_request: EngineRequest) -> str:
    """16 hex digits of task and prompt. The caller and the options do not count."""
    turns = (f"{message.role}\0{message.content}" for message in engine_request.messages)
    asked = "\0".join((engine_request.task, *turns))
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:16]
