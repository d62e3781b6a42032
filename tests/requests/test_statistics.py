from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.messages import Code, Error, Outcome, Status, Timing
from edge_agent.requests.statistics import WINDOW, Statistics, percentile


def answer(total_ms: float, queued_ms: float = 1.0) -> Outcome:
    return Outcome(status=Status.OK, timing=Timing(total_ms=total_ms, queued_ms=queued_ms))


@pytest.mark.parametrize(
    ("values", "percent", "value"),
    [([], 50, None), ([7.0], 1, 7.0), ([7.0], 99, 7.0), ([3.0, 1.0, 2.0], 50, 2.0), ([1.0, 2.0], 50, 1.0)],
)
def test_percentiles_are_values_that_occurred(values: list[float], percent: int, value: float | None) -> None:
    assert percentile(values, percent) == value


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([50, 95, 99]))
def test_a_percentile_is_not_exceeded_by_that_share_of_the_values(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found is not None
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def test_each_end_is_counted_where_it_belongs() -> None:
    statistics = Statistics()
    refusals = (Code.QUEUE_FULL, Code.DEADLINE_UNREACHABLE, Code.DRAINING, Code.LOADING)
    for code in (*refusals, Code.DEADLINE, Code.INTERNAL, Code.BAD_FIELD, Code.CANCELLED):
        statistics.count(Outcome.refused(Error(code=code, message="m")))
    statistics.count(answer(100.0))
    totals = statistics.totals
    assert totals.requests_total == 9
    assert (totals.rejected_total, totals.expired_total, totals.failed_total) == (4, 1, 1)
    assert totals.overloaded_total == 2


def test_percentiles_are_of_the_latest_answers() -> None:
    statistics = Statistics()
    for number in range(WINDOW + 100):
        statistics.count(answer(0.0 if number < 100 else 7.0, queued_ms=3.0))
    facts = statistics.facts(capacity=1)
    assert facts.latency_ms == {"p50": 7.0, "p95": 7.0, "p99": 7.0}
    assert facts.queued_ms == {"p50": 3.0, "p95": 3.0}


def test_refusals_are_no_latencies() -> None:
    statistics = Statistics()
    statistics.count(Outcome.refused(Error(code=Code.QUEUE_FULL, message="m"), Timing(total_ms=0.1)))
    assert statistics.facts(capacity=1).latency_ms == {"p50": None, "p95": None, "p99": None}


def test_facts_do_not_change_with_later_ends() -> None:
    statistics = Statistics()
    facts = statistics.facts(capacity=1)
    statistics.count(answer(1.0))
    assert facts.totals.requests_total == 0
