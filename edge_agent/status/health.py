"""Facts of every part -> the health document."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edge_agent.board.energy import EnergyMeter
from edge_agent.board.limits import Level, Limits
from edge_agent.board.reading import BoardReading
from edge_agent.core.protocol import Ready
from edge_agent.mqtt.connections import MqttFacts
from edge_agent.requests.statistics import RequestFacts
from edge_agent.worker.throughput import Throughput

DATA_LOST_AFTER_S = 10.0
# Connections lost within the last minute.
UNSTABLE_AFTER = 3
# Its longest step, a full batch of a 3B model on a Pi 4, may come near; it is ended only much later.
WORKER_SILENT_AFTER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that a health document is made of. Times are seconds, sizes as named; None = unknown."""

    ts: str | None
    session: str
    seq: int
    uptime_s: float
    mqtt: MqttFacts
    requests: RequestFacts
    is_loaded: bool
    # Not what was switched to, for that does not open.
    is_fallback: bool
    # None = there is no worker that is ready.
    worker_silent_s: float | None
    throughput: Throughput
    reading: BoardReading
    limits: Limits
    energy: EnergyMeter
    agent_rss_mb: float | None
    worker_rss_mb: float | None
    worker: Ready | None
    worker_restarts: int
    model: str
    # How the worker before this one ended, in words; None = there was none.
    worker_end: str | None = None
    # Anonymous memory with which a worker is replaced; None = unknown.
    worker_bound_mb: float | None = None
    # Alarms that are raised: severity by name.
    alarms: dict[str, str] = field(default_factory=dict)


def reasons(facts: Facts) -> tuple[str, list[str]]:
    """`overall`, and why it is not ok."""
    critical: list[str] = []
    degraded: list[str] = []
    if facts.mqtt.data_lost_s is not None and facts.mqtt.data_lost_s >= DATA_LOST_AFTER_S:
        critical.append("data-connection-lost")
    if not facts.is_loaded:
        critical.append("model-not-loaded")
    if facts.is_fallback:
        degraded.append("model-fallback")
    if facts.requests.active and (facts.worker_silent_s or 0.0) >= WORKER_SILENT_AFTER_S:
        degraded.append("worker-silent")
    if facts.mqtt.disconnects_lately >= UNSTABLE_AFTER:
        degraded.append("connection-unstable")
    if facts.mqtt.refused_lately:
        degraded.append("publishing-refused")
    if facts.mqtt.unheard:
        degraded.append("subscription-refused")
    if facts.requests.store_fault is not None:
        degraded.append("requests-in-memory-only")
    if facts.requests.is_draining:
        degraded.append("draining")
    if facts.requests.depth >= facts.requests.capacity:
        degraded.append("queue-full")
    if facts.limits.level is not Level.NORMAL:
        degraded.append("limited")
    if facts.reading.has_faults:
        degraded.append("sensor-errors")
    for name, severity in facts.alarms.items():
        (critical if severity == "critical" else degraded).append(name)
    overall = "critical" if critical else "degraded" if degraded else "ok"
    return overall, critical + degraded


def health_document(facts: Facts) -> dict[str, Any]:
    """The whole document; what this board cannot tell is null."""
    overall, why = reasons(facts)
    requests, throughput, reading, worker = facts.requests, facts.throughput, facts.reading, facts.worker
    thermal, throttle, power, cpu, memory = (
        reading.thermal,
        reading.throttle,
        reading.power,
        reading.cpu,
        reading.memory,
    )
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
            "accepted_total": requests.totals.accepted_total,
            "rejected_total": requests.totals.rejected_total,
            "displaced_total": requests.totals.displaced_total,
            "expired_total": requests.totals.expired_total,
            "duplicates_total": requests.totals.duplicates_total,
        },
        "quarantine": [asdict(one) for one in requests.quarantined],
        "inference": {
            "active": requests.active,
            "requests_total": requests.totals.requests_total,
            "failed_total": requests.totals.failed_total,
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
            "fan_rpm": thermal.fan_rpm,
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
        "cpu": {
            "load1": cpu.load1,
            "percent": cpu.percent,
            "freq_mhz": cpu.freq_mhz,
            "freq_max_mhz": cpu.freq_max_mhz,
        },
        "memory": {
            "total_mb": memory.total_mb,
            "available_mb": memory.available_mb,
            "agent_rss_mb": facts.agent_rss_mb,
            "worker_rss_mb": facts.worker_rss_mb,
            "worker_bound_mb": _rounded(facts.worker_bound_mb, 1),
            "swap_used_mb": memory.swap_used_mb,
            "cgroup_controller": memory.has_cgroup_controller,
        },
        "disk": {"free_mb": reading.disk_free_mb},
        "worker": {
            "pid": worker.pid if worker else None,
            "restarts": facts.worker_restarts,
            "last_end": facts.worker_end,
            "model": facts.model,
            "cpu_variant": worker.cpu_variant if worker else None,
            "repacked_mb": _megabytes(worker.repacked_mib) if worker else None,
        },
        "governor": facts.limits.as_health(),
        "sensor_errors": reading.errors,
    }


def _megabytes(mib: float | None) -> float | None:
    return None if mib is None else round(mib * 1.048576, 1)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
