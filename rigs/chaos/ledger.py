"""Requests and replies as the client sees them, and whether the agent kept its promises."""

from __future__ import annotations

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
    """One request.

    expected: `answer_text` of an `ok` reply; None = any. ends: the right statuses; None = any.
    times: how often it was sent. is_taken: the broker has it. fault: the last fault while it was in flight.
    end: status of the first reply, `ok` or `busy/queue_full`. Replies are kept as digests: a run may take a night.
    """

    expected: str | None
    ends: frozenset[str] | None
    times: int = 1
    is_taken: bool = False
    fault: str = NO_FAULT
    end: str | None = None
    replies: int = 0
    output: bytes = b""
    seen: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class ByFault:
    """times: how often the fault happened. in_flight: requests in flight at these times.

    answered, lost: requests whose last fault it was. The others count replies after it and before the next fault.
    duplicates: further replies that are marked `repeat` or equal an earlier one byte for byte.
    inferred_again: further replies that are neither.
    """

    times: int = 0
    in_flight: int = 0
    answered: int = 0
    lost: int = 0
    wrong: int = 0
    duplicates: int = 0
    inferred_again: int = 0


class Ledger:
    """statuses: of first replies. notes: what was wrong with the first wrong replies.

    allows_reruns: a request may run again, on another board, and then has an equal answer.
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

    def hear(self, payload: bytes, name: str | None = None) -> tuple[str, str] | None:
        """Takes a terminal reply; gives name and status of the first one. name: None = the id of the reply."""
        reply = json.loads(payload)
        name = str(reply["id"]) if name is None else name
        asked = self._asked.get(name)
        if asked is None:
            self._note_wrong(f"nobody asked {name}")
            return None
        asked.replies += 1
        if asked.replies >= asked.times:
            self._open.discard(name)
        if asked.replies == 1:
            self._hear_first(name, asked, reply)
        else:
            self._hear_again(name, asked, reply, payload)
        asked.seen.append(_digest(payload))
        return (name, reply["status"]) if asked.replies == 1 else None

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
