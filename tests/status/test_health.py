from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.board.energy import EnergyMeter, EnergySample
from edge_agent.board.governor import Level, LimitCause, Limits
from edge_agent.board.reading import BoardReading, Cpu, Memory, Power, Scope, Throttle, ThrottleCause
from edge_agent.core.pipe import Ready
from edge_agent.models.bundle import open_model
from edge_agent.requests.statistics import RequestFacts
from tests.helpers.facts import READY, health, mqtt_facts, pool_facts, worker_facts

DRAINING = RequestFacts(capacity=64, is_draining=True)
RUNNING = RequestFacts(capacity=64, active=1)
STORE_FAULTS = RequestFacts(capacity=64, store_fault="disk I/O error", store_set_aside="damaged")
SILENT = worker_facts(silent_s=30.0)
OFF = {"cv0-thermal": "Resource temporarily unavailable"}
FALLBACK = worker_facts(model=replace(open_model("default", Path("echo:")), is_fallback=True))


# Every field of a health document.
FIELDS: dict[str, set[str]] = {
    "mqtt": {"connected_s", "reconnects", "received", "published", "queued_out", "dropped"},
    "queue": {
        *("depth", "capacity", "oldest_ms", "accepted_total", "rejected_total", "expired_total", "duplicates_total"),
        *("estimated_wait_ms", "displaced_total"),
    },
    "inference": {
        *("active", "requests_total", "failed_total", "prompt_tokens_total", "completion_tokens_total"),
        *(
            "cached_tokens_total",
            "decode_tok_s",
            "prefill_tok_s",
            "batch_avg",
            "latency_ms",
            "queued_ms",
            "invalid_total",
            "models",
        ),
    },
    "thermal": {"soc_c", "limit_c", "headroom_c", "zones", "throttled_now", "throttled_since_boot", "causes"},
    "power": {
        *("watts", "scope", "source", "undervoltage_now", "undervoltage_since_boot", "joules_total"),
        "joules_per_token",
    },
    "cpu": {"load1", "percent", "freq_mhz", "freq_max_mhz"},
    "memory": {"total_mb", "available_mb", "agent_rss_mb", "worker_rss_mb", "swap_used_mb"},
    "disk": {"free_mb"},
    "worker": {"pid", "restarts", "last_end", "model", "bytes_per_token", "cpu_variant", "repacked_mb"},
    "accuracy": set(),
    "students": set(),
    "governor": {"level", "limits", "reason"},
    "severity": {
        *("data-connection-lost", "model-not-loaded", "model-fallback", "worker-silent", "connection-unstable"),
        *("publishing-refused", "subscription-refused", "requests-in-memory-only", "requests-lost", "draining"),
        *(
            "queue-full",
            "limited",
            "sensor-errors",
            "promise-unproven",
            "overheating",
            "throttled",
            "undervoltage",
            "memory-low",
        ),
        *("disk-low", "worker-crash-loop", "model-quality", "duplicate-client-id", "queue-overload"),
        *("model-expired", "revocations"),
        *("accuracy-low", "input-drift", "pool-unreachable", "pool-backlog"),
    },
}
PLAIN = {"ts", "session", "seq", "uptime_s", "overall", "reasons", "sensor_errors", "quarantine", "pool"}


