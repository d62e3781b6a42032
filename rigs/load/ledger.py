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
class Asked:
    """One request. Replies are kept as digests because a run may take a night."""

    expected: str | None
    """The `answer_text` of an `ok` reply, or None if any will do."""
    ends: frozenset[str] | None
    """The statuses that are right, or None if any is."""
    times: int = 1
    """How often the request was sent."""
    is_taken: bool = False
    """Whether the broker has acknowledged it."""
    fault: str = NO_FAULT
    """The last fault that happened while it was in flight."""
    end: str | None = None
    """The status of the first reply, such as `ok` or `busy/queue_full`."""
    replies: int = 0
    output: bytes = b""
    seen: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class ByFault:
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
        self._asked: dict[str, Asked] = {}
        self._open: set[str] = set()
        self._by_fault: dict[str, ByFault] = {NO_FAULT: ByFault()}
        self._fault = NO_FAULT
        self.statuses: Counter[str] = Counter()
        self.notes: list[str] = []

    @property
    def unanswered(self) -> int:
        return len(self._open)

    @property
    def answered(self) -> int:
        return len(self._asked) - len(self._open)

    def ask(self, name: str, expected: str | None, ends: frozenset[str] | None = None, *, times: int = 1) -> None:
        self._asked[name] = Asked(expected, ends, times)
        self._open.add(name)

    def struck(self, fault: str) -> None:
        """The fault is about to happen."""
        self._fault = fault
        now = self._by_fault.setdefault(fault, ByFault())
        now.times += 1
        now.in_flight += len(self._open)
        for name in self._open:
            self._asked[name].fault = fault

    def taken(self, name: str) -> None:
        self._asked[name].is_taken = True

    def hear(self, name: str, reply: dict[str, Any], payload: bytes) -> bool:
        """Takes a terminal reply, parsed and as it came; returns whether it is the first to this request."""
        asked = self._asked.get(name)
        if asked is None:
            self._note_wrong(f"nobody asked {name}")
            return False
        asked.replies += 1
        if asked.replies >= asked.times:
            self._open.discard(name)
        if asked.replies == 1:
            self._hear_first(name, asked, reply)
        else:
            self._hear_again(name, asked, reply, payload)
        asked.seen.append(_digest(payload))
        return asked.replies == 1

    def _hear_first(self, name: str, asked: Asked, reply: dict[str, Any]) -> None:
        status, code = reply["status"], (reply["error"] or {}).get("code")
        asked.end = f"{status}/{code}" if code else status
        asked.output = _digest(answer_text(reply["output"]).encode())
        self._by_fault[asked.fault].answered += 1
        self.statuses[asked.end] += 1
        if asked.ends is not None and status not in asked.ends:
            self._note_wrong(f"{name}: {asked.end}, not {', '.join(sorted(asked.ends))}")
        elif status == "ok" and asked.expected is not None and answer_text(reply["output"]) != asked.expected:
            self._note_wrong(f"{name}: {answer_text(reply['output'])!r}, not {asked.expected!r}")

    def _hear_again(self, name: str, asked: Asked, reply: dict[str, Any], payload: bytes) -> None:
        is_same = (reply["repeat"] or self._allows_reruns) and _digest(
            answer_text(reply["output"]).encode()
        ) == asked.output
        is_same = is_same or _digest(payload) in asked.seen
        may_run_again = asked.replies <= asked.times and (asked.end or "").split("/")[0] not in _FINAL
        if not is_same and not may_run_again:
            self._by_fault[self._fault].inferred_again += 1
            self._note(f"{name}: inferred again after {asked.end}")
        self._by_fault[self._fault].duplicates += is_same and asked.replies > asked.times

    def _note_wrong(self, what: str) -> None:
        self._by_fault[self._fault].wrong += 1
        self._note(what)

    def _note(self, what: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(what)

    def lost(self) -> list[str]:
        return sorted(name for name in self._open if self._asked[name].is_taken)

    def by_fault(self) -> dict[str, ByFault]:
        """With NO_FAULT."""
        lost = Counter(self._asked[name].fault for name in self.lost())
        return {fault: replace(one, lost=lost[fault]) for fault, one in self._by_fault.items()}

    def counts(self) -> dict[str, int]:
        """Of all faults together."""
        found = {"asked": len(self._asked), "answered": self.answered}
        for name in ("lost", "wrong", "duplicates", "inferred_again"):
            found[name] = sum(getattr(one, name) for one in self.by_fault().values())
        return found

    @property
    def is_good(self) -> bool:
        """Nothing is lost, wrong or inferred again; no fault has more duplicates than requests in flight."""
        is_within = all(one.duplicates <= one.in_flight for one in self._by_fault.values())
        return is_within and not any(self.counts()[name] for name in ("lost", "wrong", "inferred_again"))


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=12).digest()
