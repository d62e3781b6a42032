from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.tools.watch.documents import read_alarm, read_health, read_info, read_state
from tests.tools.watch import boards

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
REAL: dict[str, Any] = json.loads(boards.health())


def test_a_health_document_is_read_field_by_field() -> None:
    health = read_health(boards.health(3, thermal__throttled_now=True, thermal__causes=["thermal"]))
    assert (health.soc_c, health.limit_c, health.headroom_c) == (61.5, 85.0, 23.5)
    assert (health.is_throttled, health.throttle_causes, health.was_throttled) == (True, ("thermal",), False)
    assert (health.queue_depth, health.queue_capacity, health.decode_tok_s) == (2, 64, 11.4)
    assert (health.watts, health.watts_scope, health.governor_level) == (6.2, "board", "normal")
    assert health.computed_tokens_total == 3 * (1000 - 500 + 100)
    assert health.ts == boards.WALL


def test_what_is_null_stays_unknown() -> None:
    health = read_health(boards.nothing_known())
    assert health.soc_c is health.headroom_c is health.watts is health.decode_tok_s is None
    assert [health.is_throttled, health.is_undervolted, health.governor_level] == [None] * 3


@pytest.mark.parametrize("value", [1e300, -300, "hot", True, [61], {"c": 61}, 10**200])
def test_an_absurd_temperature_is_unknown(value: Any) -> None:
    assert read_health(boards.health(thermal__soc_c=value)).soc_c is None


@pytest.mark.parametrize("value", [-4, "2", None, 1e300, False])
def test_an_absurd_queue_is_unknown(value: Any) -> None:
    assert read_health(boards.health(queue__depth=value)).queue_depth is None


@pytest.mark.parametrize("value", ["yesterday", "2026-11-25T12:00:00", 5, None, "2026-13-45T99:00:00Z"])
def test_a_time_without_a_zone_or_sense_is_unknown(value: Any) -> None:
    assert read_health(boards.health(ts=value)).ts is None


@pytest.mark.parametrize("payload", [b"{", b"\xff\xfe", b"[]", b'"online"', b"42", b'{"a":NaN}', b" " * 2_000_000])
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    for read in (read_state, read_health, read_alarm, read_info):
        with pytest.raises(ValueError):
            read(payload)


def test_a_state_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="online, draining, stopped or offline"):
        read_state(boards.state("fine"))


def test_an_alarm_of_no_known_severity_is_taken_as_the_worse_one() -> None:
    assert read_alarm(boards.alarm("x", severity="mild")).severity == "critical"


def test_texts_and_lists_are_bounded() -> None:
    health = read_health(boards.health(reasons=["x" * 10_000] * 50))
    assert len(health.reasons) <= 20
    assert len(health.reasons[0]) <= 300


FIELDS = [
    (table, field) for table, fields in REAL.items() for field in (fields if isinstance(fields, dict) else [None])
]


@given(value=JSON, place=st.sampled_from(FIELDS))
def test_no_value_of_any_field_raises_more_than_its_reason(value: Any, place: tuple[str, str | None]) -> None:
    table, field = place
    document = {**REAL, table: value if field is None else {**REAL[table], field: value}}
    with contextlib.suppress(ValueError):
        read_health(json.dumps(document).encode())


@given(payload=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    for read in (read_state, read_health, read_alarm, read_info):
        with contextlib.suppress(ValueError):
            read(payload)
