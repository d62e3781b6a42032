import json

import pytest

from edge_agent.core.score_map import ScoreMap

SCORES = {"ok": 0.9, "warm": 0.1, "hot": 0.0}


def test_the_identity_leaves_scores_as_they_are_in_their_order() -> None:
    mapped = ScoreMap.identity(("hot", "ok", "warm")).apply(SCORES)
    assert list(mapped) == list(SCORES)
    assert mapped == pytest.approx(SCORES, abs=1e-8)


def test_a_smoothed_prior_is_divided_out() -> None:
    mapped = ScoreMap.dividing_by({"ok": 0.75, "hot": 0.25}).apply({"ok": 0.6, "hot": 0.4})
    weights = {"ok": 0.6 / 0.7, "hot": 0.4 / 0.3}
    assert mapped == pytest.approx({label: weight / sum(weights.values()) for label, weight in weights.items()})


def test_a_scale_is_a_power_and_zero_can_be_lifted() -> None:
    mapped = ScoreMap(("ok", "hot"), (2.0, 2.0), (0.0, 0.0)).apply({"ok": 0.75, "hot": 0.25})
    assert mapped == pytest.approx({"ok": 0.9, "hot": 0.1})
    lifted = ScoreMap(("ok", "hot"), (1.0, 1.0), (0.0, 30.0)).apply({"ok": 1.0, "hot": 0.0})
    assert lifted["hot"] > 0.9


def test_extreme_maps_still_give_chances() -> None:
    mapped = ScoreMap(("ok", "hot"), (1e6, -1e6), (1e6, -1e6)).apply({"ok": 0.0, "hot": 1.0})
    assert sum(mapped.values()) == pytest.approx(1)


def test_other_labels_are_refused() -> None:
    one = ScoreMap.identity(("ok", "hot"))
    for scores in ({"ok": 1.0}, {"ok": 0.5, "cold": 0.5}, SCORES):
        with pytest.raises(ValueError, match="not those of the score map"):
            one.apply(scores)


def test_json_brings_the_map_back_in_the_order_of_the_task() -> None:
    one = ScoreMap(("ok", "hot"), (0.5, 1.5), (-1.0, 2.0))
    value = json.loads(json.dumps(one.to_json()))
    assert ScoreMap.from_json(value, ("ok", "hot")) == one
    assert ScoreMap.from_json(value, ("hot", "ok")).biases == (2.0, -1.0)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"ok": [1, 0]},
        {"ok": [1, 0], "cold": [1, 0]},
        {"ok": [1, 0], "hot": [1]},
        {"ok": [1, 0], "hot": [1, True]},
        {"ok": [1, 0], "hot": [1, "0"]},
        {"ok": [1, 0], "hot": [1, float("nan")]},
        {"ok": [1, 0], "hot": [float("-inf"), 0]},
        {"ok": [1, 0], "hot": [10**400, 0]},
    ],
)
def test_json_that_is_no_map_of_the_task_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="score map"):
        ScoreMap.from_json(value, ("ok", "hot"))


@pytest.mark.parametrize(("labels", "scales"), [((), ()), (("ok", "ok"), (1.0, 1.0)), (("ok", "hot"), (1.0,))])
def test_maps_that_do_not_fit_together_are_refused(labels: tuple[str, ...], scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="score map"):
        ScoreMap(labels, scales, (0.0,) * len(labels))
