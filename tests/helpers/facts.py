"""Snapshots of the parts as health gets them, with ordinary values unless a test gives others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.board.energy import EnergyMeter
from edge_agent.board.governor import NO_LIMITS
from edge_agent.board.reading import BoardReading
from edge_agent.models.bundle import open_model
from edge_agent.mqtt.connections import MqttFacts
from edge_agent.pool.facts import PoolFacts, QueueFigures
from edge_agent.requests.statistics import RequestFacts
from edge_agent.status.health import health_document
from edge_agent.worker.supervisor import WorkerFacts
from edge_agent.worker.throughput import Throughput
from tests.helpers.support import ready

READY = ready(
    pid=77,
    context_tokens=2048,
    batch_tokens=256,
    vocabulary=1000,
    cpu_variant="NEON = 1",
    repacked_mib=100.0,
    load_s=1.5,
)


def mqtt_facts(**fields: Any) -> MqttFacts:
    known: dict[str, Any] = {
        "connected_s": 10.0,
        "reconnects": 0,
        "received": 5,
        "published": 6,
        "queued_out": 0,
        "dropped": 0,
        "disconnects_lately": 0,
        "refused_lately": 0,
        "refused_subscriptions": 0,
        "data_lost_s": None,
    }
    return MqttFacts(**{**known, **fields})


def worker_facts(**fields: Any) -> WorkerFacts:
    known: dict[str, Any] = {
        "ready": READY,
        "model": open_model("default", Path("echo:")),
        "restarts": 0,
        "last_end": None,
        "silent_s": 0.5,
        "resident_mb": None,
        "throughput": Throughput(),
    }
    return WorkerFacts(**{**known, **fields})


def pool_facts(**fields: Any) -> PoolFacts:
    known: dict[str, Any] = {
        "name": "pumps",
        "connected_s": 10.0,
        "places": 4,
        "queue": QueueFigures(waiting=3, places=12, dead=0),
        "claimed_total": 9,
        "given_back_total": 1,
        "repeated_total": 0,
        "per_minute": 8,
        "waited_ms": 12.0,
    }
    return PoolFacts(**{**known, **fields})


def health(**fields: Any) -> dict[str, Any]:
    """A health document."""
    known: dict[str, Any] = {
        "ts": None,
        "session": "s1",
        "seq": 3,
        "uptime_s": 12.345,
        "mqtt": mqtt_facts(),
        "requests": RequestFacts(capacity=64),
        "worker": worker_facts(),
        "reading": BoardReading(),
        "limits": NO_LIMITS,
        "energy": EnergyMeter(),
        "accuracy": {},
        "students": {},
        "pool": None,
        "agent_rss_mb": 30.0,
        "alarms": {},
        "unmeasured": set(),
    }
    return health_document(**{**known, **fields})
