"""The queues of a pool at RabbitMQ: their names, how they are declared, what is in them."""

from dataclasses import dataclass

from pika.adapters.blocking_connection import BlockingChannel

from edge_agent.core.config import Config
from edge_agent.pool.claim import DELIVERY_LIMIT
from edge_agent.pool.facts import QueueFigures

# RabbitMQ's MQTT plugin publishes to this exchange.
EXCHANGE = "amq.topic"


@dataclass(frozen=True, slots=True)
class PoolQueues:
    """The names of a pool's queues. `base` is that of its topics."""

    base: str

    @property
    def requests(self) -> str:
        return routing_key_of(self.base)

    @property
    def dead(self) -> str:
        """For requests that no board gets any more: they expired, or came back too often."""
        return f"{self.requests}.dead"

    @property
    def binding(self) -> str:
        return f"{self.requests}.infer.*.request"


def queues_of(config: Config) -> PoolQueues:
    assert config.pool_topics is not None
    return PoolQueues(config.pool_topics.base)


def routing_key_of(topic: str) -> str:
    """The key into which RabbitMQ's MQTT plugin translates a topic."""
    return topic.translate(str.maketrans("/.", "./"))


def topic_of(routing_key: str) -> str:
    return routing_key_of(routing_key)  # it is its own inverse


def declare_queues(channel: BlockingChannel, queues: PoolQueues, most_waiting: int) -> None:
    """Declares queues and binding. Raises AMQPError, also if a queue exists with other arguments.

    A full queue refuses new messages and drops no older ones. A dead letter stays until the dead-letter queue has it.
    """
    channel.queue_declare(queues.dead, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": -1})
    channel.queue_declare(
        queues.requests,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-max-length": most_waiting,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queues.dead,
            "x-dead-letter-strategy": "at-least-once",
        },
    )
    channel.queue_bind(queues.requests, EXCHANGE, queues.binding)


def read_figures(channel: BlockingChannel, queues: PoolQueues) -> QueueFigures:
    """Asks RabbitMQ. Raises AMQPError, also if the queues are not declared; the channel is closed then."""
    requests = channel.queue_declare(queues.requests, passive=True).method
    dead = channel.queue_declare(queues.dead, passive=True).method
    return QueueFigures(waiting=requests.message_count, places=requests.consumer_count, dead=dead.message_count)
