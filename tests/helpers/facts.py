"""What parts of the agent report, with ordinary values unless a test gives others."""

from typing import Any

from edge_agent.pool.facts import PoolFacts, QueueFigures
from tests.helpers.support import ready

READY = ready(
    pid=77, context_tokens=2048, batch_tokens=256, vocabulary=1000, cpu_variant="NEON = 1", repacked_mib=100.0,
    load_s=1.5,
)  # fmt: skip


def pool_facts(**fields: Any) -> PoolFacts:
    known: dict[str, Any] = {
        "name": "pumps", "connected_s": 10.0, "places": 4, "queue": QueueFigures(waiting=3, places=12, dead=0),
        "claimed_total": 9, "given_back_total": 1, "repeated_total": 0, "per_minute": 8, "waited_ms": 12.0,
    }  # fmt: skip
    return PoolFacts(**{**known, **fields})
