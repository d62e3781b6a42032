from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.requests.statistics import percentile


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([50, 95, 99]))
def test_a_percentile_is_not_exceeded_by_that_share_of_the_values(values: list[float], percent: int) -> None:
    assert percentile([], percent) is None
    found = percentile(values, percent)
    assert found is not None
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)
