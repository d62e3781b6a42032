from __future__ import annotations

import pytest

from edge_agent.accuracy.score_map import ScoreMap


def test_scores_are_divided_by_the_prior() -> None:
    found = ScoreMap.dividing_by({"a": 0.8, "b": 0.2}).apply({"a": 0.6, "b": 0.4})
    weights = {"a": 0.6 / 0.8**0.75, "b": 0.4 / 0.2**0.75}
    assert found == pytest.approx({label: weight / sum(weights.values()) for label, weight in weights.items()})


def test_the_identity_changes_nothing() -> None:
    scores = {"a": 0.25, "b": 0.75}
    assert ScoreMap.identity(("b", "a")).apply(scores) == pytest.approx(scores)


def test_the_answer_keeps_the_order_of_the_scores_and_sums_to_1() -> None:
    found = ScoreMap(("b", "a", "c"), (0.5, 2.0, 1.0), (1.0, -1.0, 0.0)).apply({"a": 0.0, "c": 1.0, "b": 0.0})
    assert list(found) == ["a", "c", "b"]
    assert sum(found.values()) == pytest.approx(1)
