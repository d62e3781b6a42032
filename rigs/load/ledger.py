"""Requests and replies as the client sees them, and whether the agent kept its promises."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

# A reply of these statuses is repeated to an equal request.
_FINAL = ("ok", "invalid")
MAX_NOTES = 20
NO_FAULT = "none"


def answer_text(output: Any) -> str:
    """An output in the form in which it is compared: text, or an object with sorted keys."""
    return output if isinstance(output, str) else json.dumps(output, sort_keys=True, ensure_ascii=False)


@dataclass(slots=True)
class LedgerEntry:
    """One request. Replies are kept as digests because a run may take a night."""

    expected: str | None
    """The `answer_text` of an `ok` reply, or None if any will do."""
    ends: frozenset[str] | None
    """The statuses that are right, or None if any is."""
    times: int = 1
    """How often the request was sent."""
    is_acknowledged: bool = False
    """Whether the broker has acknowledged it."""
    fault: str = NO_FAULT
    """The last fault that happened while it was in flight."""
    end: str | None = None
    """The status of the first reply, such as `ok` or `busy/queue_full`."""
    replies: int = 0
    output: bytes = b""
    seen: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class FaultCounts:
    """Counts of one fault. Replies count for the fault before them."""

    times: int = 0
    """How often the fault happened."""
    in_flight: int = 0
    """Requests that were in flight at these times."""
    answered: int = 0
    """Answered requests whose last fault it was."""
    lost: int = 0
    """Lost requests whose last fault it was."""
    wrong: int = 0
    duplicates: int = 0
    """Further replies that are marked `repeat` or equal an earlier one byte for byte."""
    inferred_again: int = 0
    """Further replies that are neither."""


class Ledger:
    """Counts first replies by status in `statuses`, and describes the first wrong ones in `notes`.

    With `allows_reruns` a request may run again, on another board, and then has an equal answer.
    """

    def __init__(self, *, allows_reruns: bool = False) -> None:
        self._allows_reruns = allows_reruns
        self._entries: dict[str, LedgerEntry] = {}
        self._open: set[str] = set()
        self._by_fault: dict[str, FaultCounts] = {NO_FAULT: FaultCounts()}
        self._fault = NO_FAULT
        self.statuses: Counter[str] = Counter()
        self.notes: list[str] = []

    @property
    def unanswered(self) -> int:
        return len(self._open)

    @property
    def answered(self) -> int:
        return len(self._entries) - len(self._open)

    def ask(self, name: str, expected: str | None, ends: frozenset[str] | None = None, *, times: int = 1) -> None:
        self._entries[name] = LedgerEntry(expected, ends, times)
        self._open.add(name)

    def struck(self, fault: str) -> None:
        """To be called when the fault is about to happen."""
        self._fault = fault
        now = self._by_fault.setdefault(fault, FaultCounts())
        now.times += 1
        now.in_flight += len(self._open)
        for name in self._open:
            self._entries[name].fault = fault

    def acknowledged(self, name: str) -> None:
        self._entries[name].is_acknowledged = True

    def hear(self, name: str, reply: dict[str, Any], payload: bytes) -> bool:
        """Takes a terminal reply, parsed and as it came; returns whether it is the first to this request."""
        entry = self._entries.get(name)
        if entry is None:
            self._note_wrong(f"nobody asked {name}")
            return False
        entry.replies += 1
        if entry.replies >= entry.times:
            self._open.discard(name)
        if entry.replies == 1:
            self._hear_first(name, entry, reply)
        else:
            self._hear_again(name, entry, reply, payload)
        entry.seen.append(_digest(payload))
        return entry.replies == 1

    def _hear_first(self, name: str, entry: LedgerEntry, reply: dict[str, Any]) -> None:
        status, code = reply["status"], (reply["error"] or {}).get("code")
        entry.end = f"{status}/{code}" if code else status
        entry.output = _digest(answer_text(reply["output"]).encode())
        self._by_fault[entry.fault].answered += 1
        self.statuses[entry.end] += 1
        if entry.ends is not None and status not in entry.ends:
            self._note_wrong(f"{name}: {entry.end}, not {', '.join(sorted(entry.ends))}")
        elif status == "ok" and entry.expected is not None and answer_text(reply["output"]) != entry.expected:
            self._note_wrong(f"{name}: {answer_text(reply['output'])!r}, not {entry.expected!r}")

    def _hear_again(self, name: str, entry: LedgerEntry, reply: dict[str, Any], payload: bytes) -> None:
        is_same = (reply["repeat"] or self._allows_reruns) and _digest(
            answer_text(reply["output"]).encode()
        ) == entry.output
        is_same = is_same or _digest(payload) in entry.seen
        may_run_again = entry.replies <= entry.times and (entry.end or "").split("/")[0] not in _FINAL
        if not is_same and not may_run_again:
            self._by_fault[self._fault].inferred_again += 1
            self._note(f"{name}: inferred again after {entry.end}")
        self._by_fault[self._fault].duplicates += is_same and entry.replies > entry.times

    def _note_wrong(self, what: str) -> None:
        self._by_fault[self._fault].wrong += 1
        self._note(what)

    def _note(self, what: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(what)

    def lost(self) -> list[str]:
        return sorted(name for name in self._open if self._entries[name].is_acknowledged)

    def by_fault(self) -> dict[str, FaultCounts]:
        """The counts of each fault, NO_FAULT included."""
        lost = Counter(self._entries[name].fault for name in self.lost())
        return {fault: replace(one, lost=lost[fault]) for fault, one in self._by_fault.items()}

    def counts(self) -> dict[str, int]:
        """The counts of all faults together."""
        found = {"asked": len(self._entries), "answered": self.answered}
        for name in ("lost", "wrong", "duplicates", "inferred_again"):
            found[name] = sum(getattr(one, name) for one in self.by_fault().values())
        return found

    @property
    def is_good(self) -> bool:
        """Whether nothing is lost, wrong or inferred again, and no fault has more duplicates than it met requests."""
        is_within = all(one.duplicates <= one.in_flight for one in self._by_fault.values())
        return is_within and not any(self.counts()[name] for name in ("lost", "wrong", "inferred_again"))


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=12).digest()
