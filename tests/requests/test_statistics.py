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
    for code in (Code.QUEUE_FULL, Code.DRAINING, Code.DEADLINE, Code.INTERNAL, Code.BAD_FIELD, Code.CANCELLED):
        statistics.count(Outcome.refused(Error(code=code, message="m")))
    statistics.count(answer(100.0))
    assert statistics.requests_total == 7
    assert (statistics.rejected_total, statistics.expired_total, statistics.failed_total) == (2, 1, 1)


def test_refusals_for_overload_are_counted_apart() -> None:
    statistics = Statistics()
    for code in (Code.QUEUE_FULL, Code.DEADLINE_UNREACHABLE, Code.DRAINING, Code.LOADING, Code.DEADLINE):
        statistics.count(Outcome.refused(Error(code=code, message="m")))
    statistics.count(answer(100.0))
    assert statistics.overloaded_total == 2


def test_latencies_are_those_of_the_latest_answers() -> None:
    statistics = Statistics()
    for number in range(WINDOW + 10):
        statistics.count(answer(float(number), queued_ms=float(number) / 2))
    assert min(statistics.latency_ms) == 10.0
    assert max(statistics.queued_ms) == (WINDOW + 9) / 2


def test_refusals_do_not_flatter_the_latencies() -> None:
    statistics = Statistics()
    statistics.count(Outcome.refused(Error(code=Code.QUEUE_FULL, message="m"), Timing(total_ms=0.1)))
    assert not statistics.latency_ms
