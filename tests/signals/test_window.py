import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.signals.machine import Track
from edge_agent.signals.window import BUCKETS, Window
from tests.signals import reference
from tests.signals.reference import Sample

START = 1.8e9


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Sample], float]:
    gaps = draw(st.lists(st.sampled_from([0.0, 0.3, 1.0, 7.0, 10.0, 65.5, 400.0, 5000.0]), min_size=1, max_size=40))
    values = st.one_of(st.none(), st.sampled_from([-3.0, 0.0, 2.5, 1e6, 1e6 + 0.25]), st.floats(-1000, 1000))
    samples, now = [], START + draw(st.floats(0, 100))
    for gap in gaps:
        now += gap
        samples.append(Sample(now, draw(values)))
    return samples, now + draw(st.floats(0, 700))


@given(histories(), st.sampled_from([60.0, 600.0, 90.0]), st.sampled_from([20.0, 600.0, math.inf]))
@settings(max_examples=400, deadline=None)
def test_features_equal_those_of_all_held_samples(
    history: tuple[list[Sample], float], window_s: float, max_age_s: float
) -> None:
    samples, now = history
    track = Track(window_s, max_age_s)
    for sample in samples:
        track.receive(sample.value, sample.at)
    track.settle(now)
    expected = reference.features(samples, now, window_s=window_s, max_age_s=max_age_s)
    actual = track.window.features(now)
    for name, figure in expected.items():
        known = actual[name]
        if figure is None or known is None:
            # One of both may see a hold of a nanosecond.
            assert figure is known or name == "slope", name
        else:
            largest = max((abs(s.value) for s in samples if s.value is not None), default=0.0)
            scale = max(abs(figure), 1e-3 * largest)
            if name == "slope":  # The edges of its buckets are rounded, and all of a value may change within a bucket.
                scale = max(largest, 1.0) * 60 * BUCKETS / window_s
            assert known == pytest.approx(figure, abs=1e-6 * max(scale, 1.0)), name


def test_the_mean_of_a_value_that_is_reported_on_change_is_weighted_by_time() -> None:
    track = Track(600.0, math.inf)
    track.receive(50.0, START)
    track.receive(80.0, START + 540)
    track.receive(80.0, START + 541)
    track.settle(START + 600)
    mean = track.window.features(START + 600)["mean"]
    assert mean is not None
    assert 52 < mean < 54


def test_a_spike_between_two_messages_of_one_moment_is_the_maximum() -> None:
    track = Track(600.0, math.inf)
    for value in (1.0, 99.0, 1.0):
        track.receive(value, START)
    track.settle(START + 5)
    assert track.window.features(START + 5)["max"] == 99.0


@given(st.floats(-1e6, 1e6), st.lists(st.floats(0.001, 30), min_size=2, max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_value_that_does_not_change_has_no_spread_and_no_slope(value: float, gaps: list[float]) -> None:
    track, now = Track(60.0, math.inf), START
    for gap in gaps:
        now += gap
        track.receive(value, now)
    features = track.window.features(now)
    assert (features["mean"], features["std"]) == (value, 0)
    assert features["slope"] in {None, 0}


def test_values_that_have_left_the_window_are_forgotten() -> None:
    window = Window(60.0)
    window.hold(5.0, START, START + 10)
    assert window.features(START + 59)["mean"] == 5.0
    assert window.features(START + 10 + 60)["mean"] is None
    assert window.coverage(START + 200) == 0.0


def test_coverage_is_the_share_of_the_window_that_is_known() -> None:
    window = Window(60.0)
    window.hold(5.0, START + 30, START + 60)
    assert window.coverage(START + 60) == pytest.approx(30 / 59, abs=0.02)


def test_a_window_takes_three_and_a_half_kilobytes_however_many_values_come() -> None:
    window = Window(600.0)
    for number in range(10_000):
        window.hold(float(number), START + number, START + number + 1)
        window.sample(float(number), START + number)
    assert sum(column.itemsize * len(column) for column in window.columns) <= 3500
    assert window.features(START + 10_000)["count"] is not None
    assert len(window.columns[0]) == BUCKETS
