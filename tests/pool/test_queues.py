from typing import Any

import pytest

from edge_agent.pool.claim import DELIVERY_LIMIT
from edge_agent.pool.queues import declare_queues, queues_of, routing_key_of, topic_of
from tests.helpers.rabbit import DEAD, QUEUE
from tests.helpers.support import config

POOL = '[pool]\nname = "pumps"\n'


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("edgeai/v1/hall1/pool/pumps/infer/triage/request", "edgeai.v1.hall1.pool.pumps.infer.triage.request"),
        ("plant.a/v1.2/x", "plant/a.v1/2.x"),
        ("", ""),
    ],
)
def test_a_topic_and_its_routing_key_swap_slashes_and_dots(topic: str, key: str) -> None:
    assert routing_key_of(topic) == key
    assert topic_of(key) == topic


def test_a_pools_queues_are_named_after_its_topics() -> None:
    queues = queues_of(config(POOL))
    assert (queues.requests, queues.dead) == (QUEUE, DEAD)
    assert queues.binding == f"{QUEUE}.infer.*.request"
    dotted = queues_of(config(f'[mqtt]\nroot = "plant.a/v1"\n{POOL}'))
    assert dotted.requests == "plant/a.v1.hall1.pool.pumps"


class Declared:
    """Records what is declared, as keyword arguments."""

    def __init__(self) -> None:
        self.queues: dict[str, dict[str, Any]] = {}
        self.bindings: list[tuple[str, ...]] = []

    def queue_declare(self, queue: str, **options: Any) -> None:
        self.queues[queue] = options

    def queue_bind(self, *words: str) -> None:
        # A binding requires the queue.
        assert words[0] in self.queues
        self.bindings.append(words)


def test_the_queue_refuses_what_is_too_much_and_loses_no_dead_letter() -> None:
    channel: Any = Declared()
    declare_queues(channel, queues_of(config(POOL)), 500)
    assert all(options["durable"] for options in channel.queues.values())
    requests, dead = channel.queues[QUEUE]["arguments"], channel.queues[DEAD]["arguments"]
    assert requests["x-queue-type"] == dead["x-queue-type"] == "quorum"
    # At-least-once dead lettering requires `reject-publish`.
    assert (requests["x-max-length"], requests["x-overflow"]) == (500, "reject-publish")
    assert requests["x-dead-letter-strategy"] == "at-least-once"
    assert (requests["x-dead-letter-exchange"], requests["x-dead-letter-routing-key"]) == ("", DEAD)
    assert requests["x-delivery-limit"] == DELIVERY_LIMIT
    # A dead letter has nowhere else to go.
    assert dead == {"x-queue-type": "quorum", "x-delivery-limit": -1}
    assert channel.bindings == [(QUEUE, "amq.topic", f"{QUEUE}.infer.*.request")]
