"""How many more right audits a promise takes, compared with the board's own search for a promise."""

from typing import Any

import pytest

from edge_agent.learning.maths.calibration import JudgedAnswer
from edge_agent.learning.maths.promise import find_promise
from edge_agent.web.promise import promises

TASK: dict[str, Any] = {"labels": ["a", "b"], "audit_rate": 0.1, "min_accuracy": 0.95, "confidence": 0.95}


def accuracy(asked: int, answered: int, right: int, **others: Any) -> dict[str, Any]:
    return {"asked": asked, "audits": answered, "accuracy": right / answered if answered else None, **others}


@pytest.mark.parametrize(("right", "answered"), [(0, 0), (30, 30), (30, 32), (58, 58), (90, 93)])
@pytest.mark.parametrize("target", [0.8, 0.9, 0.95])
def test_the_board_promises_with_that_many_more_and_not_with_one_fewer(
    right: int, answered: int, target: float
) -> None:
    (needed,) = promises({**TASK, "min_accuracy": target}, accuracy(answered, answered, right))
    for more, is_proven in ((needed["more"], True), (needed["more"] - 1, False)):
        # All with one score, because the page does not know them.
        audits = [JudgedAnswer(0.5, number < right + more) for number in range(answered + more)]
        if needed["more"] > 1 or is_proven:
            assert (find_promise(audits, [], target, 0.95) is not None) is is_proven


def test_a_promise_of_19_in_20_takes_59_right_audits_at_the_least() -> None:
    (needed,) = promises(TASK, accuracy(0, 0, 0, given=0.0))
    assert needed == {
        "asked": 0,
        "answered": 0,
        "right": 0,
        "wrong": 0,
        "newer": 0,
        "given": 0.0,
        "min_accuracy": 0.95,
        "target": 0.95,
        "more": 59,
        "words_key": "audits",
    }


def test_where_only_the_scores_are_in_the_way_no_number_is_said() -> None:
    # The board shares its level among several thresholds.
    (needed,) = promises(TASK, accuracy(59, 59, 59))
    assert (needed["more"], needed["words_key"]) == (1, "enough")


def test_without_a_promise_it_counts_to_two_usual_ones() -> None:
    needed = promises({**TASK, "min_accuracy": None}, accuracy(29, 29, 29))
    assert [(each["target"], each["more"], each["words_key"]) for each in needed] == [
        (0.9, 0, "proven"),
        (0.95, 30, "audits"),
    ]


def test_nine_of_ten_must_be_answered_and_an_open_one_counts_wherever_it_is_answered() -> None:
    # `edge-agent accuracy` says the same.
    (needed,) = promises(TASK, accuracy(80, 60, 60))
    assert (needed["more"], needed["words_key"]) == (12, "too_few_answered")


def test_where_too_many_answers_are_wrong_no_number_of_right_ones_is_asked_for() -> None:
    assert [promises(TASK, accuracy(100, 100, right))[0]["words_key"] for right in (92, 88)] == ["audits", "refuted"]


def test_audits_after_the_last_answered_one_do_not_count_yet() -> None:
    (counted,) = promises(TASK, accuracy(59, 59, 59))
    (waiting,) = promises(TASK, accuracy(79, 59, 59, missed=0))
    assert (waiting["more"], waiting["words_key"]) == (counted["more"], counted["words_key"])
    assert (counted["newer"], waiting["newer"]) == (0, 20)


def test_what_the_board_promises_takes_nothing() -> None:
    (needed,) = promises(TASK, accuracy(80, 60, 60, promised=0.95))
    assert (needed["more"], needed["words_key"]) == (0, "proven")


def test_rows_that_training_held_out_may_all_have_been_right() -> None:
    (needed,) = promises(TASK, accuracy(0, 0, 0, held_out=50))
    assert needed["more"] == 9


def test_rows_that_the_model_got_wrong_give_no_false_hope() -> None:
    known = {"held_out": 600, "held_out_right": 466, "missed": 0, "asked": 187, "audits": 0, "accuracy": None}
    (needed,) = promises({**TASK, "min_accuracy": 0.9}, known)
    assert needed["more"] > 700


def test_a_task_that_asks_nobody_says_so() -> None:
    (needed,) = promises({**TASK, "audit_rate": 0.0}, accuracy(0, 0, 0))
    assert needed["words_key"] == "not_asked"


@pytest.mark.parametrize(
    "faulty",
    [
        {},
        {"asked": 3, "audits": 4},
        {"asked": -1, "audits": -1},
        {"asked": 10**9, "audits": 10**9},
        {"asked": "3", "audits": None},
    ],
)
def test_figures_that_cannot_be_true_promise_nothing(faulty: dict[str, Any]) -> None:
    assert promises(TASK, faulty) == []


def test_a_share_that_cannot_be_true_is_unknown() -> None:
    (needed,) = promises(TASK, {"asked": 10, "audits": 10, "accuracy": 7.0})
    assert (needed["right"], needed["more"]) == (None, None)
