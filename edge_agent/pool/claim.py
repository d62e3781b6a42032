"""A request of the pool while this board has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.core.messages import Message

# A request that so many boards got is answered, even by a refusal.
MAX_DELIVERIES = 5
# RabbitMQ gives a request up after so many deliveries. Only boards that are lost with it bring it there.
DELIVERY_LIMIT = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Claim:
    """RabbitMQ keeps the request until one of `acknowledge` and `give_back` is called, on the agent's thread.

    acknowledge: its reply is there. give_back: another board gets it. If this board is lost, another one gets it, too.
    deliveries: how often boards got it, this time included. dead_because: RabbitMQ's reason for giving no board the
    request any more (`expired`, `delivery_limit`); it only needs a reply.
    """

    message: Message
    deliveries: int
    acknowledge: Callable[[], object]
    give_back: Callable[[], object]
    dead_because: str | None = None

    @property
    def may_go_back(self) -> bool:
        return self.dead_because is None and self.deliveries < MAX_DELIVERIES

    @property
    def is_repeated(self) -> bool:
        """A board, perhaps this one, had it before, and may have answered."""
        return self.deliveries > 1 or self.dead_because == "delivery_limit"