@pytest.mark.parametrize("ready", [READY, None])
def test_every_field_of_the_contract_is_there(ready: Ready | None) -> None:
    document = health(worker=worker_facts(ready=ready))
    assert set(document) == {*FIELDS, *PLAIN}
    for name, fields in FIELDS.items():
        assert set(document[name]) == fields, name
    assert set(document["inference"]["latency_ms"]) == {"p50", "p95", "p99"}
    assert set(document["inference"]["queued_ms"]) == {"p50", "p95"}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_reading_that_does_not_exist_is_null_and_never_zero() -> None:
    document = health(mqtt=mqtt_facts(connected_s=None))
    for part in ("thermal", "power", "cpu", "disk", "governor"):
        assert 0 not in document[part].values()
    unknown = ("thermal", "headroom_c"), ("memory", "available_mb"), ("mqtt", "connected_s"), ("queue", "oldest_ms")
    assert [document[part][name] for part, name in unknown] == [None] * 4
    assert document["inference"]["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert document["power"]["scope"] == "none"


def test_an_alarm_whose_cause_cannot_be_found_is_null_and_not_0() -> None:
    document = health(unmeasured={"overheating", "model-quality"})
    severity = document["severity"]
    assert (document["overall"], document["reasons"]) == ("ok", [])
    assert set(severity) == FIELDS["severity"]
    assert {name for name, value in severity.items() if value is None} == {"overheating", "model-quality"}


def test_every_reading_of_the_board_is_published() -> None:
    reading = BoardReading(
        power=Power(watts=4.5114, scope=Scope.RAILS, source="pmic"),
        throttle=Throttle(now=True, causes=(ThrottleCause.UNDERVOLTAGE, ThrottleCause.THERMAL), undervoltage_now=True),
        cpu=Cpu(load1=3.9, percent=99.5, freq_mhz=1500.0, freq_max_mhz=2400.0),
        memory=Memory(total_mb=8454.0, available_mb=6246.8, swap_used_mb=0.0),
        disk_free_mb=12345.6,
    )
    document = json.loads(json.dumps(health(reading=reading, worker=worker_facts(resident_mb=700.0))))
    assert (document["power"]["watts"], document["power"]["scope"], document["power"]["source"]) == (
        4.511,
        "rails",
        "pmic",
    )
    assert (document["thermal"]["throttled_now"], document["power"]["undervoltage_now"]) == (True, True)
    assert document["thermal"]["causes"] == ["undervoltage", "thermal"]
    assert document["cpu"] == {"load1": 3.9, "percent": 99.5, "freq_mhz": 1500.0, "freq_max_mhz": 2400.0}
    memory = {"total_mb": 8454.0, "available_mb": 6246.8, "swap_used_mb": 0.0}
    assert document["memory"] == {**memory, "agent_rss_mb": 30.0, "worker_rss_mb": 700.0}
    assert document["disk"] == {"free_mb": 12345.6}
    assert document["worker"]["repacked_mb"] == 104.858


@pytest.mark.parametrize(
    ("fields", "overall", "why"),
    [
        ({}, "ok", []),
        ({"mqtt": mqtt_facts(data_lost_s=9.9)}, "ok", []),
        ({"mqtt": mqtt_facts(disconnects_lately=3)}, "degraded", ["connection-unstable"]),
        (
            {"mqtt": mqtt_facts(refused_lately=1, refused_subscriptions=1)},
            "degraded",
            ["publishing-refused", "subscription-refused"],
        ),
        ({"mqtt": mqtt_facts(data_lost_s=10.0)}, "critical", ["data-connection-lost"]),
        ({"worker": worker_facts(ready=None)}, "critical", ["model-not-loaded"]),
        ({"worker": FALLBACK}, "degraded", ["model-fallback"]),
        ({"requests": RUNNING, "worker": SILENT}, "degraded", ["worker-silent"]),
        ({"worker": SILENT}, "ok", []),
        ({"requests": DRAINING}, "degraded", ["draining"]),
        ({"requests": STORE_FAULTS}, "degraded", ["requests-in-memory-only", "requests-lost"]),
        ({"requests": RequestFacts(capacity=64, depth=64)}, "degraded", ["queue-full"]),
        ({"requests": RequestFacts(capacity=64, depth=63)}, "ok", []),
        ({"alarms": {"throttled": "warning"}}, "degraded", ["throttled"]),
        ({"requests": DRAINING, "alarms": {"disk-low": "critical"}}, "critical", ["disk-low", "draining"]),
        ({"reading": BoardReading(errors=OFF)}, "degraded", ["sensor-errors"]),
        ({"reading": BoardReading(errors=OFF, unavailable=frozenset(OFF))}, "ok", []),
    ],
)
def test_each_fault_is_a_reason_and_a_sensor_that_is_off_is_none(
    fields: dict[str, Any], overall: str, why: list[str]
) -> None:
    document = health(**fields)
    assert (document["overall"], document["reasons"]) == (overall, why)
    assert {name for name, severity in document["severity"].items() if severity} == set(why)
    assert ["ok", "degraded", "critical"][max(document["severity"].values())] == overall
    assert document["sensor_errors"] == fields.get("reading", BoardReading()).errors


def test_limits_are_published_with_their_reason() -> None:
    limits = Limits(
        level=Level.HOT, reason="the SoC is near its limit of 80 °C", causes=(LimitCause.OVERHEATED,), decode_threads=2
    )
    document = health(limits=limits)
    assert document["governor"] == {"level": "hot", "limits": {"decode_threads": 2}, "reason": limits.reason}
    assert (document["overall"], document["reasons"]) == ("degraded", ["limited"])
    assert health()["governor"] == {"level": "normal", "limits": {}, "reason": None}


def test_energy_comes_from_the_meter() -> None:
    meter = EnergyMeter()
    for at in range(3):
        meter.add(EnergySample(at, 4.0, busy_s=0.0, tokens=0, is_active=False))
    for at in range(3, 6):
        meter.add(EnergySample(at, 4.0 + 5.0, busy_s=at - 2.0, tokens=10 * at, is_active=True))
    power = health(energy=meter)["power"]
    assert (power["joules_total"], power["joules_per_token"]) == (32.5, pytest.approx(0.25, rel=0.02))


def test_the_pool_as_the_board_knows_it() -> None:
    assert health()["pool"] is None
    figures = {"waiting": 3, "places_of_all": 12, "dead_letters": 0}
    own = {"name": "pumps", "connected_s": 10.0, "places": 4}
    totals = {"claimed_total": 9, "given_back_total": 1, "repeated_total": 0, "per_minute": 8, "waited_ms": 12.0}
    assert health(pool=pool_facts())["pool"] == {**own, **totals, **figures}
    lost = health(pool=pool_facts(connected_s=None, queue=None))["pool"]
    assert lost == {**own, "connected_s": None, **totals, **dict.fromkeys(figures)}
