"""PURE. What a watcher is told of one board."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.tools.watch.documents import Alarm, Health


class Level(IntEnum):
    """How a board is, worst first."""

    CRITICAL = 0
    OFFLINE = 1
    STALE = 2
    DEGRADED = 3
    UNKNOWN = 4
    STARTING = 5
    DRAINING = 6
    STOPPED = 7
    OK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveAlarm:
    name: str
    alarm: Alarm


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point of a curve: so many seconds ago. None = unknown."""

    age_s: float
    soc_c: float | None
    limit_c: float | None
    tokens_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One board as it is now.

    figures: None unless they are fresh. why: what is not as it should be, a sentence each. tokens_s, requests_s: what
    was done in the latest interval.
    """

    device: str
    level: Level
    state: str | None
    session: str | None
    version: str | None
    board: str | None
    model: str | None
    quantization: str | None
    health_age_s: float | None
    figures: Health | None
    tokens_s: float | None
    requests_s: float | None
    alarms: tuple[ActiveAlarm, ...]
    why: tuple[str, ...]
    history: tuple[Moment, ...]


def row_document(row: Row) -> dict[str, Any]:
    """A row for scripts; what is unknown is null."""
    figures = row.figures
    return {
        "device": row.device,
        "level": row.level.name.lower(),
        "why": list(row.why),
        "state": row.state,
        "session": row.session,
        "version": row.version,
        "board": row.board,
        "model": row.model,
        "quantization": row.quantization,
        "health_age_s": None if row.health_age_s is None else round(row.health_age_s, 1),
        "overall": figures and figures.overall,
        "reasons": list(figures.reasons) if figures else None,
        "uptime_s": figures and figures.uptime_s,
        "soc_c": figures and figures.soc_c,
        "limit_c": figures and figures.limit_c,
        "headroom_c": figures and figures.headroom_c,
        "throttled_now": figures and figures.is_throttled,
        "throttled_since_boot": figures and figures.was_throttled,
        "throttle_causes": list(figures.throttle_causes) if figures else None,
        "undervoltage_now": figures and figures.is_undervolted,
        "undervoltage_since_boot": figures and figures.was_undervolted,
        "queue_depth": figures and figures.queue_depth,
        "queue_capacity": figures and figures.queue_capacity,
        "active": figures and figures.active,
        "decode_tok_s": figures and figures.decode_tok_s,
        "prefill_tok_s": figures and figures.prefill_tok_s,
        "latency_p95_ms": figures and figures.latency_p95_ms,
        "watts": figures and figures.watts,
        "watts_scope": figures and figures.watts_scope,
        "cpu_percent": figures and figures.cpu_percent,
        "memory_available_mb": figures and figures.memory_available_mb,
        "governor_level": figures and figures.governor_level,
        "alarms": [
            {
                "name": active.name,
                "severity": active.alarm.severity,
                "since": None if active.alarm.since is None else timestamp(active.alarm.since),
                "message": active.alarm.message,
            }
            for active in row.alarms
        ],
    }
