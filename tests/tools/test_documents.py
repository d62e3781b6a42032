from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.tools.documents import Alarm, Health, Info, StateDocument
from tests.tools.watch import boards

DOCUMENTS = (StateDocument, Health, Alarm, Info)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
REAL: dict[str, Any] = json.loads(boards.health())


def test_a_health_document_is_parsed_field_by_field() -> None:
    health = Health.parse(boards.health(3, thermal__throttled_now=True, thermal__causes=["thermal"]))
    thermal = health.thermal
    assert (thermal.soc_c, thermal.limit_c, thermal.headroom_c) == (61.5, 85.0, 23.5)
    assert (thermal.throttled_now, thermal.causes, thermal.throttled_since_boot) == (True, ("thermal",), False)
    assert (health.queue.depth, health.queue.capacity, health.inference.decode_tok_s) == (2, 64, 11.4)
    assert (health.power.watts, health.power.scope, health.governor.level) == (6.2, "board", "normal")
    assert health.inference.latency_ms.p95 == 840.0
    assert health.ts == boards.WALL


def test_null_stays_unknown() -> None:
    health = Health.parse(boards.nothing_known())
    assert health.thermal.soc_c is health.thermal.headroom_c is health.power.watts is None
    assert [health.thermal.throttled_now, health.power.undervoltage_now, health.governor.level] == [None] * 3


@pytest.mark.parametrize("value", [1e300, -300, "hot", True, [61], {"c": 61}, 10**200])
def test_an_absurd_temperature_is_unknown(value: Any) -> None:
    assert Health.parse(boards.health(thermal__soc_c=value)).thermal.soc_c is None


@pytest.mark.parametrize("value", [-4, "2", None, 1e300, False])
def test_an_absurd_queue_is_unknown(value: Any) -> None:
    assert Health.parse(boards.health(queue__depth=value)).queue.depth is None


@pytest.mark.parametrize("value", ["yesterday", "2026-11-25T12:00:00", 5, None, "2026-13-45T99:00:00Z"])
def test_a_time_without_a_zone_or_sense_is_unknown(value: Any) -> None:
    assert Health.parse(boards.health(ts=value)).ts is None


@pytest.mark.parametrize("payload", [b"{", b"\xff\xfe", b"[]", b'"online"', b"42", b'{"a":NaN}', b" " * 2_000_000])
def test_a_payload_that_is_no_json_object_is_refused(payload: bytes) -> None:
    for document in DOCUMENTS:
        with pytest.raises(ValueError):
            document.parse(payload)


def test_a_state_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state: should be 'online', 'draining', 'stopped' or 'offline' \(got"):
        StateDocument.parse(boards.state("fine"))


def test_an_alarm_of_unknown_severity_counts_as_critical() -> None:
    assert Alarm.parse(boards.alarm("x", severity="mild")).severity == "critical"


def test_texts_and_lists_are_bounded() -> None:
    health = Health.parse(boards.health(reasons=["x" * 10_000] * 50))
    assert len(health.reasons) <= 20
    assert len(health.reasons[0]) <= 300


FIELDS = [
    (table, field) for table, fields in REAL.items() for field in (fields if isinstance(fields, dict) else [None])
]


@given(value=JSON, place=st.sampled_from(FIELDS))
def test_a_wrong_value_costs_at_most_its_field(value: Any, place: tuple[str, str | None]) -> None:
    table, field = place
    document = {**REAL, table: value if field is None else {**REAL[table], field: value}}
    with contextlib.suppress(ValueError):
        Health.parse(json.dumps(document).encode())


@given(payload=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_payload_is_parsed_or_refused(payload: bytes) -> None:
    for document in DOCUMENTS:
        with contextlib.suppress(ValueError):
            document.parse(payload)
