"""What simulated boards publish, as documents."""

import json
from datetime import UTC, datetime
from typing import Any

WALL = datetime(2026, 11, 25, 12, 0, tzinfo=UTC).timestamp()


def ts(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def state(
    name: str = "online", session: str = "s1", *, reason: str | None = None, connected_at: float | None = WALL
) -> bytes:
    return encoded(
        {
            "state": name,
            "session": session,
            "connected_at": None if connected_at is None else ts(connected_at),
            "reason": reason,
            "version": "0.1.0",
        }
    )


def will(session: str = "s1", connected_at: float | None = WALL) -> bytes:
    return state("offline", session, reason="connection-lost", connected_at=connected_at)


def health(seq: int = 1, session: str = "s1", /, *, at: float | None = WALL, **changes: Any) -> bytes:
    """A board's health. Of `changes`, `thermal__soc_c=84.2` sets one field, `overall="critical"` a whole one."""
    document: dict[str, Any] = {
        "ts": None if at is None else ts(at),
        "session": session,
        "seq": seq,
        "uptime_s": 10.0 * seq,
        "overall": "ok",
        "reasons": [],
        "mqtt": {"connected_s": 3600.0},
        "queue": {"depth": 2, "capacity": 64},
        "inference": {"active": 1, "decode_tok_s": 11.4, "prefill_tok_s": 182.0, "latency_ms": {"p95": 840.0}},
        "thermal": {"soc_c": 61.5, "limit_c": 85.0, "headroom_c": 23.5, "throttled_now": False, "causes": []},
        "power": {"watts": 6.2, "scope": "board", "undervoltage_now": False, "undervoltage_since_boot": False},
        "cpu": {"percent": 54.0},
        "memory": {"available_mb": 5210},
        "worker": {"restarts": 0, "model": "default"},
        "governor": {"level": "normal", "limits": {}, "reason": None},
        "sensor_errors": {},
    }
    for name, value in changes.items():
        table, _, field = name.partition("__")
        if field:
            document[table][field] = value
        else:
            document[table] = value
    return encoded(document)


def nothing_known(seq: int = 1, session: str = "s1") -> bytes:
    """The health of a container without a sensor, where all that a board may not know is null."""
    unknown = {"thermal": dict.fromkeys(("soc_c", "limit_c", "headroom_c", "throttled_now", "throttled_since_boot"))}
    return health(
        seq,
        session,
        thermal={**unknown["thermal"], "zones": {}, "causes": []},
        power={"watts": None, "scope": "none", "undervoltage_now": None, "undervoltage_since_boot": None},
        inference__decode_tok_s=None,
        inference__prefill_tok_s=None,
        governor={"level": None, "limits": {}, "reason": None},
    )


def alarm(message: str, *, severity: str = "warning", session: str = "s1", since: float = WALL - 240) -> bytes:
    document = {"severity": severity, "since": ts(since), "message": message, "value": None, "session": session}
    return encoded(document)


def info(interval_s: float | None = 10.0) -> bytes:
    return encoded(
        {
            "schema": 1,
            "site": "hall1",
            "board": {"model": "Raspberry Pi 5 Model B", "machine": "aarch64"},
            "models": [{"name": "qwen2.5-0.5b", "sha256": "c0c9", "quantization": "IQ4_NL"}],
            "limits": {"max_active": 4, "health_interval_s": interval_s},
        }
    )
