"""The health document, made of a snapshot of each part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.board.energy import EnergyMeter
from edge_agent.board.limits import Level, Limits
from edge_agent.board.reading import BoardReading
from edge_agent.mqtt.connections import MqttFacts
from edge_agent.requests.statistics import RequestFacts
from edge_agent.worker.supervisor import WorkerFacts

DATA_LOST_AFTER_S = 10.0
# Connections lost within the last minute.
UNSTABLE_AFTER = 3
# The longest step, a full batch of a 3B model on a Pi 4, may come near. The worker is killed only much later.
WORKER_SILENT_AFTER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """What a health document is made of. alarms: severity by name of those that are raised; None = unknown."""

    ts: str | None
    session: str
    seq: int
    uptime_s: float
    mqtt: MqttFacts
    requests: RequestFacts
    worker: WorkerFacts
    reading: BoardReading
    limits: Limits
    energy: EnergyMeter
    agent_rss_mb: float | None
    alarms: dict[str, str]


def reasons(facts: HealthFacts) -> tuple[str, list[str]]:
    """`overall`, and why it is not ok: what is critical first."""
    mqtt, requests, worker = facts.mqtt, facts.requests, facts.worker
    critical = {
        "data-connection-lost": mqtt.data_lost_s is not None and mqtt.data_lost_s >= DATA_LOST_AFTER_S,
        "model-not-loaded": worker.ready is None,
    }
    degraded = {
        "model-fallback": worker.model.is_fallback,
        "worker-silent": requests.active > 0 and (worker.silent_s or 0.0) >= WORKER_SILENT_AFTER_S,
        "connection-unstable": mqtt.disconnects_lately >= UNSTABLE_AFTER,
        "publishing-refused": mqtt.refused_lately > 0,
        "subscription-refused": mqtt.unheard > 0,
        "requests-in-memory-only": requests.store_fault is not None,
        "requests-lost": requests.store_set_aside is not None,
        "draining": requests.is_draining,
        "queue-full": requests.depth >= requests.capacity,
        "limited": facts.limits.level is not Level.NORMAL,
        "sensor-errors": facts.reading.has_faults,
    }
    for name, severity in facts.alarms.items():
        (critical if severity == "critical" else degraded)[name] = True
    why_critical, why_degraded = ([name for name, is_so in each.items() if is_so] for each in (critical, degraded))
    overall = "critical" if why_critical else "degraded" if why_degraded else "ok"
    return overall, why_critical + why_degraded


def health_document(facts: HealthFacts) -> dict[str, Any]:
    """The whole document; what is unknown on this board is null."""
    overall, why = reasons(facts)
    requests, totals, reading = facts.requests, facts.requests.totals, facts.reading
    worker, ready, throughput = facts.worker, facts.worker.ready, facts.worker.throughput
    thermal, throttle, power, memory = reading.thermal, reading.throttle, reading.power, reading.memory
    return {
        "ts": facts.ts,
        "session": facts.session,
        "seq": facts.seq,
        "uptime_s": round(facts.uptime_s, 1),
        "overall": overall,
        "reasons": why,
        "mqtt": {
            "connected_s": _rounded(facts.mqtt.connected_s, 1),
            "reconnects": facts.mqtt.reconnects,
            "received": facts.mqtt.received,
            "published": facts.mqtt.published,
            "queued_out": facts.mqtt.queued_out,
            "dropped": facts.mqtt.dropped,
        },
        "queue": {
            "depth": requests.depth,
            "capacity": requests.capacity,
            "oldest_ms": _rounded(requests.oldest_ms, 1),
            "estimated_wait_ms": _rounded(requests.estimated_wait_ms, 1),
            "accepted_total": totals.accepted_total,
            "rejected_total": totals.rejected_total,
            "displaced_total": totals.displaced_total,
            "expired_total": totals.expired_total,
            "duplicates_total": totals.duplicates_total,
        },
        "quarantine": [asdict(one) for one in requests.quarantined],
        "inference": {
            "active": requests.active,
            "requests_total": totals.requests_total,
            "failed_total": totals.failed_total,
            "prompt_tokens_total": throughput.prompt_tokens,
            "completion_tokens_total": throughput.completion_tokens,
            "cached_tokens_total": throughput.cached_tokens,
            "prefix_hits_total": throughput.prefix_hits,
            "prefix_misses_total": throughput.prefix_misses,
            "decode_tok_s": throughput.decode_tok_s,
            "prefill_tok_s": throughput.prefill_tok_s,
            "batch_avg": throughput.batch_avg,
            "latency_ms": {name: _rounded(ms, 1) for name, ms in requests.latency_ms.items()},
            "queued_ms": {name: _rounded(ms, 1) for name, ms in requests.queued_ms.items()},
        },
        "thermal": {
            "soc_c": thermal.soc_c,
            "limit_c": thermal.limit_c,
            "headroom_c": _rounded(thermal.headroom_c, 1),
            "zones": thermal.zones,
            "throttled_now": throttle.now,
            "throttled_since_boot": throttle.since_boot,
            "causes": list(throttle.causes),
        },
        "power": {
            "watts": power.watts,
            "scope": power.scope,
            "source": power.source,
            "undervoltage_now": throttle.undervoltage_now,
            "undervoltage_since_boot": throttle.undervoltage_since_boot,
            "joules_total": _rounded(facts.energy.joules_total, 1),
            "joules_per_token": _rounded(facts.energy.joules_per_token, 4),
        },
        "cpu": asdict(reading.cpu),
        "memory": {
            "total_mb": memory.total_mb,
            "available_mb": memory.available_mb,
            "agent_rss_mb": facts.agent_rss_mb,
            "worker_rss_mb": worker.resident_mb,
            "swap_used_mb": memory.swap_used_mb,
        },
        "disk": {"free_mb": reading.disk_free_mb},
        "worker": {
            "pid": ready.pid if ready else None,
            "restarts": worker.restarts,
            "last_end": worker.last_end,
            "model": worker.model.bundle_name,
            "cpu_variant": ready.cpu_variant if ready else None,
            "repacked_mb": _megabytes(ready.repacked_mib) if ready else None,
        },
        "governor": facts.limits.as_health(),
        "sensor_errors": reading.errors,
    }


def _megabytes(mib: float | None) -> float | None:
    return None if mib is None else round(mib * 1.048576, 1)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
