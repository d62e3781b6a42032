"""PURE. What was asked and what came back, kept by the one who asks; and what that says of the agent's promises."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Asked:
    """One request. fault: the number of faults when it was sent; is_taken: the broker has it."""

    expected: str
    is_taken: bool = False
    replies: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of requests. duplicates: further replies that are marked `repeat` or equal the first byte for byte;
    inferred_again: those that are neither. statuses: of first replies."""

    asked: int
    answered: int
    lost: int
    wrong: int
    duplicates: int
    inferred_again: int
    statuses: dict[str, int]

    def is_good(self, allowed_duplicates: int) -> bool:
        return not (self.lost or self.wrong or self.inferred_again) and self.duplicates <= allowed_duplicates


class Ledger:
    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        self._open: set[str] = set()
        self.unknown = 0

    @property
    def open(self) -> int:
        """How many the broker has that are not answered."""
        return sum(self._asked[name].is_taken for name in self._open)

    @property
    def unanswered(self) -> int:
        return len(self._open)

    @property
    def answered(self) -> int:
        return len(self._asked) - len(self._open)

    def ask(self, name: str, expected: str) -> None:
        self._asked[name] = Asked(expected)
        self._open.add(name)

    def taken(self, name: str) -> None:
        self._asked[name].is_taken = True

    def hear(self, payload: bytes) -> tuple[str, str] | None:
        """A reply: its id and status, if it is the first one."""
        reply = json.loads(payload)
        asked = self._asked.get(str(reply["id"]))
        if asked is None:
            self.unknown += 1
            return None
        asked.replies.append(payload)
        self._open.discard(reply["id"])
        return (reply["id"], reply["status"]) if len(asked.replies) == 1 else None

    def lost(self) -> list[str]:
        return sorted(name for name in self._open if self._asked[name].is_taken)

    def verdict(self) -> Verdict:
        statuses: Counter[str] = Counter()
        wrong = duplicates = inferred_again = answered = 0
        for asked in self._asked.values():
            if not asked.replies:
                continue
            answered += 1
            first = json.loads(asked.replies[0])
            code = (first["error"] or {}).get("code")
            statuses[f"{first['status']}/{code}" if code else first["status"]] += 1
            wrong += first["status"] == "ok" and first["output"] != asked.expected
            for payload in asked.replies[1:]:
                reply = json.loads(payload)
                is_same = reply["repeat"] and reply["output"] == first["output"]
                is_same = is_same or payload in asked.replies[: asked.replies.index(payload)]
                is_same = is_same or payload == asked.replies[0]
                duplicates += is_same
                inferred_again += not is_same
        return Verdict(
            asked=len(self._asked), answered=answered, lost=len(self.lost()), wrong=wrong + self.unknown,
            duplicates=duplicates, inferred_again=inferred_again, statuses=dict(statuses),
        )  # fmt: skip
