"""PURE. What a board publishes, as far as it can be believed: what is missing, of another type or absurd is None.

Anybody may publish anything on these topics; a document that cannot be read raises ValueError with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edge_agent.core.strict_json import parse_json

MAX_PAYLOAD_BYTES = 1_000_000
MAX_TEXT = 300
MAX_LIST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """name: online, draining, stopped or offline. connected_at: seconds since 1970."""

    name: str
    session: str | None
    connected_at: float | None
    reason: str | None
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Units as in the names (degrees Celsius, seconds, megabytes). ts: seconds since 1970."""

    ts: float | None
    session: str | None
    seq: int | None
    uptime_s: float | None
    overall: str | None
    reasons: tuple[str, ...]
    queue_depth: int | None
    queue_capacity: int | None
    active: int | None
    requests_total: int | None
    computed_tokens_total: int | None
    decode_tok_s: float | None
    prefill_tok_s: float | None
    latency_p95_ms: float | None
    soc_c: float | None
    limit_c: float | None
    headroom_c: float | None
    is_throttled: bool | None
    was_throttled: bool | None
    throttle_causes: tuple[str, ...]
    watts: float | None
    watts_scope: str | None
    is_undervolted: bool | None
    was_undervolted: bool | None
    cpu_percent: float | None
    memory_available_mb: float | None
    governor_level: str | None
    governor_reason: str | None
    sensor_errors: tuple[str, ...]
    model: str | None
    worker_restarts: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """since: seconds since 1970."""

    severity: str
    since: float | None
    message: str | None
    session: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    board: str | None
    model: str | None
    quantization: str | None
    health_interval_s: float | None


def read_state(payload: bytes) -> State:
    document = _object(payload)
    name = document.get("state")
    if name not in ("online", "draining", "stopped", "offline"):
        raise ValueError("`state` should be online, draining, stopped or offline")
    return State(
        name=name,
        session=_text(document, "session"),
        connected_at=_time(document, "connected_at"),
        reason=_text(document, "reason"),
        version=_text(document, "version"),
    )


def read_health(payload: bytes) -> Health:
    document = _object(payload)
    queue, inference, thermal, power = (_table(document, name) for name in ("queue", "inference", "thermal", "power"))
    governor, memory, worker = (_table(document, name) for name in ("governor", "memory", "worker"))
    overall = document.get("overall")
    prompt, cached, written = (_count(inference, f"{name}_tokens_total") for name in ("prompt", "cached", "completion"))
    is_work_known = prompt is not None and cached is not None and written is not None
    errors = document.get("sensor_errors")
    return Health(
        ts=_time(document, "ts"),
        session=_text(document, "session"),
        seq=_count(document, "seq"),
        uptime_s=_number(document, "uptime_s", 0, 1e10),
        overall=overall if overall in ("ok", "degraded", "critical") else None,
        reasons=_texts(document, "reasons"),
        queue_depth=_count(queue, "depth"),
        queue_capacity=_count(queue, "capacity"),
        active=_count(inference, "active"),
        requests_total=_count(inference, "requests_total"),
        computed_tokens_total=prompt - cached + written if is_work_known else None,  # type: ignore[operator]
        decode_tok_s=_number(inference, "decode_tok_s", 0, 1e6),
        prefill_tok_s=_number(inference, "prefill_tok_s", 0, 1e6),
        latency_p95_ms=_number(_table(inference, "latency_ms"), "p95", 0, 1e9),
        soc_c=_number(thermal, "soc_c", -60, 200),
        limit_c=_number(thermal, "limit_c", 0, 200),
        headroom_c=_number(thermal, "headroom_c", -200, 260),
        is_throttled=_flag(thermal, "throttled_now"),
        was_throttled=_flag(thermal, "throttled_since_boot"),
        throttle_causes=_texts(thermal, "causes"),
        watts=_number(power, "watts", 0, 2000),
        watts_scope=_text(power, "scope"),
        is_undervolted=_flag(power, "undervoltage_now"),
        was_undervolted=_flag(power, "undervoltage_since_boot"),
        cpu_percent=_number(_table(document, "cpu"), "percent", 0, 100),
        memory_available_mb=_number(memory, "available_mb", 0, 1e8),
        governor_level=_text(governor, "level"),
        governor_reason=_text(governor, "reason"),
        sensor_errors=tuple(name[:MAX_TEXT] for name in errors)[:MAX_LIST] if isinstance(errors, dict) else (),
        model=_text(worker, "model"),
        worker_restarts=_count(worker, "restarts"),
    )


def read_alarm(payload: bytes) -> Alarm:
    document = _object(payload)
    return Alarm(
        # Of two readings of a severity that is no severity, the worse one is the safe one.
        severity="warning" if document.get("severity") == "warning" else "critical",
        since=_time(document, "since"),
        message=_text(document, "message"),
        session=_text(document, "session"),
    )


def read_info(payload: bytes) -> Info:
    document = _object(payload)
    models = document.get("models")
    model = models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else {}
    return Info(
        board=_text(_table(document, "board"), "model"),
        model=_text(model, "name"),
        quantization=_text(model, "quantization"),
        health_interval_s=_number(_table(document, "limits"), "health_interval_s", 0.1, 3600),
    )


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{len(payload)} bytes are too many")
    try:
        value = parse_json(payload.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    if not isinstance(value, dict):
        raise ValueError("should be a JSON object")  # noqa: TRY004 - a fault of the sender
    return value


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value[:MAX_TEXT] if isinstance(value, str) and value else None


def _texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name)
    return (
        tuple(item[:MAX_TEXT] for item in value[:MAX_LIST] if isinstance(item, str)) if isinstance(value, list) else ()
    )


def _number(document: Mapping[str, Any], name: str, lowest: float, highest: float) -> float | None:
    value = document.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and lowest <= value <= highest else None  # type: ignore[arg-type, operator]


def _count(document: Mapping[str, Any], name: str) -> int | None:
    value = _number(document, name, 0, 2**53)
    return None if value is None else int(value)


def _flag(document: Mapping[str, Any], name: str) -> bool | None:
    value = document.get(name)
    return value if isinstance(value, bool) else None


_OFFSET = re.compile(r"(Z|[+-]\d\d:\d\d)$")


def _time(document: Mapping[str, Any], name: str) -> float | None:
    value = document.get(name)
    if not isinstance(value, str) or not _OFFSET.search(value):
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        return None
