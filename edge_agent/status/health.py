"""The health document, made of a snapshot of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edge_agent.board.energy import EnergyMeter
from edge_agent.board.governor import Level, Limits
from edge_agent.board.reading import BoardReading
from edge_agent.learning.feedback import TaskAccuracy
from edge_agent.learning.students import StudentFacts
from edge_agent.mqtt.connections import MqttFacts
from edge_agent.pool.facts import PoolFacts
from edge_agent.requests.statistics import RequestFacts
from edge_agent.status.alarms import ALARMS, Severity
from edge_agent.worker.supervisor import WorkerFacts

DATA_LOST_AFTER_S = 10.0
# Connections lost within the last minute.
UNSTABLE_AFTER = 3
# The longest step, a full batch of a 3B model on a Pi 4, may come near. The worker is killed only much later.
WORKER_SILENT_AFTER_S = 30.0


def health_document(
    *,
    ts: str | None,
    session: str,
    seq: int,
    uptime_s: float,
    mqtt: MqttFacts,
    requests: RequestFacts,
    worker: WorkerFacts,
    reading: BoardReading,
    limits: Limits,
    energy: EnergyMeter,
    accuracy: Mapping[str, TaskAccuracy],
    students: Mapping[str, StudentFacts],
    pool: PoolFacts | None,
    agent_rss_mb: float | None,
    alarms: dict[str, str],
    unmeasured: set[str],
) -> dict[str, Any]:
    """The whole document; what is unknown on this board is null.

    alarms: severity by name of those that are raised; unmeasured: those whose cause this board cannot find.
    """
    ready = worker.ready
    critical = {
        "data-connection-lost": mqtt.data_lost_s is not None and mqtt.data_lost_s >= DATA_LOST_AFTER_S,
        "model-not-loaded": ready is None,
    }
    degraded = {
        "model-fallback": worker.model.is_fallback,
        "worker-silent": requests.active > 0 and (worker.silent_s or 0.0) >= WORKER_SILENT_AFTER_S,
        "connection-unstable": mqtt.disconnects_lately >= UNSTABLE_AFTER,
        "publishing-refused": mqtt.refused_lately > 0,
        "subscription-refused": mqtt.refused_subscriptions > 0,
        "requests-in-memory-only": requests.store_fault is not None,
        "requests-lost": requests.store_set_aside is not None,
        "draining": requests.is_draining,
        "queue-full": requests.depth >= requests.capacity,
        "limited": limits.level is not Level.NORMAL,
        "sensor-errors": reading.has_faults,
        "promise-unproven": any(one.is_unproven for one in accuracy.values()),
    }
    known = {
        **{name: Severity.CRITICAL * is_so for name, is_so in critical.items()},
        **{name: Severity.WARNING * is_so for name, is_so in degraded.items()},
        **{rule.name: 0 for rule in ALARMS if rule.name not in unmeasured},
        **{name: Severity[word.upper()].value for name, word in alarms.items()},
    }
    # What is critical comes first.
    reasons = sorted((name for name in known if known[name]), key=lambda name: -known[name])
    overall = ("ok", "degraded", "critical")[max(known.values())]
    document = {
        "ts": ts,
        "session": session,
        "seq": seq,
        "uptime_s": uptime_s,
        "overall": overall,
        "reasons": reasons,
        # Also of reasons that do not hold now: most programs for metrics read only numbers, and expect the same ones.
        "severity": known | dict.fromkeys(sorted(unmeasured)),
        "mqtt": _fields(mqtt, "connected_s", "reconnects", "received", "published", "queued_out", "dropped"),
        "queue": {
            **_fields(requests, "depth", "capacity", "oldest_ms", "estimated_wait_ms"),
            **_fields(requests.totals, "accepted_total", "rejected_total", "displaced_total", "expired_total"),
            **_fields(requests.totals, "duplicates_total"),
        },
        "pool": pool and _pool_document(pool),
        "quarantine": [asdict(one) for one in requests.quarantined],
        "inference": {
            **_fields(requests, "active", "latency_ms", "queued_ms"),
            **_fields(requests.totals, "requests_total", "failed_total", "invalid_total"),
            **_fields(worker.throughput, "prompt_tokens_total", "completion_tokens_total", "cached_tokens_total"),
            **_fields(worker.throughput, "decode_tok_s", "prefill_tok_s", "batch_avg"),
            "models": requests.models,
        },
        "thermal": {
            **_fields(reading.thermal, "soc_c", "limit_c", "headroom_c", "zones"),
            "throttled_now": reading.throttle.now,
            "throttled_since_boot": reading.throttle.since_boot,
            "causes": list(reading.throttle.causes),
        },
        "power": {
            **_fields(reading.power, "watts", "scope", "source"),
            **_fields(reading.throttle, "undervoltage_now", "undervoltage_since_boot"),
            **_fields(energy, "joules_total", "joules_per_token"),
        },
        "cpu": asdict(reading.cpu),
        "memory": {**asdict(reading.memory), "agent_rss_mb": agent_rss_mb, "worker_rss_mb": worker.resident_mb},
        "disk": {"free_mb": reading.disk_free_mb},
        "worker": {
            **_fields(worker, "restarts", "last_end"),
            "model": worker.model.bundle_name,
            "bytes_per_token": worker.model.bytes_per_token,
            "pid": ready.pid if ready else None,
            "cpu_variant": ready.cpu_variant if ready else None,
            "repacked_mb": ready.repacked_mib * 1.048576 if ready and ready.repacked_mib is not None else None,
        },
        "accuracy": {
            task: _fields(one, "given", "accuracy", "lower_bound", "promised", "asked", "audits", "feedback", "since")
            for task, one in accuracy.items()
        },
        "students": {task: asdict(one) for task, one in students.items()},
        "governor": limits.as_health(),
        "sensor_errors": reading.errors,
    }
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _pool_document(pool: PoolFacts) -> dict[str, Any]:
    """`waiting`, `places_of_all` and `dead_letters` are of the whole pool, the rest is this board's."""
    queue = pool.queue
    return {
        **_fields(pool, "name", "connected_s", "places", "claimed_total", "given_back_total", "repeated_total"),
        **_fields(pool, "per_minute", "waited_ms"),
        "waiting": queue and queue.waiting,
        "places_of_all": queue and queue.places,
        "dead_letters": queue and queue.dead,
    }


def _fields(part: object, *names: str) -> dict[str, Any]:
    """Those of a snapshot that have the same name in the document."""
    return {name: getattr(part, name) for name in names}


def _rounded(value: Any) -> Any:
    """A copy whose numbers have three decimals at most."""
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value
