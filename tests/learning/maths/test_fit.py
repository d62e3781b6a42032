import subprocess
import sys

import numpy as np
import pytest

from edge_agent.core.environment import child_environment, library_environment
from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.maths.assessment import LabelledScores
from edge_agent.learning.maths.fit import MIN_ROWS, better_map, fit

LABELS = tuple("abcd")


def feedback(
    count: int, *, scale: float = 1.0, biases: tuple[float, ...] = (0.0,) * 4, seed: int = 0
) -> list[LabelledScores]:
    """Rows of a task whose true log scores are distorted."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, len(biases)))
    right = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).tolist()
    raw = np.exp(logits * scale + biases)
    raw /= raw.sum(axis=1, keepdims=True)
    labels = [f"{number}" for number in range(len(biases))] if len(biases) > 4 else LABELS
    return [(dict(zip(labels, row, strict=True)), labels[at]) for row, at in zip(raw.tolist(), right, strict=True)]


def accuracy(of: ScoreMap, rows: list[LabelledScores]) -> float:
    return float(np.mean([max(mapped, key=mapped.__getitem__) == right for mapped, right in applied(of, rows)]))


def log_loss(of: ScoreMap, rows: list[LabelledScores]) -> float:
    return -float(np.mean([np.log(mapped[right]) for mapped, right in applied(of, rows)]))


def applied(of: ScoreMap, rows: list[LabelledScores]) -> list[tuple[dict[str, float], str]]:
    return [(of.apply(scores), right) for scores, right in rows]


IDENTITY = ScoreMap.identity(LABELS)
BIASED = (3.0, 0.0, -1.0, 0.0)


def test_a_fit_undoes_a_temperature_and_biases() -> None:
    fitted = fit(feedback(2000, scale=2.0, biases=BIASED), IDENTITY)
    assert fitted.scales == pytest.approx((0.5,) * 4, abs=0.07)
    assert np.subtract(fitted.biases, fitted.biases[1]) == pytest.approx((-1.5, 0, 0.5, 0), abs=0.3)


def test_a_fit_gives_each_label_a_scale_where_rows_suffice() -> None:
    rows = feedback(2000)
    bent = [({**scores, "a": scores["a"] ** 0.3}, right) for scores, right in rows]
    fitted = fit(bent, IDENTITY)
    assert fitted.scales[0] > 2 * max(fitted.scales[1:])


def test_few_rows_leave_a_fit_nearer_to_its_start() -> None:
    start = ScoreMap.dividing_by({"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1})
    few, many = (fit(feedback(count, biases=(9.0, 0.0, 0.0, 0.0)), start) for count in (8, 800))
    moved = [np.ptp(np.subtract(one.biases, start.biases)) for one in (few, many)]
    assert 0 < 2 * moved[0] < moved[1]


def test_a_better_map_is_right_more_often_on_new_answers() -> None:
    better = better_map(feedback(200, scale=1.5, biases=BIASED), IDENTITY, IDENTITY)
    new = feedback(2000, scale=1.5, biases=BIASED, seed=1)
    assert better is not None
    assert accuracy(better, new) > accuracy(IDENTITY, new) + 0.03
    assert log_loss(better, new) < log_loss(IDENTITY, new)


def test_scores_that_are_only_too_sure_get_a_temperature_which_changes_no_answer() -> None:
    better = better_map(feedback(200, scale=3.0), IDENTITY, IDENTITY)
    assert better is not None
    assert better.biases == (0.0,) * 4
    assert better.scales == pytest.approx((1 / 3,) * 4, abs=0.1)


def test_scores_that_are_calibrated_keep_their_map() -> None:
    rows = [feedback(50, seed=seed) for seed in range(6)]
    assert [better_map(one, IDENTITY, IDENTITY) for one in rows] == [None] * 6


def test_a_scale_does_not_turn_round() -> None:
    """It does not, though feedback on wrong answers alone asks for it."""
    shares = np.random.default_rng(0).uniform(0.6, 0.99, 50).tolist()
    rows = [({"a": share, "b": 1 - share}, "b") for share in shares]
    rows += [({"a": 1 - share, "b": share}, "a") for share in shares]
    fitted = fit(rows, ScoreMap.identity(("a", "b")))
    assert fitted.scales == pytest.approx((0.05, 0.05))


def test_a_map_that_is_in_force_is_not_replaced_by_its_like() -> None:
    rows = feedback(300, scale=1.5, biases=BIASED)
    assert better_map(rows, fit(rows, IDENTITY), IDENTITY) is None


def test_too_few_rows_or_labels_prove_nothing() -> None:
    rows = feedback(MIN_ROWS - 1, scale=3.0, biases=BIASED)
    assert better_map(rows, IDENTITY, IDENTITY) is None
    only = ScoreMap.identity(("a",))
    assert better_map([({"a": 1.0}, "a")] * 50, only, only) is None


def test_rows_that_never_vary_are_no_error() -> None:
    assert better_map([({"a": 1.0, "b": 0.0}, "a")] * 50, *[ScoreMap.identity(("a", "b"))] * 2) is None


def test_other_labels_are_refused() -> None:
    for row in (({"a": 1.0}, "a"), (dict.fromkeys(LABELS, 0.25), "e")):
        with pytest.raises(ValueError, match="not those of the score map"):
            fit([row], IDENTITY)
    with pytest.raises(ValueError, match="different labels"):
        better_map(feedback(50), IDENTITY, ScoreMap.identity(("a", "b")))


def test_a_fit_of_200_labels_to_500_rows_takes_less_than_a_second() -> None:
    timing = (
        "import time, numpy as np; from edge_agent.learning.maths.fit import ScoreMap, fit;"
        "rng = np.random.default_rng(0); names = [str(one) for one in range(200)];"
        "rows = [(dict(zip(names, row)), names[row.argmax()]) for row in rng.dirichlet([.1] * 200, 500)];"
        "start = time.process_time(); fit(rows, ScoreMap.identity(names)); print(time.process_time() - start)"
    )
    environment = {**child_environment(), **library_environment()}
    ran = subprocess.run([sys.executable, "-c", timing], env=environment, check=True, capture_output=True, timeout=60)
    assert float(ran.stdout) < 1
