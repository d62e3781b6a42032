"""The kind `estimate`: from the chances of ranges to a number and an interval."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.core.kinds.estimate import EstimateTask, level_of, quantile, ranges_of
from edge_agent.core.pipe import Finish, Finished, OddField
from edge_agent.gguf.field_table import NumberBins
from tests.helpers.support import finished

SCORES = {"0.0..10.0": 0.1, "10.0..20.0": 0.4, "20.0..40.0": 0.4, "40.0..90.0": 0.1}


def task(**keys: object) -> EstimateTask:
    return EstimateTask.model_validate({"kind": "estimate", **keys})


def answer(unlike: float | None = None) -> Finished:
    return finished(1, finish=Finish.MODEL, text=None, scores=SCORES, unlike=unlike)


def test_the_number_is_the_median_and_the_interval_leaves_as_much_on_either_side() -> None:
    assert task().output_of(answer()) == 20
    assert task().reply_fields(answer()) == {"interval": [10, 40]}
    assert task(confidence=0.9).interval_of(SCORES) == [5, 65]


def test_numbers_have_no_more_digits_than_their_range_warrants() -> None:
    assert quantile([(0.0, 700.0, 0.3), (700.0, 1000.0, 0.7)], 0.5) == 785.7
    assert quantile([(1e9, 1e9 + 2, 0.7), (1e9 + 2, 1e9 + 3, 0.3)], 0.5) == 1e9 + 1.429


def test_a_rounded_number_stays_in_its_range() -> None:
    """Otherwise the lower end of an interval may be above its upper one."""
    ranges = {"0.4..1500.6": 0.25001, "1500.6..1500.7": 0.74999}
    low, high = task(confidence=0.5).interval_of(ranges)
    assert low <= high


def test_an_input_unlike_training_has_no_interval() -> None:
    assert task().reply_fields(answer(unlike=1.0)) == {"interval": None}


def test_an_input_with_an_odd_field_has_no_interval_unless_it_is_to_be_answered() -> None:
    odd = OddField(field="rms", value=1e9, why="out-of-range", usual=(0.1, 4.0))
    event = finished(1, finish=Finish.MODEL, text=None, scores=SCORES, odd_fields=(odd,))
    assert task().reply_fields(event) == {"interval": None}
    assert task(outside="answer").reply_fields(event) == {"interval": [10, 40]}


def test_the_limits_of_the_task_bound_all_three_numbers() -> None:
    assert task(minimum=25, maximum=30).output_of(answer()) == 25
    assert task(minimum=12, maximum=30).interval_of(SCORES) == [12, 30]
    with pytest.raises(ValidationError, match="should be greater than `minimum`"):
        task(minimum=3, maximum=3)


@pytest.mark.parametrize(
    ("given_answer", "fault"),
    [
        (12, None),
        ("12.5", None),
        (-1, "answer: should be a number at least 0 and at most 90 (got -1)"),
        ("soon", 'answer: should be a number at least 0 and at most 90 (got "soon")'),
        (True, "answer: should be a number at least 0 and at most 90 (got true)"),
    ],
)
def test_a_row_has_a_number_within_the_limits(given_answer: object, fault: str | None) -> None:
    assert task(minimum=0, maximum=90).row_fault(given_answer) == fault


def test_right_is_within_the_tolerance() -> None:
    assert [task().is_right(output, "100") for output in (80, 120, 79, None)] == [True, True, False, False]
    assert [task(tolerance=2).is_right(output, 100) for output in (98, 97)] == [True, False]


@given(
    st.lists(st.integers(1, 1000), min_size=2, max_size=40),
    st.lists(st.integers(1, 1000), min_size=40, max_size=40),
    st.floats(0.01, 0.99),
)
def test_a_quantile_has_its_share_below(widths: list[int], weights: list[int], share: float) -> None:
    weights = weights[: len(widths)]
    scores = {
        f"{float(start)}..{float(end)}": weight / sum(weights)
        for (start, end), weight in zip(pairwise(accumulate(widths, initial=-500)), weights, strict=True)
    }
    ranges = ranges_of(scores)
    assert level_of(ranges, quantile(ranges, share)) == pytest.approx(share, abs=2e-3)


def test_levels_move_the_chances_to_what_held_out_answers_showed() -> None:
    chances = [0.1, 0.4, 0.4, 0.1]
    edges = (0.0, 10.0, 20.0, 40.0, 90.0)
    assert NumberBins(edges=edges).corrected(chances) == pytest.approx(SCORES)
    # Half of the answers lay in the middle fifth, so the model is not sure enough, and its intervals get narrower.
    sure = NumberBins(edges=edges, levels=(0.0, 0.4, 0.5, 0.6, 1.0)).corrected(chances)
    assert sum(sure.values()) == pytest.approx(1)
    assert list(sure.values()) == pytest.approx([0.0625, 0.4375, 0.4375, 0.0625])
