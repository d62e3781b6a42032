"""A request of the pool while this board has it."""

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.core.codes import Code, Error
from edge_agent.core.messages import Message
from edge_agent.core.topics import TaskTopics
from edge_agent.core.wording import shown
from edge_agent.requests.origin import SharedRequest

# After this many deliveries to boards, a request is answered, even by a refusal.
MAX_DELIVERIES = 5
# RabbitMQ gives a request up after this many deliveries. Only boards that are lost with it bring it there.
DELIVERY_LIMIT = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Claim(SharedRequest):
    """RabbitMQ keeps the request until it is settled or given back. If this board is lost, another one gets it."""

    message: Message
    topics: TaskTopics
    deliveries: int
    """How often boards got it, this time included."""
    acknowledge: Callable[[], object]
    """Tells RabbitMQ that the reply is there."""
    requeue: Callable[[], object]
    """Tells RabbitMQ to deliver it to another board."""
    dead_because: str | None = None
    """RabbitMQ's reason for delivering the request to no board any more: `expired`, `delivery_limit`."""

    @property
    def is_repeated(self) -> bool:
        return self.deliveries > 1 or self.dead_because == "delivery_limit"

    @property
    def refusal(self) -> Error | None:
        match self.dead_because:
            case None:
                return None
            case "expired":
                return Error(code=Code.DEADLINE, message="its message expired in the pool's queue")
            case reason:
                message = f"no board of the pool answered it, so the broker gave up on it ({shown(reason)})"
                return Error(code=Code.ENGINE_LOST, message=message)

    def settle(self) -> None:
        self.acknowledge()

    def give_back(self) -> bool:
        if self.dead_because is not None or self.deliveries >= MAX_DELIVERIES:
            return False
        self.requeue()
        return True
