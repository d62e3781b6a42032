from random import Random

import pytest

from edge_agent.learning.maths.calibration import JudgedAnswer
from edge_agent.learning.maths.promise import Promise, find_promise


def answers(count: int, *, seed: int = 0) -> list[float]:
    random = Random(seed)
    return [random.random() for _ in range(count)]


@pytest.mark.parametrize(("audits", "is_enough"), [(58, False), (59, True)])
def test_59_right_audits_of_59_prove_95_percent(audits: int, *, is_enough: bool) -> None:
    promise = find_promise([JudgedAnswer(0.5, is_right=True)] * audits, [0.5] * 100, 0.95, 0.95)
    assert (promise is not None) == is_enough


@pytest.mark.parametrize("unlabelled", [answers(400, seed=1), answers(10), []])
def test_the_threshold_stands_where_answers_become_wrong(unlabelled: list[float]) -> None:
    audits = [JudgedAnswer(score, score > 0.55) for score in answers(600)]
    promise = find_promise(audits, unlabelled, 0.95, 0.95)
    assert promise is not None
    assert 0.5 < promise.threshold < 0.65
    assert promise.coverage == pytest.approx(1 - promise.threshold, abs=0.05)


def test_answers_that_are_all_right_are_all_covered() -> None:
    promise = find_promise(
        [JudgedAnswer(score, is_right=True) for score in answers(200)], answers(200, seed=1), 0.95, 0.95
    )
    assert promise == Promise(0.0, 1.0)


def test_equal_confidences_are_judged_together() -> None:
    """A threshold cannot let only some of them through."""
    audits = [
        JudgedAnswer(score, is_right) for score, is_right in [(0.9, True)] * 100 + [(0.8, True), (0.8, False)] * 50
    ]
    promise = find_promise(audits, [0.9, 0.8] * 50, 0.9, 0.95)
    assert promise is not None
    assert (promise.threshold, promise.coverage) == (0.9, 0.5)
    assert find_promise([JudgedAnswer(0.9, number % 5 > 0) for number in range(200)], [0.9] * 100, 0.9, 0.95) is None


def test_a_wrong_top_does_not_end_the_search_of_a_large_sample() -> None:
    audits = [JudgedAnswer(score, score < 0.98) for score in answers(2000)]
    promise = find_promise(audits, answers(400, seed=1), 0.9, 0.95)
    assert promise is not None
    assert promise.threshold < 0.5


def test_no_audits_prove_nothing() -> None:
    assert find_promise([], answers(100), 0.9, 0.95) is None


@pytest.mark.parametrize(("accuracy", "confidence"), [(0, 0.95), (1, 0.95), (0.9, 0), (0.9, 1)])
def test_targets_that_no_sample_can_prove_are_refused(accuracy: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        find_promise([], [], accuracy, confidence)
