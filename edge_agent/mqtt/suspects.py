"""PURE. Messages that are alike, some of which seem to break connections: set aside, until one of them passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge_agent.mqtt.break_odds import Odds

# Enough against one of them, where all together are proof.
LITTLE_CHANCE = 1e-3


def nbytes(message: Any) -> int:
    return len(message.topic.encode()) + len(message.payload)


@dataclass(slots=True)
class Member:
    """A message, under its sender's number. is_suspect: it was first in line, or broke a connection as it was tried."""

    number: int
    message: Any
    odds: Odds
    is_suspect: bool = False


@dataclass(slots=True)
class Line:
    """Messages to a topic from a size on; is_lone: only the suspects among them.

    due_s: when the next is tried, of the calm. odds: of all together. culprits: how many broke a connection.
    until: they are refused.
    """

    topic: str
    nbytes: int
    odds: Odds
    due_s: float
    is_lone: bool = False
    members: dict[int, Member] = field(default_factory=dict)
    culprits: int = 0
    broke_at: float = 0.0
    until: float = 0.0

    def is_of(self, message: Any) -> bool:
        is_like = not self.is_lone and nbytes(message) >= self.nbytes
        # Of what is retained, nothing older may follow.
        return bool(message.topic == self.topic and (is_like or message.retain))

    def add(self, member: Member) -> None:
        if member.message.retain:
            self.members.clear()
        self.members[member.number] = member

    @property
    def others(self) -> list[Member]:
        return [one for one in self.members.values() if not one.is_suspect]

    def let_go(self) -> dict[int, Any]:
        self.is_lone = True
        others = self.others
        self.members = {number: one for number, one in self.members.items() if one.is_suspect}
        return {one.number: one.message for one in others}

    def is_proven(self, odds: Odds) -> bool:
        """That a member breaks connections."""
        return odds.are_proof or (odds.breaks > 0 and odds.chance < LITTLE_CHANCE and self.odds.are_proof)
